--- What cannot cross, and what is said of it.

-- luacheck: globals spec
local cases = require("codec.case")
local values_of = require("values")
local same = values_of.same

local case, eq, refused, refused_with = cases.define, cases.eq, cases.refused, cases.refused_with
local send, call = spec.send, spec.call

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
