--- A call returns a future: it can be asked, awaited as often as you like, and by as many as like.
--[[ Output:
future: io answer running
false	running	true
first	42
second	42
third	42
true	done
future: io answer done
false	timeout: the future was not settled in time
false	running
]]
local unsync = require("unsync")

local gate = unsync.promise()
local answer = unsync.io(function() return gate:await() end, { name = "answer" })

local future = answer()
print((tostring(future):gsub(" [%d.]+ s$", "")))
print(future:done(), future:status(), unsync.is_future(future))

for _, name in ipairs({ "first", "second", "third" }) do
  unsync.spawn(function() print(name, future:await()) end)
end
gate:resolve(42)
future:await() -- `result` is the same verb under another name
print(future:done(), future:status())
print(future)

-- A limit on the wait leaves the work alone.
local late = unsync.spawn(unsync.sleep, 0.1)
print(pcall(late.await, late, 0.01))
print(late:done(), late:status())
