--- What crosses between Lua states, case by case. Run by spec/c/codec_test.c, which gives `spec` its functions:
--- send(...) carries values to another state and back; call(fn, ...) runs a function there; both raise what is refused.

-- luacheck: globals spec kept seen Global coroutine.wrap
local values_of = require("values")
local same, random_values = values_of.same, values_of.random

local cases, names = {}, {}

local function case(name, body)
  assert(not cases[name], name)
  names[#names + 1] = name
  cases[name] = body
end

local send, call = spec.send, spec.call

local function eq(got, wanted)
  if not rawequal(got, wanted) then error(("got %s, wanted %s"):format(tostring(got), tostring(wanted)), 2) end
end

--- The error of what must be refused.
local function refused(...)
  local results = table.pack(pcall(...))
  if results[1] then error("was not refused", 2) end
  return results[2]
end

local function refused_with(path, text, ...)
  local err = refused(...)
  if type(err) ~= "table" then error("a plain error: " .. tostring(err), 2) end
  if err.code ~= "unsendable" then error(("code %s: %s"):format(tostring(err.code), tostring(err)), 2) end
  if err.path ~= path then error(("path %s, wanted %s"):format(tostring(err.path), path), 2) end
  if not err.message:find(text, 1, true) then error(("'%s' does not say '%s'"):format(err.message, text), 2) end
  eq(tostring(err), err.message)
end

case("nothing at all", function() eq(select("#", send()), 0) end)

case("nil, booleans and holes keep their places", function()
  local got = table.pack(send(nil, true, nil, false, nil))
  eq(got.n, 5)
  eq(got[1], nil)
  eq(got[2], true)
  eq(got[3], nil)
  eq(got[4], false)
  eq(got[5], nil)
end)

case("integers of every size", function()
  local all = {0, 1, -1, 127, 128, 129, -128, -129, 255, 256, 32767, 32768, -32768, -32769, 65535, 65536, 2147483647,
    2147483648, -2147483648, -2147483649, math.maxinteger, math.mininteger}
  for _, n in ipairs(all) do
    local got = send(n)
    eq(got, n)
    eq(math.type(got), "integer")
  end
end)

case("floats stay floats", function()
  for _, n in ipairs {0.0, 1.0, -1.0, 0.1, 1e308, 5e-324, 2.0 ^ 53, 2.0 ^ 63, math.huge, -math.huge, 127.0} do
    local got = send(n)
    eq(got, n)
    eq(math.type(got), "float")
  end
  eq(1 / send(-0.0), -math.huge)
  local nan = send(0 / 0)
  assert(nan ~= nan)
end)

case("strings of every length and byte", function()
  for size = 0, 300 do
    local text = ("x"):rep(size)
    eq(send(text), text)
  end
  local bytes = {}
  for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
  local all = table.concat(bytes)
  for _, byte in ipairs(bytes) do eq(send(byte), byte) end
  for size = 1, 256 do eq(send(all:sub(1, size)), all:sub(1, size)) end
  local large = all:rep(4000)
  eq(send(large), large)
end)

case("a string that comes up often is the same each time", function()
  local list, keys = {}, {}
  for i = 1, 2000 do
    list[i] = ("name %d"):format(i % 50)
    keys[("key number %d of many, so that it is rather a long one"):format(i % 50)] = list[i]
  end
  assert(same(send(list), list))
  assert(same(send({keys, list, keys}), {keys, list, keys}))
  local long = ("long"):rep(500)
  local bytes = spec.measure({long, long, long, long})
  assert(bytes < 2100, bytes)
end)

case("many different short strings", function()
  local list, set = {}, {}
  for i = 1, 5000 do
    list[2 * i - 1], list[2 * i] = "v" .. i, "v" .. i
    set["v" .. i] = "k" .. i
    set["k" .. i] = "v" .. i
  end
  assert(same(send(list), list))
  assert(same(send(set), set))
end)

case("tables with every kind of key", function()
  local t = {1, 2, 3, nil, 5, [0] = 0, [-1] = "minus", [1.5] = "half", [true] = "yes", [false] = "no", name = "n",
    [""] = "empty", ["with\0zero"] = 1, [math.huge] = "inf", [math.maxinteger] = "max", [2 ^ 53] = "float"}
  assert(same(send(t), t))
  local key = {}
  local got = send({[key] = key, key = key})
  eq(got[got.key], got.key)
  local f = function() return key end
  local by_function = send({[f] = f, f = f})
  eq(by_function[by_function.f], by_function.f)
  eq(send({[print] = 1})[print], 1)
end)

case("lists of numbers", function()
  for _, n in ipairs {0, 1, 3, 4, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 1000, 1023, 1024, 1025, 70000} do
    local integers, floats, mixed, wide, filled = {}, {}, {}, {}, {}
    for i = 1, n do
      integers[i], floats[i] = i, i + 0.5
      mixed[i] = i % 10 < 5 and i or i % 10 < 7 and i / 2 or i % 10 < 8 and "s" or i % 10 < 9 and {i} or false
      wide[i] = i % 7 == 0 and 1 << 40 or i % 5 == 0 and -70000 or i % 3 == 0 and 300 or i % 100
      filled[i] = 7
    end
    for _, list in ipairs {integers, floats, mixed, wide, filled, table.pack(table.unpack(integers, 1, n % 200))} do
      assert(same(send(list), list), n)
      list.also, list[-1], list[n + 5] = "also", "minus", "gap"
      assert(same(send(list), list), n)
      local back = send(list)
      assert(same(send(back), list), n) -- a list that the codec made
    end
  end
end)

case("lists with holes", function()
  for seed = 1, 60 do
    math.randomseed(seed)
    local list = {}
    local size = math.random(1, 600)
    for i = 1, size do list[i] = math.random(3) > 1 and i or i .. "" end
    for _ = 1, math.random(0, 20) do list[math.random(size)] = nil end
    for _ = 1, math.random(0, 5) do list[math.random(1, 5000)] = "far" end
    for _ = 1, math.random(0, 3) do list["k" .. math.random(9)] = true end
    assert(same(send(list), list), seed)
  end
  local sparse = {}
  for i = 1, 200 do sparse[i] = i end
  for i = 8, 61 do sparse[1 << i] = i end
  assert(same(send(sparse), sparse))
end)

case("a list whose end lies in the hash part", function()
  local t = {a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8}
  for i = 200, 1, -1 do t[i] = i end
  for _, k in ipairs {"a", "b", "c", "d", "e", "f", "g"} do t[k] = nil end
  for i = 201, 206 do t[i] = i end
  assert(same(send(t), t))
end)

case("shared and cyclic references", function()
  local shared = {1}
  local t = {a = shared, b = shared, list = {shared, shared}}
  t.self = t
  t[t] = t
  local got, again = send(t, shared)
  eq(got.a, got.b)
  eq(got.list[1], got.a)
  eq(got.list[2], again)
  eq(got.self, got)
  eq(got[got], got)
  got.a[1] = 2
  eq(shared[1], 1)
end)

case("a list nested a million deep", function()
  local list = false
  for i = 1, 1000000 do list = {list, i} end
  local got = send(list)
  for i = 1000000, 1, -1 do
    assert(got[2] == i)
    got = got[1]
  end
  eq(got, false)
end)

case("deep nesting of every kind", function()
  local leaf = {"leaf"}
  local deep = leaf
  for i = 1, 1000 do
    local inner = deep
    if i % 5 == 0 then deep = function() return inner end
    elseif i % 5 == 1 then deep = {[inner] = i, leaf = leaf}
    elseif i % 5 == 2 then deep = spec.box(i, inner)
    elseif i % 5 == 3 then deep = setmetatable({leaf = leaf}, {__index = inner})
    else deep = spec.holder(inner) end
  end
  local got, same_leaf = send(deep, leaf)
  for i = 1000, 1, -1 do
    if i % 5 == 0 then got = got()
    elseif i % 5 == 1 then
      eq(got.leaf, same_leaf)
      for key in pairs(got) do if key ~= "leaf" then got = key break end end
    elseif i % 5 == 2 then
      local n, inner = spec.box_get(got)
      eq(n, i)
      got = inner
    elseif i % 5 == 3 then
      eq(rawget(got, "leaf"), same_leaf)
      got = getmetatable(got).__index
    else got = got() end
  end
  eq(got, same_leaf)
end)

case("a wide and deep tree", function()
  local function tree(depth, width)
    if depth == 0 then return {} end
    local t = {}
    for i = 1, width do t[i] = tree(depth - 1, width) end
    return t
  end
  local t = tree(6, 4)
  for _ = 1, 70 do t = {t, {t}} end
  assert(same(send(t), t))
end)

case("metatables by value", function()
  local Point = {}
  Point.__index = Point
  function Point.__add(a, b) return setmetatable({x = a.x + b.x}, getmetatable(a)) end
  local a, b = send(setmetatable({x = 1}, Point), setmetatable({x = 2}, Point))
  eq(getmetatable(a), getmetatable(b))
  eq((a + b).x, 3)
  eq(getmetatable(a).__index, getmetatable(a))
  local locked = send(setmetatable({}, {__metatable = "locked"}))
  eq(getmetatable(locked), "locked")
  local weak = send({setmetatable({}, {__mode = "k"})})
  eq(getmetatable(weak[1]).__mode, "k")
  local trap = setmetatable({x = 1}, {__index = error, __newindex = error, __pairs = error, __len = error})
  eq(rawget(send(trap), "x"), 1)
end)

case("metatables that a module holds cross by name", function()
  package.loaded.spec_class = {Class = {__index = {kind = "mine"}}, name = "spec_class"}
  spec.there [[package.loaded.spec_class = {Class = {__index = {kind = "theirs"}}}]]
  local object = setmetatable({x = 1}, package.loaded.spec_class.Class)
  eq(getmetatable(send(object)), package.loaded.spec_class.Class)
  eq(call(function(o) return o.kind end, object), "theirs")
  local own = setmetatable({}, package.loaded.spec_class)
  eq(getmetatable(send(own)), package.loaded.spec_class)
  package.loaded.spec_class = {Class = {}} -- the old one is nobody's now
  eq(getmetatable(send(object)).__index.kind, "mine")
  package.loaded.spec_class = nil
end)

case("errors of the runtime keep their class", function()
  local err = refused(send, coroutine.create(print))
  local got = send(err)
  eq(getmetatable(got), getmetatable(err))
  eq(tostring(got), tostring(err))
  eq(got.path, "argument 1")
end)

case("modules cross by name", function()
  eq(send(string), string)
  eq(send({math, m = math})[1], math)
  eq(send(_G), _G)
  eq(send(package.loaded._G), _G)
  eq(send({_G, _G})[2], _G)
  package.loaded.spec_empty = {}
  spec.there [[package.loaded.spec_empty = {}]]
  eq(send(package.loaded.spec_empty), package.loaded.spec_empty)
  package.loaded.spec_empty = nil
end)

case("a module is required where it is needed", function()
  package.loaded["codec_module"] = nil
  local module = require("codec_module")
  eq(spec.modules(module, string.format), "codec_module")
  eq(select("#", spec.modules(module, {module})), 1)
  eq(send(module), module)
  eq(select("#", spec.modules(module)), 0)
  eq(call(function() return module.answer end), 42)
  package.loaded["spec.missing"] = {}
  local text = tostring(refused(send, package.loaded["spec.missing"]))
  assert(text:find("module 'spec.missing' not found", 1, true), text)
  package.loaded["spec.missing"] = nil
end)

case("library functions cross by name", function()
  for _, f in ipairs {print, string.format, table.concat, coroutine.wrap, require, io.open, spec.box} do
    eq(send(f), f)
  end
  local upper = string.upper
  eq(call(function(s) return upper(s) end, "abc"), "ABC")
  eq(call(string.rep, "ab", 2), "abab")
  local original = coroutine.wrap
  coroutine.wrap = spec.box_get -- as a host may replace them
  eq(send(coroutine.wrap), coroutine.wrap)
  refused_with("argument 1", "C function without a name", send, original)
  coroutine.wrap = original
  eq(send(original), original)
  spec.there "string.format = nil"
  local text = tostring(refused(call, string.format, "x"))
  assert(text:find('module "string" has no field "format" here', 1, true), text)
end)

case("what a module holds directly crosses by name", function()
  eq(send(io.stdout), io.stdout)
  local out = io.stdout
  eq(call(function() return out == io.stdout end), true)
  package.loaded.spec_null = {null = spec.light()}
  spec.there "package.loaded.spec_null = {null = spec.light()}"
  eq(send(package.loaded.spec_null.null), package.loaded.spec_null.null)
  package.loaded.spec_null = nil
  eq(spec.has_name(print), true)
  eq(spec.has_name(spec.give_nameless()), false)
end)

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
  assert(text:find("codec_cases.lua:%d+: here"), text)
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

case("objects with a class", function()
  local a, b = spec.box(1), spec.box(2, "value")
  local got, again, other = send({a}, a, b)
  eq(got[1], again)
  eq((spec.box_get(again)), 1)
  eq(select(2, spec.box_get(other)), "value")
  local cyclic = spec.box(3)
  spec.box_set(cyclic, {cyclic, function() return cyclic end})
  local back = send(cyclic)
  local _, inside = spec.box_get(back)
  eq(inside[1], back)
  eq(inside[2](), back)
  eq(send({[a] = a, a = a}).a ~= nil, true)
end)

case("C closures with a class", function()
  local h = spec.holder("held")
  eq(send(h)(), "held")
  local function f() return h end
  spec.holder_set(h, f)
  local back = send(h)
  eq(back()(), back)
  local g = send(f)
  eq(g()(), g)
end)

case("a class that is a global crosses by value", function()
  Global = {}
  Global.__index = Global
  function Global.get(self) return self.x end
  local got = send(setmetatable({x = 5}, Global))
  eq(got:get(), 5)
  assert(getmetatable(got) ~= Global)
  Global = nil
end)

case("objects that pack themselves", function()
  local meta = {}
  local object = spec.plain(meta)
  refused_with("argument 1", "userdata", send, object)
  meta.__unsync_pack = function(o)
    eq(o, object)
    return "codec_module.rebuild", "a", {1}, nil
  end
  local got = send(object)
  eq(got.n, 3)
  eq(got[1], "a")
  eq(got[2][1], 1)
  local list = send({object, object, [object] = 1})
  eq(list[1], list[2])
  eq(list[list[1] ], 1)
  meta.__unsync_pack = function() return function(...) return {n = select("#", ...), ...} end, 1, 2 end
  eq(send(object).n, 2)
  local other = setmetatable({x = 1}, {__unsync_pack = function(t) return "codec_module.rebuild", t.x end})
  eq(send(other)[1], 1)
  local tables = setmetatable({}, {__unsync_pack = function() return "codec_module.rebuild", {{other}}, {other} end})
  got = send(tables)
  eq(got[1][1][1], got[2][1])
end)

case("what a packed object needs is there when it is rebuilt", function()
  local deep = "leaf"
  for _ = 1, 300 do deep = {deep} end
  local object = setmetatable({}, {__unsync_pack = function()
    return function(value)
      local depth = 0
      while type(value) == "table" do value, depth = value[1], depth + 1 end
      return {depth = depth, leaf = value}
    end, deep
  end})
  local nested = object
  for _ = 1, 100 do nested = {nested} end
  local got = send({nested, object, deep})
  eq(got[2].depth, 300)
  eq(got[2].leaf, "leaf")
  local inner = got[1]
  for _ = 1, 100 do inner = inner[1] end
  eq(inner, got[2])
end)

case("packing that goes wrong", function()
  local meta = {}
  local object = setmetatable({}, meta)
  meta.__unsync_pack = function() error("no way", 0) end
  refused_with("argument 1.x", "its __unsync_pack failed: no way", send, {x = object})
  meta.__unsync_pack = function() return nil, "a closed connection" end
  refused_with("argument 1.x", "a closed connection", send, {x = object})
  meta.__unsync_pack = function() end
  refused_with("argument 1.x", "table", send, {x = object})
  meta.__unsync_pack = function() return "nodots" end
  refused_with("argument 1.x", '"nodots"', send, {x = object})
  meta.__unsync_pack = function() return print, coroutine.create(print) end
  refused_with("argument 1.x", "coroutine", send, {x = object})
  meta.__unsync_pack = function(o) return print, {o} end
  refused_with("argument 1.x[1]", "contains itself", send, {x = object})
  meta.__unsync_pack = function() return print, setmetatable({}, meta) end
  refused_with("argument 1.x", "nested too deeply", send, {x = object})
  meta.__unsync_pack = function() return function() error("cannot rebuild", 0) end end
  assert(tostring(refused(send, object)):find("cannot rebuild", 1, true))
  meta.__unsync_pack = function() return function() end end
  assert(tostring(refused(send, object)):find("not rebuilt", 1, true))
  meta.__unsync_pack = function() return "codec_module.missing" end
  assert(tostring(refused(send, object)):find('module "codec_module" has no field "missing" here', 1, true))
end)

case("packing may itself send", function()
  local other = {x = 1, y = {2}}
  local object = setmetatable({}, {__unsync_pack = function()
    local got = send(other, {other})
    return "codec_module.rebuild", got, spec.measure(got)
  end})
  local a, b, c = send(other, object, {other, object})
  eq(b[1].y[1], 2)
  eq(c[1], a)
  eq(c[2], b)
end)

case("a module may send while it is required", function()
  spec.there [[package.preload.sends = function() return {got = spec.measure({1, {2}}), f = print} end]]
  package.loaded.sends = {}
  eq(type(call(function(m, t) return m.got + #t end, package.loaded.sends, {1, 2, 3})), "number")
  package.loaded.sends = nil
end)

case("what cannot cross says where it is", function()
  local thread, nameless, light = coroutine.create(print), spec.give_nameless(), spec.light()
  local tcp = spec.plain({__name = "LuaSocket tcp"})
  refused_with("argument 1", "coroutine", send, thread)
  refused_with("argument 2", "coroutine", send, 1, thread)
  refused_with("argument 2.conn.socket", 'argument 2.conn.socket: userdata "LuaSocket tcp"', send, 1,
    {conn = {socket = tcp}})
  refused_with("argument 2.conn[3].socket", "userdata", send, 1, {conn = {1, 2, {socket = tcp}}})
  refused_with("argument 1", "C function without a name in a loaded module", send, nameless)
  refused_with("argument 1[1]", "light userdata", send, {light})
  refused_with("key of argument 1", "coroutine", send, {[thread] = 1})
  refused_with("key of argument 1.a", "coroutine", send, {a = {[thread] = 1}})
  refused_with("key of argument 1.x", "coroutine", send, {[{x = thread}] = 1})
  refused_with('argument 1["two words"]', "coroutine", send, {["two words"] = thread})
  refused_with('argument 1["a\\"b\\000\\010"]', "coroutine", send, {['a"b\0\n'] = thread})
  refused_with('argument 1[""]', "coroutine", send, {[""] = thread})
  refused_with("argument 1[1.5]", "coroutine", send, {[1.5] = thread})
  refused_with("argument 1[-3]", "coroutine", send, {[-3] = thread})
  refused_with("argument 1[true]", "coroutine", send, {[true] = thread})
  refused_with("argument 1[table]", "coroutine", send, {[{}] = thread})
  refused_with(('argument 1["%s..."]'):format(("k"):rep(40)), "coroutine", send, {[("k"):rep(100)] = thread})
  refused_with("argument 1, metatable.__index.x", "coroutine", send, setmetatable({}, {__index = {x = thread}}))
  refused_with("argument 1", "__gc", send, setmetatable({}, {__gc = function() end}))
  refused_with("argument 1", "class of userdata", send, setmetatable({}, debug.getmetatable(spec.box(1))))
  refused_with("argument 1.x", "__gc", send, {x = setmetatable({}, {__gc = false})})
  local list = {}
  for i = 1, 1000 do list[i] = i end
  list[777] = thread
  refused_with("argument 1[777]", "coroutine", send, list)
  refused_with("argument 1", "spec.Box that cannot cross", send, spec.box(-1))
  refused_with("argument 1.x", "coroutine", send, spec.box(1, {x = thread}))
  refused_with("argument 1.x", "coroutine", send, spec.holder({x = thread}))
end)

case("upvalues that cannot cross are named", function()
  local file = coroutine.create(print)
  local function direct() return file end
  local function outer() return direct end
  local t = {callback = direct}
  refused_with("upvalue file", "upvalue file: coroutine", call, direct)
  refused_with("upvalue direct, upvalue file", "coroutine", call, outer)
  refused_with("upvalue t.callback, upvalue file", "coroutine", call, function() return t end)
  refused_with("argument 1, upvalue file", "coroutine", call, print, direct)
  refused_with("argument 2.callback, upvalue file", "coroutine", call, print, 1, t)
  refused_with("function", "C function without a name", call, spec.give_nameless())
  local stripped = load(string.dump(function() return file end, true))
  debug.setupvalue(stripped, 1, file)
  refused_with("upvalue 1", "coroutine", call, stripped)
  local text = tostring(refused(call, function() return coroutine.create(print) end))
  assert(text:find("result 1: coroutine", 1, true), text)
  text = tostring(refused(call, function() return 1, {a = {coroutine.create(print)}} end))
  assert(text:find("result 2.a[1]: coroutine", 1, true), text)
end)

case("what cannot cross and lies deep says where it is, too", function()
  local function nest(value, depth)
    for _ = 1, depth do value = {next = value} end
    return value
  end
  local thread = coroutine.create(print)
  local function steps(n) return (".next"):rep(n) end
  refused_with("argument 1" .. steps(10), "coroutine", send, nest(thread, 10))
  refused_with("argument 1" .. steps(15) .. "..." .. steps(16), "coroutine", send, nest(thread, 60))
  for _, depth in ipairs {64, 65, 66, 100, 128, 129, 130, 500, 5000} do
    local err = refused(send, 1, {x = nest(thread, depth)})
    eq(err.path:sub(1, 12), "argument 2.x")
    eq(err.path:sub(-5), ".next")
    assert(#err.path < 400, err.path)
  end
  local err = refused(send, nest({thing = nest(thread, 3)}, 70))
  eq(err.path:sub(-21), ".thing.next.next.next")
end)

case("what is refused leaves everything as it was", function()
  local t = {1, {2}, coroutine.create(print)}
  for _ = 1, 100 do refused(send, t, function() return t end, {{{t}}}) end
  t[3] = nil
  assert(same(send(t), t))
end)

case("random values", function()
  local first, last = 1, tonumber(os.getenv("CODEC_SEEDS")) or 400 // (tonumber(os.getenv("UNSYNC_SLOWNESS")) or 1)
  for seed = first, last do
    local values = random_values(seed)
    local got = table.pack(send(table.unpack(values, 1, values.n)))
    eq(got.n, values.n)
    if not same(got, values) then error(("seed %d"):format(seed)) end
    assert(spec.measure(table.unpack(values, 1, values.n)) == spec.measure(table.unpack(values, 1, values.n)))
  end
end)

return {
  names = names,
  run = function(name) cases[name]() end,
}
