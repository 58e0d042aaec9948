--- Many calls, a few at a time: results come in order while later items run; retry calls again what may fail.
--[[ Output:
1	2
2	3
3	5
4	7
5	11
first divisible by 7: 49	after 7 of 1000 items
attempt 1
attempt 2
attempt 3
up
12 ms
24 ms
36 ms
]]
local unsync = require("unsync")

-- On all cores: each item is taken when there is room for it.
local nth_prime = unsync.cpu(function(n)
  local candidate, found = 1, 0
  while found < n do
    candidate = candidate + 1
    local prime = true
    for d = 2, candidate - 1 do
      if candidate % d == 0 then prime = false break end
    end
    if prime then found = found + 1 end
  end
  return candidate
end)
for prime, n in unsync.map(nth_prime, { 1, 2, 3, 4, 5 }) do print(n, prime) end

-- From an iterator; leaving the loop cancels what runs, and takes no further items.
local taken = 0
local function items()
  taken = taken + 1
  return taken <= 1000 and taken or nil
end
local square = unsync.io(function(n)
  unsync.sleep(0.001)
  return n * n
end)
for value, n in unsync.map(square, items, { concurrency = 1 }) do
  if value % 7 == 0 then
    print("first divisible by 7: " .. value, "after " .. n .. " of 1000 items")
    break
  end
end

-- Again after a failure, with a growing wait in between.
print(unsync.retry(function(attempt)
  print("attempt " .. attempt)
  if attempt < 3 then error({ code = "ECONNREFUSED" }) end
  return "up"
end, { attempts = 5, backoff = 0.001, jitter = 0.5, on = { "ECONNREFUSED", "timeout" } }))

-- Whoever is first comes first.
local function sleeper(ms)
  return unsync.spawn(function()
    unsync.sleep(ms / 1000)
    return ms .. " ms"
  end)
end
for future in unsync.as_completed({ sleeper(36), sleeper(12), sleeper(24) }) do print(future:await()) end
