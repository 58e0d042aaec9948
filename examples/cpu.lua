--- Computation runs in processes, as many as there are cores, and the loop stays free.
--[[ Output:
primes up to 100000:	9592
the loop was free all the while:	true
]]
local unsync = require("unsync")

local function is_prime(n)
  if n < 2 then return false end
  for d = 2, math.floor(math.sqrt(n)) do
    if n % d == 0 then return false end
  end
  return true
end

--- A local function, like any upvalue, goes along.
local primes = unsync.cpu(function(first, last)
  local count = 0
  for n = first, last do
    if is_prime(n) then count = count + 1 end
  end
  return count
end, { name = "primes" })

local parts = {}
for i = 0, 9 do parts[#parts + 1] = primes(i * 10000 + 1, (i + 1) * 10000) end

local ticks = 0
local clock = unsync.spawn(function()
  while not parts[#parts]:done() do
    unsync.sleep(0.001)
    ticks = ticks + 1
  end
end)

local total = 0
for _, count in ipairs(unsync.all(parts):await()) do total = total + count end
clock:await()
print("primes up to 100000:", total)
print("the loop was free all the while:", ticks > 0)
