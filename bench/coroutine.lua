-- What spawn_await.lua is measured beside: stock coroutines, one made for each call and resumed to its end.
-- ARG "yield": the body yields once, so it is resumed twice.
local create, resume = coroutine.create, coroutine.resume
local N = 1000000
local body = function(x) return x end
local run

if arg[1] == "yield" then
  local yield = coroutine.yield
  body = function(x) yield() return x end
  run = function(n)
    for i = 1, n do
      local co = create(body)
      resume(co, i)
      resume(co)
    end
  end
else
  run = function(n)
    for i = 1, n do resume(create(body), i) end
  end
end

run(N // 10)
local from = os.clock()
run(N)
print((os.clock() - from) / N * 1e9)
