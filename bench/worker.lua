-- Nanoseconds for calls on a worker. ARG 1 says which: "thread" or "process". ARG 2 says what of:
--   latency  a trivial call, one after another
--   flight   the same, 1,000 at once
--   bytes    a string there and back: 64 MiB to a thread, 1 MiB to a process
--   ints     a list of 1,000,000 integers, there and back
--   records  100,000 records of three fields, there and back
local unsync = require "unsync"

local kind, mode = arg[1], arg[2]
local echo = (kind == "thread" and unsync.thread or unsync.cpu)(function(x) return x end)

-- Runs `rounds` times a thousand calls that are under way at the same time.
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

local function ints()
  local list = {}
  for i = 1, 1000000 do list[i] = i * 7 end
  return list
end

local function records()
  local list = {}
  for i = 1, 100000 do list[i] = { id = i, name = "item", price = i * 0.5 } end
  return list
end

local run, n, calls
if mode == "flight" then run, n, calls = flight, 100, 100000
elseif mode == "latency" then run, n, calls = function(k) series(k, 1) end, 20000, 20000
elseif mode == "bytes" then
  local text = ("x"):rep(kind == "thread" and 64 << 20 or 1 << 20)
  n = kind == "thread" and 5 or 300
  run, calls = function(k) series(k, text) end, n
else
  local value = (mode == "ints" and ints or records)()
  run, n, calls = function(k) series(k, value) end, 5, 5
end

flight(2) -- all workers have started, and know the function
run(math.max(1, n // 20))
local from = unsync.now()
run(n)
print((unsync.now() - from) / calls * 1e9)
