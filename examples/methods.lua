--- Wrapped functions are ordinary values: fields, methods, arguments, upvalues.
--[[ Output:
120	150	150
Ada will have 244.33
]]
local unsync = require("unsync")

local Account = {}
Account.__index = Account

function Account.new(owner, balance) return setmetatable({ owner = owner, balance = balance }, Account) end

-- An io method has the object itself.
Account.deposit = unsync.io(function(self, amount)
  unsync.yield()
  self.balance = self.balance + amount
  return self.balance
end)

-- A thread or a process has a copy of what it is given: it returns what it finds out.
Account.forecast = unsync.cpu(function(self, years, rate)
  local balance = self.balance
  for _ = 1, years do balance = balance * (1 + rate) end
  return ("%s will have %.2f"):format(self.owner, balance)
end)

local account = Account.new("Ada", 100)
local first, second = account:deposit(20), account:deposit(30)
print(first:await(), second:await(), account.balance)
print(account:forecast(10, 0.05):await())
