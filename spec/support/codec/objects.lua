--- What has a class or a name: metatables, modules and what they hold, objects, and what packs itself.

-- luacheck: globals spec Global coroutine.wrap
local cases = require("codec.case")

local case, eq, refused, refused_with = cases.define, cases.eq, cases.refused, cases.refused_with
local send, call = spec.send, spec.call

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
