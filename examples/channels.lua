--- Tasks that talk to each other: channels, select, and a semaphore that bounds how many work at once.
--[[ Output:
3 workers did 10 jobs: 1 4 9 16 25 36 49 64 81 100
news: tick 1
news: tick 2
the answer: 42
nothing more within 0.05 s
at most 2 at once: true
]]
local unsync = require("unsync")

-- A queue with back-pressure: the sender waits while 4 jobs lie there.
local jobs, results = unsync.channel(4), unsync.channel()
local workers = {}
for i = 1, 3 do
  workers[i] = unsync.spawn(function()
    for n in jobs do
      unsync.sleep(0.001)
      results:send(n * n)
    end
  end)
end
unsync.spawn(function()
  for n = 1, 10 do
    jobs:send(n)
  end
  jobs:close() -- ends the workers' loops
  unsync.all(workers):await()
  results:close()
end)
local squares = {}
for square in results do
  squares[#squares + 1] = square
end
table.sort(squares)
print("3 workers did 10 jobs: " .. table.concat(squares, " "))

-- Whichever comes first: an item, a future, or the end of one's patience.
local news, answer = unsync.channel(), unsync.promise()
unsync.spawn(function()
  for n in unsync.every(0.01) do
    news:send("tick " .. n)
    if n == 2 then
      break
    end
  end
  answer:resolve(42)
end)
while true do
  local source, value = unsync.select({ news, answer })
  if source == news then
    print("news: " .. value)
  else
    print("the answer: " .. value)
    break
  end
end
local source = unsync.select({ news, timeout = 0.05 })
print(source == nil and "nothing more within 0.05 s")

local permits, inside, most = unsync.semaphore(2), 0, 0
local tasks = {}
for i = 1, 6 do
  tasks[i] = unsync.spawn(function()
    local _ <close> = permits:acquire() -- given back at the end of the block, come what may
    inside = inside + 1
    most = math.max(most, inside)
    unsync.sleep(0.001)
    inside = inside - 1
  end)
end
unsync.all(tasks):await()
print("at most 2 at once: " .. tostring(most == 2))
