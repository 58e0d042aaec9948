--- Futures, promises and wrapped functions can be sent to threads and processes, awaited there and settled from there.
--[[ Output:
HELLO!
half of it is done
and now all of it, as you wish
385
]]
local unsync = require("unsync")

-- A process waits for what the script makes only later.
local word = unsync.promise()
local shout = unsync.cpu(function(future) return future:await():upper() .. "!" end)
local loud = shout(word)
word:resolve("hello")
print(loud:await())

-- A thread says something before it ends.
local work = unsync.thread(function(halfway, proceed)
  halfway:resolve("half of it is done")
  return "and now all of it, " .. proceed:await()
end)
local halfway, proceed = unsync.promise(), unsync.promise()
local whole = work(halfway, proceed)
print(halfway:await())
proceed:resolve("as you wish")
print(whole:await())

-- A worker calls a function that runs elsewhere: it was declared so.
local square = unsync.cpu(function(n) return n * n end)
local sum_of_squares = unsync.thread(function(n)
  local squares, sum = {}, 0
  for i = 1, n do squares[i] = square(i) end
  for _, future in ipairs(squares) do sum = sum + future:await() end
  return sum
end)
print(sum_of_squares(10):await())
