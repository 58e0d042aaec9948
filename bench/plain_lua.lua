-- Ordinary Lua, the same file in both programs: nanoseconds for one turn of what ARG names.
local work = {}

function work.pcall()
  local n, call, body = 1000000, pcall, function(x) return x end
  for i = 1, n do call(body, i) end
  return n
end

function work.wrap()
  local n = 500000
  local items = coroutine.wrap(function()
    for i = 1, n do coroutine.yield(i) end
  end)
  for _ in items do end -- luacheck: ignore 542
  return n
end

function work.sort()
  local n, x = 50000, 42
  local list = {}
  for i = 1, n do
    x = (x * 1103515245 + 12345) % 2147483648
    list[i] = x
  end
  table.sort(list, function(a, b) return a < b end)
  return n
end

function work.gsub()
  local n = 200000
  local text = ("word "):rep(n)
  text:gsub("%a+", function(word) return word end)
  return n
end

function work.arithmetic()
  local n, sum = 20000000, 0
  for i = 1, n do sum = sum + i % 7 * 3 end
  assert(sum > 0)
  return n
end

local from = os.clock()
local turns = work[arg[1]]()
print((os.clock() - from) / turns * 1e9)
