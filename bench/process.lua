-- process.lua latency: nanoseconds for a trivial call in a worker process, one after another. flight: 1,000 at once.
-- bytes: a string of 1 MiB there and back.
local unsync = require "unsync"

local echo = unsync.cpu(function(x) return x end)
local mode = arg[1]

local function flight(rounds)
  local futures = {}
  for _ = 1, rounds do
    for i = 1, 1000 do futures[i] = echo(i) end
    for i = 1, 1000 do futures[i]:await() end
  end
end

local function series(n, value)
  for _ = 1, n do echo(value):await() end
end

local run, n, calls
if mode == "flight" then run, n, calls = flight, 100, 100000
elseif mode == "bytes" then
  local text = ("x"):rep(1 << 20)
  run, n, calls = function(k) series(k, text) end, 300, 300
else run, n, calls = function(k) series(k, 1) end, 20000, 20000
end

flight(2) -- all workers have started, and know the function
run(n // 10)
local from = unsync.now()
run(n)
print((unsync.now() - from) / calls * 1e9)
