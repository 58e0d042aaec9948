--- A call can be told to stop, or not to take longer than that: whatever it does, wherever it runs.
--[[ Output:
thread	false	timeout: search did not end in time
cpu	false	timeout: search did not end in time
true	true
false	endless was cancelled: enough
cancelled	true
cleared away
false	io was cancelled
false	timeout: the block did not end in time
]]
local unsync = require("unsync")

local function forever()
  while true do end
end

-- A limit in the declaration.
for _, kind in ipairs({ "thread", "cpu" }) do
  local search = unsync[kind](forever, { name = "search", timeout = 0.1 })
  print(kind, pcall(function() return search():await() end))
end

-- One by hand.
local endless = unsync.cpu(forever, { name = "endless" })()
print(endless:cancel("enough"), endless:cancel())
print(pcall(endless.await, endless))
print(endless:status(), endless:cancelled())

-- Whoever waits is told at the wait; what it leaves behind is cleared away first.
local task = unsync.spawn(function()
  local _ <close> = setmetatable({}, { __close = function() print("cleared away") end })
  unsync.promise():await()
end)
task:cancel()
print(pcall(task.await, task))

-- A limit on a piece of work that is right here.
print(pcall(unsync.timeout, 0.01, function() unsync.promise():await() end))
