-- thread.lua latency: nanoseconds for a trivial call on a thread, one after another. thread.lua flight: 1,000 at once.
-- thread.lua bytes: nanoseconds for a string of 64 MiB there and back.
local unsync = require "unsync"

local echo = unsync.thread(function(x) return x end)
local mode = arg[1]

local function flight(rounds)
  local futures = {}
  for _ = 1, rounds do
    for i = 1, 1000 do futures[i] = echo(i) end
    for i = 1, 1000 do futures[i]:await() end
  end
end

echo(0):await()
if mode == "latency" then
  local n = 20000
  local from = unsync.now()
  for i = 1, n do echo(i):await() end
  print((unsync.now() - from) / n * 1e9)
elseif mode == "flight" then
  flight(5)
  local from = unsync.now()
  flight(100)
  print((unsync.now() - from) / 100000 * 1e9)
else
  local text = ("x"):rep(64 << 20)
  local n = 5
  local from = unsync.now()
  for _ = 1, n do echo(text):await() end
  print((unsync.now() - from) / n * 1e9)
end
