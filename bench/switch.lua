-- Nanoseconds for one switch: 100 tasks that yield in turn.
local unsync = require "unsync"

local TASKS, TURNS = 100, 20000
local yield = unsync.yield
local task = unsync.io(function()
  for _ = 1, TURNS do yield() end
end)

local from = os.clock()
local futures = {}
for i = 1, TASKS do futures[i] = task() end
for i = 1, TASKS do futures[i]:await() end
print((os.clock() - from) / (TASKS * TURNS) * 1e9)
