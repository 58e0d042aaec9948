-- Seconds for 8 times fib on two workers: ARG 1 is "cpu" or "thread"; "serial": one after another, here, divided by 2.
local unsync = require "unsync"

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end

local DEPTH = 31
local mode = arg[1]

if mode == "serial" then
  local from = unsync.now()
  for _ = 1, 8 do fib(DEPTH) end
  print((unsync.now() - from) / 2)
else
  local call = unsync[mode](fib, { limit = 2 })
  local function run(n, depth)
    local futures = {}
    for i = 1, n do futures[i] = call(depth) end
    for i = 1, n do futures[i]:await() end
  end
  run(64, 10) -- both workers have started
  local from = unsync.now()
  run(8, DEPTH)
  print(unsync.now() - from)
end
