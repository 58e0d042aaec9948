-- mixed.lua together: seconds for three lanes at once: tasks that sleep, threads that block, a process that computes.
-- mixed.lua longest: the longest of the three, each by itself.
local unsync = require "unsync"

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end

local nap = unsync.io(function()
  for _ = 1, 10 do unsync.sleep(0.05) end
end)
local block = unsync.thread(function(seconds) require("socket").sleep(seconds) end)
local compute = unsync.cpu(fib, { limit = 1 })

-- Each starts `n` calls and returns their futures.
local function start(call, n, ...)
  local futures = {}
  for i = 1, n do futures[i] = call(...) end
  return futures
end
local lanes = {
  function() return start(nap, 100) end,
  function() return start(block, 8, 0.5) end,
  function() return start(compute, 8, 30) end,
}

local function await(futures)
  for _, future in ipairs(futures) do future:await() end
end

await(start(block, 16, 0.01)) -- the workers have started
await(start(compute, 4, 5))

if arg[1] == "together" then
  local from = unsync.now()
  local under_way = {}
  for i, lane in ipairs(lanes) do under_way[i] = lane() end
  for _, futures in ipairs(under_way) do await(futures) end
  print(unsync.now() - from)
else
  local longest = 0
  for _, lane in ipairs(lanes) do
    local from = unsync.now()
    await(lane())
    longest = math.max(longest, unsync.now() - from)
  end
  print(longest)
end
