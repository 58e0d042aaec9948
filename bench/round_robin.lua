-- What switch.lua is measured beside: 100 stock coroutines, resumed in turn until each has ended.
local TASKS, TURNS = 100, 20000
local yield, resume = coroutine.yield, coroutine.resume
local function body()
  for _ = 1, TURNS do yield() end
end

local from = os.clock()
local list = {}
for i = 1, TASKS do list[i] = coroutine.create(body) end
for _ = 1, TURNS + 1 do
  for i = 1, TASKS do resume(list[i]) end
end
print((os.clock() - from) / (TASKS * TURNS) * 1e9)
