--- all, settled, any and race make one future of many, whatever is behind them.
--[[ Output:
2	8	number 4	as it is
false	3 is odd
failed	3 is odd
done	6
4
all_failed	1 is odd, 5 is odd
42
]]
local unsync = require("unsync")

local half = unsync.cpu(function(n)
  if n % 2 ~= 0 then error(n .. " is odd", 0) end
  return n // 2
end)
local double = unsync.thread(function(n) return 2 * n end)
local name = unsync.io(function(n) return "number " .. n end)

local results = unsync.all({ half(4), double(4), name(4), unsync.resolved("as it is") }):await()
print(table.unpack(results))

print(pcall(function() return unsync.all({ half(3), double(3) }):await() end))

for _, future in ipairs(unsync.settled({ half(3), double(3) }):await()) do
  print(future:status(), future:error() or future:await())
end

print(unsync.any({ half(1), half(5), half(8) }):await())
print(unsync.any({ half(1), half(5) }):catch(function(err) return err.code, table.concat(err.errors, ", ") end):await())
print(unsync.race({ unsync.promise(), double(21) }):await())
