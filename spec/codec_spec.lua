-- What crosses to threads and processes and back, through the public API. Case by case, in C: spec/c/codec_test.c.
local unsync = require("unsync")
local script = require("spec.support.script")
local values = require("spec.support.values")

local kinds = {"thread", "cpu"}

local function same(...) return ... end

--- The error of a call that must fail.
local function failure(fn, ...)
  local results = table.pack(pcall(fn, ...))
  assert.is_false(results[1])
  return results[2]
end

for _, kind in ipairs(kinds) do
  local echo = unsync[kind](same)

  describe("what crosses by " .. kind, function()
    it("keeps nils, floats and integers apart", function()
      assert.same(table.pack(nil, 1, nil), table.pack(echo(nil, 1, nil):await()))
      assert.equal("integer", math.type((echo(3):await())))
      assert.equal("float", math.type((echo(3.0):await())))
      assert.equal(-math.huge, 1 / echo(-0.0):await())
      local nan = echo(0 / 0):await()
      assert.is_true(nan ~= nan)
      assert.same({math.maxinteger, math.mininteger, math.huge, -math.huge, 5e-324},
        (echo({math.maxinteger, math.mininteger, math.huge, -math.huge, 5e-324}):await()))
    end)

    it("keeps every byte of a string, however long", function()
      local bytes = {}
      for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
      local all = table.concat(bytes)
      for _, size in ipairs {0, 1, 31, 32, 40, 41, 255, 256, 4095, 4096, 4097, 100000, 3000000} do
        local text = all:rep(size // 256 + 1):sub(1, size)
        assert.is_true(echo(text):await() == text)
      end
    end)

    it("keeps what is shared and what is cyclic", function()
      local long = ("long"):rep(5000)
      local shared = {long}
      local value = {shared, {shared, long}, name = long}
      value.self = value
      value[value] = shared
      local got = echo(value):await()
      assert.is_true(values.same(value, got))
      assert.is_true(rawequal(got[1], got[2][1]))
      assert.is_true(rawequal(got, got.self))
      assert.is_true(rawequal(got[got], got[1]))
    end)

    it("keeps random values as they are", function()
      for seed = 1, 60 do
        local sent = values.random(seed)
        local got = table.pack(echo(table.unpack(sent, 1, sent.n)):await())
        assert.equal(sent.n, got.n)
        if not values.same(sent, got) then error("seed " .. seed) end
      end
    end)

    it("has no limit of depth", function()
      local list = false
      for _ = 1, 200000 do list = {list} end
      local got, depth = echo(list):await(), 0
      while got do got, depth = got[1], depth + 1 end
      assert.equal(200000, depth)
    end)

    it("carries large tables", function()
      local integers, records = {}, {}
      for i = 1, 100000 do integers[i] = i * 3 end
      for i = 1, 20000 do records[i] = {id = i, name = "name" .. i, score = i * 0.5} end
      assert.is_true(values.same(integers, (echo(integers):await())))
      assert.is_true(values.same(records, (echo(records):await())))
    end)

    it("gives every call the upvalues as they are here", function()
      local count, list = 0, {}
      local bump = unsync[kind](function()
        count = count + 1
        list[#list + 1] = count
        return count, #list
      end)
      for _ = 1, 3 do assert.same({1, 1}, {bump():await()}) end
      count = 10
      assert.same({11, 1}, {bump():await()})
      assert.equal(10, count)
      assert.same({}, list)
    end)

    it("lets functions share upvalues, and refer to themselves", function()
      local n = 0
      local function up() n = n + 1 end
      local function get() return n end
      local both = unsync[kind](function(a, b)
        a()
        a()
        up()
        assert(rawequal(a, up) and rawequal(b, get))
        return b(), get()
      end)
      assert.same({3, 3}, {both(up, get):await()}) -- the arguments are the upvalues here, and so they are there
      assert.equal(0, n)
      local function fact(i) return i < 2 and 1 or i * fact(i - 1) end
      assert.equal(3628800, unsync[kind](fact)(10):await())
      local function even(i, odd) return i == 0 or odd(i - 1, even) end
      local function odd(i, other) return i ~= 0 and other(i - 1, odd) end
      assert.is_true((unsync[kind](even)(10, odd):await()))
    end)

    it("brings functions home that still work", function()
      local made = unsync[kind](function(start)
        local value = start
        return function(by)
          value = value + by
          return value
        end, function() return value end
      end)
      local add, get = made(5):await()
      assert.equal(8, add(3))
      assert.equal(8, get())
    end)

    it("names what modules hold", function()
      local format, stdout = string.format, io.stdout
      local there = unsync[kind](function(f)
        return f == string.rep, format == string.format, stdout == io.stdout, _ENV == _G, unsync == require("unsync")
      end)
      assert.same({true, true, true, true, true}, {there(string.rep):await()})
      for _, f in ipairs {print, pcall, coroutine.wrap, table.sort, string.gsub, require, unsync.sleep, unsync.io} do
        assert.is_true(rawequal(f, (echo(f):await())))
      end
      assert.is_true(rawequal(unsync, (echo(unsync):await())))
      assert.is_true(rawequal(_G, (echo(_G):await())))
    end)

    it("requires a module there that was required here", function()
      local module = require("spec.support.codec_module")
      assert.equal(42, unsync[kind](function() return module.answer end)():await())
      assert.is_true(rawequal(module, (echo(module):await())))
    end)

    it("keeps metatables: by value, or by the name of the module that holds them", function()
      local Point = {}
      Point.__index = Point
      function Point.__add(a, b) return setmetatable({x = a.x + b.x}, Point) end
      function Point:double() return self + self end
      local add = unsync[kind](function(a, b) return a + b, (a + b):double().x end)
      local sum, double = add(setmetatable({x = 1}, Point), setmetatable({x = 2}, Point)):await()
      assert.equal(3, sum.x)
      assert.equal(6, double)
      assert.equal(6, sum:double().x)
      local module = require("spec.support.codec_module")
      local object = setmetatable({}, module.Class)
      assert.is_true(rawequal(module.Class, getmetatable(echo(object):await())))
      assert.equal("hello", unsync[kind](function(o) return o:greet() end)(object):await())
    end)

    it("carries wrapped functions, also ones that call themselves", function()
      local double = unsync.io(function(x) return 2 * x end)
      assert.equal(42, unsync[kind](function() return double(21):await() end)():await())
      local back = echo(double):await()
      assert.equal(4, back(2):await())
      local down
      down = unsync[kind](function(n)
        if n == 0 then return "ground" end
        return down(n - 1):await()
      end)
      assert.equal("ground", down(3):await())
    end)

    it("carries futures inside of tables, the same as the same", function()
      local promise = unsync.promise()
      local wait = unsync[kind](function(t) return rawequal(t.a, t.list[1]), t.a:await() end)
      local future = wait({a = promise, list = {promise}})
      promise:resolve("settled")
      assert.same({true, "settled"}, {future:await()})
      assert.is_true(rawequal(promise, (echo({promise}):await())[1]))
    end)

    it("carries objects that pack themselves", function()
      local module = require("spec.support.codec_module")
      local connection = module.connect("example", 80)
      local host, port = unsync[kind](function(c) return c.host, c.port end)(connection):await()
      assert.equal("example", host)
      assert.equal(80, port)
    end)

    it("keeps the values and the kind of errors", function()
      local err = failure(function() unsync[kind](function() error({code = "mine", list = {1}}) end)():await() end)
      assert.same({code = "mine", list = {1}}, err)
      assert.equal("plain", failure(function() unsync[kind](function() error("plain", 0) end)():await() end))
      err = failure(function() unsync[kind](function() return coroutine.create(print) end)():await() end)
      assert.equal("unsendable", err.code)
      assert.equal("result 1", err.path)
    end)

    it("refuses at once what cannot cross, and says where it is", function()
      local started = false
      local thread = coroutine.create(print)
      local function path(fn, ...)
        local err = failure(unsync[kind](fn), ...)
        assert.equal("unsendable", err.code)
        assert.equal("unsendable: " .. err.path .. ": coroutine", tostring(err))
        return err.path
      end
      assert.equal("argument 1", path(same, thread))
      assert.equal("argument 2.conn.socket", path(same, 1, {conn = {socket = thread}}))
      assert.equal("argument 2.conn[3].socket", path(same, 1, {conn = {1, 2, {socket = thread}}}))
      assert.equal("key of argument 1", path(same, {[thread] = true}))
      assert.equal("upvalue thread", path(function() return thread, started end))
      local helper = function() return thread end
      assert.equal("upvalue helper, upvalue thread", path(function() return helper() end))
      local file = io.tmpfile()
      local err = failure(echo, {log = file})
      assert.equal("argument 1.log", err.path)
      assert.equal('unsendable: argument 1.log: userdata "FILE*"', tostring(err))
      file:close()
      err = failure(echo, setmetatable({}, {__gc = function() end}))
      assert.equal("argument 1", err.path)
      assert.is_false(started)
    end)
  end)
end

describe("long strings", function()
  it("outlive the state that made them", function()
    local make = unsync.thread(function(n) return ("long"):rep(n) end, {fresh = true})
    local futures = {}
    for i = 1, 20 do futures[i] = make(10000 + i) end
    collectgarbage()
    for i = 1, 20 do assert.is_true(futures[i]:await() == ("long"):rep(10000 + i)) end
  end)

  it("may still be on their way when the program ends", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local echo = unsync.thread(function(...) return ... end)
      for i = 1, 50 do echo(("x"):rep(100000 + i), i) end
      print "end"
    ]])
    assert.equal("end\n", ran.out)
    assert.equal(0, ran.code)
  end)
end)

describe("memory", function()
  it("does not grow with calls #memory", function()
    local call = unsync.thread(function(t, f) return {t, f(1)} end)
    local function round()
      for i = 1, 300 do
        local n = i
        call({id = i, name = "n" .. i, text = ("t"):rep(5000)}, function(x) return x + n end):await()
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage("count")
    end
    round()
    local before = round()
    for _ = 1, 5 do round() end
    assert.is_true(round() < before + 100)
  end)
end)
