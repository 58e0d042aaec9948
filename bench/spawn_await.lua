-- Nanoseconds to call a trivial io function and await it. ARG "yield": its task yields once, so that it really waits.
local unsync = require "unsync"

local N = 1000000
local body = function(x) return x end
if arg[1] == "yield" then
  local yield = unsync.yield
  body = function(x) yield() return x end
end
local call = unsync.io(body)

local function run(n)
  for i = 1, n do call(i):await() end
end

run(N // 10)
local from = os.clock()
run(N)
print((os.clock() - from) / N * 1e9)
