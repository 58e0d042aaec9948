-- What control costs, in nanoseconds, each beside the same without it: ARG names which.
--   scope, by_hand      ten trivial children in a scope; the same, spawned and awaited
--   variable            a context variable's get
--   timeout, await      a timeout around an await that ends at once; the await alone
--   map                 20,000 computations of about 100 us each by map, on as many processes as the host has
local unsync = require "unsync"

local work = {}

local child = function() end

function work.scope()
  local n = 50000
  for _ = 1, n do
    unsync.scope(function(s)
      for _ = 1, 10 do s:spawn(child) end
    end)
  end
  return n
end

function work.by_hand()
  local n = 50000
  for _ = 1, n do
    local futures = {}
    for i = 1, 10 do futures[i] = unsync.spawn(child) end
    for i = 1, 10 do futures[i]:await() end
  end
  return n
end

function work.variable()
  local n = 5000000
  local variable = unsync.var "default"
  variable:set "value"
  for _ = 1, n do variable:get() end
  return n
end

-- The future has not settled yet, so that it really waits.
function work.await()
  local n = 200000
  local task = unsync.io(unsync.yield)
  for _ = 1, n do task():await() end
  return n
end

function work.timeout()
  local n = 200000
  local task = unsync.io(unsync.yield)
  local await = function() return task():await() end
  for _ = 1, n do unsync.timeout(10, await) end
  return n
end

function work.map()
  local n = 20000
  local compute = unsync.cpu(function(x)
    local sum = 0
    for i = 1, 16000 do sum = sum + i % 7 * x end
    return sum
  end)
  local items = {}
  for i = 1, n do items[i] = i end
  unsync.all({ compute(1), compute(2) }):await()
  local from = unsync.now()
  for _ in unsync.map(compute, items, { concurrency = 64 }) do end -- luacheck: ignore 542
  return n, unsync.now() - from
end

local from = os.clock()
local turns, seconds = work[arg[1]]()
print((seconds or os.clock() - from) / turns * 1e9)
