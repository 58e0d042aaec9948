-- 100,000 tasks asleep for 1 s: the seconds beyond that one. ARG "memory": KiB a task, from the peak of the process.
local unsync = require "unsync"

local TASKS = 100000
local sleep = unsync.sleep
local task = unsync.io(function() sleep(1) end)

-- A field of /proc/self/status, in KiB.
local function status(field)
  for line in io.lines "/proc/self/status" do
    local value = line:match("^" .. field .. ":%s*(%d+)")
    if value then return tonumber(value) end
  end
end

local futures = {}
local before = status "VmRSS"
local from = unsync.now()
for i = 1, TASKS do futures[i] = task() end
for i = 1, TASKS do futures[i]:await() end
local over = unsync.now() - from - 1
print(arg[1] == "memory" and (status "VmHWM" - before) / TASKS or over)
