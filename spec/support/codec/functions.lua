--- Functions, with their upvalues; each piece of code once.

-- luacheck: globals spec kept seen
local cases = require("codec.case")

local case, eq = cases.define, cases.eq
local send, call = spec.send, spec.call

case("functions with upvalues", function()
  local a, b, c = 1, "two", {3}
  local f = send(function(x) return a, b, c, x end)
  local ra, rb, rc, rx = f("x")
  eq(ra, 1)
  eq(rb, "two")
  eq(rc[1], 3)
  eq(rx, "x")
  assert(rc ~= c)
  eq(call(function(...) return select("#", ...), ... end, nil, 1, nil), 3)
  eq(send(function() end)(), nil)
  eq(call(function() return type(_ENV), _G == _ENV end), "table")
  eq(debug.getinfo(f, "S").source, debug.getinfo(1, "S").source)
  local _, text = pcall(send(function() error("here") end))
  assert(text:find("functions.lua:%d+: here"), text)
end)

case("closures share their upvalues", function()
  local n, m = 0, 0
  local function up() n = n + 1 return n end
  local function get() return n, m end
  local function inner() return function() m = m + 1 return n, m end end
  local up2, get2, inner2 = send(up, get, inner)
  up2()
  up2()
  eq(get2(), 2)
  eq(n, 0)
  eq((inner2()()), 2)
  eq(select(2, get2()), 1)
  local pair = send({get, {up}})
  pair[2][1]()
  eq(pair[1](), 1)
end)

case("a function may refer to itself", function()
  local function fact(n) return n < 2 and 1 or n * fact(n - 1) end
  eq(send(fact)(10), 3628800)
  eq(call(fact, 10), 3628800)
  local even, odd
  function even(n) if n == 0 then return true end return odd(n - 1) end
  function odd(n) if n == 0 then return false end return even(n - 1) end
  eq(call(even, 10), true)
  eq(call(odd, 10), false)
  local object = {}
  function object.me() return object end
  local got = send(object)
  eq(got.me(), got)
  local e2, o2 = send(even, odd)
  eq(select(2, debug.getupvalue(e2, 1)), o2)
  eq(select(2, debug.getupvalue(o2, 1)), e2)
end)

case("an upvalue may be another of the same function", function()
  local a, b = 1, 2
  local function f() return a, b end
  debug.upvaluejoin(f, 1, f, 2)
  local g = send(f)
  eq(debug.upvalueid(g, 1), debug.upvalueid(g, 2))
  eq((g()), 2)
end)

case("every call has upvalues as they were here", function()
  local count, list = 0, {}
  local function bump()
    count = count + 1
    list[#list + 1] = count
    return count, #list
  end
  for _ = 1, 3 do
    local a, b = call(bump)
    eq(a, 1)
    eq(b, 1)
  end
  count = 10
  eq((call(bump)), 11)
  eq(count, 10)
end)

case("nothing is shared between two calls of one function", function()
  spec.there "kept = {}"
  local n = 0
  local function keeps()
    kept[#kept + 1] = function() n = n + 1 return n end
    for i = 1, #kept do if i < #kept then kept[i]() end end
    return n, kept[#kept](), kept[1]()
  end
  local a, b, c = call(keeps)
  eq(a, 0)
  eq(b, 1)
  eq(c, 2)
  for calls = 2, 5 do
    a, b, c = call(keeps)
    eq(a, 0)
    eq(b, 1)
    assert(c > calls, c)
  end
  local constant = function() seen = seen or {} seen[#seen + 1] = debug.upvalueid(keeps, 1) return #seen end
  call(constant)
  eq(call(function() return rawequal(seen[1], seen[2]) end), false)
end)

case("a function of very many upvalues", function()
  for _, count in ipairs {199, 250, 251, 254} do
    -- Lua allows 200 locals in a function and 255 upvalues: nested functions make them
    local parts = {}
    local per = math.ceil(count / 2)
    parts[#parts + 1] = "local a1"
    for i = 2, per do parts[#parts + 1] = (", a%d"):format(i) end
    parts[#parts + 1] = "\nfor i = 1, 1 do end "
    for i = 1, per do parts[#parts + 1] = ("a%d = %d "):format(i, i) end
    parts[#parts + 1] = "return (function() local b1"
    for i = 2, count - per do parts[#parts + 1] = (", b%d"):format(i) end
    parts[#parts + 1] = "\n"
    for i = 1, count - per do parts[#parts + 1] = ("b%d = %d "):format(i, -i) end
    parts[#parts + 1] = "return function(x) local s = 0 "
    for i = 1, per do parts[#parts + 1] = ("s = s + a%d "):format(i) end
    for i = 1, count - per do parts[#parts + 1] = ("s = s * 3 %% 1000003 + b%d "):format(i) end
    parts[#parts + 1] = "return s + x end end)()"
    local f = assert(load(table.concat(parts)))()
    eq(debug.getinfo(f, "u").nups, count)
    eq(call(f, 5), f(5))
    eq(send(f)(5), f(5))
    local g = send(f)
    eq(debug.upvalueid(g, 1) == debug.upvalueid(send(f), 1), false)
  end
end)

case("functions with constants of all kinds", function()
  local f = assert(load([[local up = ... return function() return up, nil, true, false, 12345678901, 1.25, "short",
    "a string that is longer than the forty bytes which Lua interns", function() return up end end]]))("up")
  local got = table.pack(send(f)())
  eq(got[1], "up")
  eq(got[5], 12345678901)
  eq(got[6], 1.25)
  eq(got[8], "a string that is longer than the forty bytes which Lua interns")
  eq(got[9](), "up")
  local stripped = load(string.dump(function() return 1, "s" end, true))
  eq(send(stripped)(), 1)
  eq(call(stripped), 1)
end)

case("closures made in a loop are one piece of code", function()
  local list = {}
  for i = 1, 100 do list[i] = function() return i end end
  local _, references = spec.measure(list)
  eq(references, 1)
  local got = send(list)
  for i = 1, 100 do eq(got[i](), i) end
end)

case("a function that comes back is the same piece of code", function()
  local a, b = 1, 2
  local function f() return a, b end
  local g = send(send(f))
  local _, references = spec.measure(f, g, send(g), call(function() return f end))
  eq(references, 1)
end)

case("thousands of different functions", function()
  for i = 1, 3000 do eq(call(load("return " .. i)), i) end
end)
