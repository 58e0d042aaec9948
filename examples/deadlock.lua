--- A wait that can never end is an error that says so, not a hang.
--[[ Output:
deadlock
in a circle: deadlock
]]
local unsync = require("unsync")

local nobody = unsync.promise() -- which nobody will settle
print(select(2, pcall(nobody.await, nobody)).code)

-- Each waits for the other.
local gate = unsync.promise()
local a, b
a = unsync.spawn(function() gate:await() return b:await() end)
b = unsync.spawn(function() return a:await() end)
gate:resolve()
print(a:catch(function(err) return "in a circle: " .. err.code end):await())
