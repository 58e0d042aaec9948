-- thread functions: truly parallel, in Lua states of their own, with everything that works in the script working there.
local unsync = require("unsync")
local script = require("spec.support.script")
local gate = require("spec.support.gate")

local function error_of(future)
  local ok, err = pcall(future.await, future, 20 * script.slowness)
  assert.is_false(ok)
  return err
end

--- Runs with a module of that name to be found by workers, too.
local function with_module(name, text, body)
  script.file(name .. ".lua", text)
  local path = package.path
  package.path = script.path("?.lua") .. ";" .. path
  local ok, err = pcall(body)
  package.path = path
  if not ok then error(err, 0) end
end

describe("unsync.thread", function()
  it("returns every result in order, nils included", function()
    local gap = unsync.thread(function(...) return ... end)
    assert.same(table.pack(1, nil, 3), table.pack(gap(1, nil, 3):await()))
    assert.same(table.pack(nil, nil), table.pack(gap(nil, nil):await()))
    assert.same(table.pack(), table.pack(gap():await()))
  end)

  it("runs calls at the same time: two that wait for each other's word meet", function()
    local first, second = gate.new(), gate.new()
    local spin_until = unsync.thread(function(mine, other)
      mine:resolve(true)
      -- Without lending its thread: it looks, and does not wait.
      while not other:done() do end
      return "met"
    end)
    local a, b = spin_until(first, second), spin_until(second, first)
    assert.equal("met", gate.within(a, 20))
    assert.equal("met", gate.within(b, 20))
  end)

  it("does not keep the loop from turning", function()
    local stop = gate.new()
    local busy = unsync.thread(function()
      while not stop:done() do end
      return "stopped"
    end)()
    local ticks = 0
    for _ = 1, 20 do
      unsync.sleep(0.0005)
      ticks = ticks + 1
    end
    assert.is_false(busy:done())
    stop:resolve()
    assert.equal("stopped", busy:await())
    assert.equal(20, ticks)
  end)

  it("makes methods, and can be called again and again", function()
    local Job = {}
    Job.__index = Job
    Job.run = unsync.thread(function(self, by) return self.n * by end)
    local job = setmetatable({n = 6}, nil)
    job.run = Job.run
    local futures = {}
    for i = 1, 100 do futures[i] = Job.run({n = i}, 2) end
    for i = 1, 100 do assert.equal(2 * i, futures[i]:await()) end
  end)

  it("runs C functions by the name that a module has for them", function()
    assert.equal("AB", unsync.thread(string.upper)("ab"):await())
    assert.equal(2, unsync.thread(math.floor)(2.5):await())
  end)

  it("raises at the call for what cannot run there", function()
    assert.error_matches(function() unsync.thread(nil) end, "function or native task's name expected")
    assert.error_matches(function() unsync.thread() end, "function or native task's name expected")
    assert.error_matches(function() unsync.thread(12) end, "function or native task's name expected")
    assert.error_matches(function() unsync.thread({}) end, "function or native task's name expected")
    local ok, err = pcall(unsync.thread, "no.such")
    assert.is_false(ok)
    assert.matches("no", tostring(err))
    assert.error_matches(function() unsync.thread(coroutine.wrap(function() end)) end, "C function")
    assert.error_matches(function() unsync.thread(function() end, {frsh = true}) end, "frsh")
  end)
end)

describe("the state of a worker", function()
  it("has the whole library: io, sleep, promises, luv, and a loop of its own", function()
    assert.same({"slept", 3, "luv", 7, true}, {unsync.thread(function()
      local uns = require("unsync")
      local uv = require("luv")
      uns.sleep(0.001)
      local sum = uns.io(function(a, b) uns.yield() return a + b end)(1, 2):await()
      local promise = uns.promise()
      local timer = uv.new_timer()
      timer:start(1, 0, function() timer:close() promise:resolve("luv") end)
      local word = promise:await()
      local list = {3, 1, 2}
      table.sort(list, function(a, b) uns.yield() return a < b end)
      local seven = 0
      for n in coroutine.wrap(function() for i = 3, 4 do uns.sleep(0) coroutine.yield(i) end end) do
        seven = seven + n
      end
      return "slept", sum, word, seven, list[1] == 1
    end)():await()})
  end)

  it("is kept between calls, with what modules hold", function()
    local text = "local m = {n = 0} function m.next() m.n = m.n + 1 return m.n end return m"
    with_module("counting_module", text, function()
      local last
      local next_number = unsync.thread(function() return require("counting_module").next() end)
      for _ = 1, 20 do last = next_number():await() end
      -- There may be several states by now; if each call had a new one, this would be 1.
      assert.is_true(last > 1)
    end)
  end)

  it("is a new one for each call with fresh = true", function()
    with_module("fresh_module", "local m = {n = 0} function m.next() m.n = m.n + 1 return m.n end return m", function()
      local next_number = unsync.thread(function()
        leftover = (leftover or 0) + 1 -- luacheck: ignore
        return require("fresh_module").next() + leftover - 1 -- luacheck: ignore
      end, {fresh = true})
      for _ = 1, 10 do assert.equal(1, next_number():await()) end
    end)
  end)

  it("has globals of its own", function()
    _G.spec_global = "here"
    local there = unsync.thread(function()
      local before = rawget(_G, "spec_global")
      rawset(_G, "spec_global", "there")
      return before
    end)
    assert.is_true(there():await() ~= "here")
    assert.equal("here", _G.spec_global)
    _G.spec_global = nil
  end)

  it("looks for modules where the caller does, also after the caller's path has changed", function()
    script.file("found_later.lua", "return 'found'")
    local find = unsync.thread(function() return select(2, pcall(require, "found_later")) end)
    assert.matches("not found", find():await())
    local path = package.path
    package.path = script.path("?.lua") .. ";" .. path
    local found = find():await()
    package.path = path
    assert.equal("found", found)
  end)

  it("sees upvalues as they were at the call, and forgets what a call changes in them", function()
    local count, list = 1, {1}
    local bump = unsync.thread(function()
      count = count + 1
      list[#list + 1] = count
      return count, #list
    end)
    local first = bump()
    count, list[2] = 10, 2
    local second = bump()
    assert.same({2, 2}, {first:await()})
    assert.same({11, 3}, {second:await()})
    assert.same({11, 3}, {bump():await()})
    assert.equal(10, count)
    assert.same({1, 2}, list)
  end)

  it("shares no table with the script", function()
    local list = {1, 2, {3}}
    local change = unsync.thread(function(t)
      t[1], t[3][1] = "changed", "changed"
      return t
    end)
    local copy = change(list):await()
    assert.same({1, 2, {3}}, list)
    assert.same({"changed", 2, {"changed"}}, copy)
  end)

  it("says what is wrong where a global is missing", function()
    _G.spec_helper = function() end
    local err = error_of(unsync.thread(function() return spec_helper() end)()) -- luacheck: ignore
    _G.spec_helper = nil
    assert.matches("global 'spec_helper' is set where this was declared, not in the worker", tostring(err), 1, true)
    local plain = error_of(unsync.thread(function() return nobody_has_this() end)()) -- luacheck: ignore
    assert.matches("global 'nobody_has_this'", tostring(plain))
    assert.not_matches("where this was declared", tostring(plain))
  end)

  it("loads a module that waits in its body, also for two calls at once", function()
    with_module("waiting_in_thread", [[
      local unsync = require "unsync"
      unsync.sleep(0.005)
      return {value = 42}
    ]], function()
      local module = require("waiting_in_thread")
      local read = unsync.thread(function() return module.value end)
      local a, b = read(), read()
      assert.same({42, 42}, {a:await(), b:await()})
    end)
  end)
end)

describe("an error in a thread", function()
  it("keeps its kind and value", function()
    local fail = unsync.thread(function(err) error(err, 0) end)
    for _, err in ipairs({"text", "with \0 zero", 12, 1.5, true, math.huge, {1, {2}, code = "x"}}) do
      assert.same(err, error_of(fail(err)))
      assert.equal(math.type(err), math.type(error_of(fail(err))))
    end
    assert.is_nil(error_of(unsync.thread(function() error() end)()))
  end)

  it("keeps the class of an error object, where a module holds that", function()
    with_module("error_class", [[
      local Error = {__tostring = function(self) return "Error: " .. self.what end}
      Error.__index = Error
      function Error.new(what) return setmetatable({what = what}, Error) end
      return Error
    ]], function()
      local Error = require("error_class")
      local err = error_of(unsync.thread(function() error(Error.new("broken")) end)())
      assert.equal(Error, getmetatable(err))
      assert.equal("Error: broken", tostring(err))
    end)
  end)

  it("of the runtime is one here, too, with code and tostring", function()
    local err = error_of(unsync.thread(function() require("unsync").promise():await(0.001) end)())
    assert.equal("timeout", err.code)
    assert.matches("timeout", tostring(err))
  end)

  it("has a position as usual, where one is added", function()
    assert.matches("thread_spec.lua:%d+: wrong$", error_of(unsync.thread(function() error("wrong") end)()))
  end)
end)

describe("what cannot cross", function()
  local userdata = io.tmpfile()

  local function refused(fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok)
    assert.equal("unsendable", err.code, tostring(err))
    assert.matches(err.path, tostring(err), 1, true)
    return err.path
  end

  it("is refused by the call itself in arguments and upvalues, with the path, and nothing has run", function()
    local ran = unsync.promise()
    local same = unsync.thread(function(...) ran:resolve() return ... end)
    assert.equal("argument 1", refused(same, userdata))
    assert.equal("argument 2.conn[3].socket", refused(same, 1, {conn = {1, 2, {socket = userdata}}}))
    assert.equal("argument 1", refused(same, coroutine.create(print)))
    assert.equal("key of argument 1", refused(same, {[userdata] = 1}))
    local uses_it = unsync.thread(function() return userdata end)
    assert.equal("upvalue userdata", refused(uses_it))
    local config = {log = {file = userdata}}
    assert.equal("upvalue config.log.file", refused(unsync.thread(function() return config end)))
    unsync.thread(function() end)():await()
    assert.is_false(ran:done())
  end)

  it("fails the future in results, with the path", function()
    local err = error_of(unsync.thread(function() return 1, {a = io.tmpfile()} end)())
    assert.equal("unsendable", err.code)
    assert.equal("result 2.a", err.path)
    assert.equal("result 1", error_of(unsync.thread(function() return coroutine.create(print) end)()).path)
  end)

  it("fails the future in errors, with the path", function()
    local err = error_of(unsync.thread(function() error({file = io.tmpfile()}) end)())
    assert.equal("unsendable", err.code)
    assert.equal("error.file", err.path)
    err = error_of(unsync.thread(function() error(io.tmpfile()) end)())
    assert.equal("unsendable", err.code)
    assert.equal("error", err.path)
  end)

  it("leaves the worker fit for the next call", function()
    for _ = 1, 10 do
      error_of(unsync.thread(function() return io.tmpfile() end)())
      assert.equal(1, unsync.thread(function() return 1 end)():await())
    end
  end)
end)

describe("futures and wrapped functions in threads", function()
  it("are awaited there, whoever settles them", function()
    local task = unsync.spawn(function() unsync.sleep(0.002) return "from the script", nil end)
    local there = unsync.thread(function() return task:await() end)()
    assert.same(table.pack("from the script", nil), table.pack(there:await()))
    local other = unsync.thread(function() return "from a thread" end)()
    assert.equal("from a thread", unsync.thread(function(f) return f:await() end)(other):await())
    local failed = unsync.spawn(function() unsync.yield() error("of a task", 0) end)
    assert.equal("of a task", error_of(unsync.thread(function() failed:await() end)()))
  end)

  it("say there what they are", function()
    local task = unsync.io(function() unsync.sleep(0.002) end, {name = "sleeper"})()
    assert.matches("io sleeper", unsync.thread(function() return tostring(task) end)():await())
    task:await()
  end)

  it("of a kind of their own run there as they were declared", function()
    local add = unsync.io(function(a, b) unsync.yield() return a + b end)
    local double = unsync.thread(function(x) return 2 * x end)
    assert.equal(3, unsync.thread(function() return add(1, 2):await() end)():await())
    assert.equal(8, unsync.thread(function() return double(4):await() end)():await())
    assert.equal(10, unsync.thread(function(f) return f(5):await() end)(double):await())
    local fib
    fib = unsync.thread(function(n) if n < 2 then return n end return fib(n - 1):await() + fib(n - 2):await() end)
    assert.equal(21, fib(8):await())
  end)

  it("mix: a thread in io in a thread", function()
    local innermost = unsync.thread(function(x) return x .. ", thread" end)
    local middle = unsync.io(function(x) return innermost(x .. ", io"):await() end)
    local outer = unsync.thread(function(x) return middle(x .. ", thread"):await() end)
    assert.equal("start, thread, io, thread", outer("start"):await())
  end)

  it("are ended before the call is: what it started and left", function()
    local promise = unsync.promise()
    unsync.thread(function()
      local uns = require("unsync")
      uns.spawn(function()
        uns.sleep(0.01)
        promise:resolve("done in time")
      end)
    end)():await()
    assert.equal("done", promise:status())
    promise:await()
  end)
end)

describe("the thread pool", function()
  it("is not starved by calls nested 200 deep #slow", function()
    local down
    down = unsync.thread(function(n)
      if n == 0 then return 0 end
      return down(n - 1):await() + 1
    end)
    assert.equal(200, gate.within(down(200), 60))
  end)

  it("is not starved by as many waiting calls as one likes, as long as there are at most 256 #slow", function()
    local start = unsync.promise()
    local futures = {}
    for i = 1, 250 do futures[i] = unsync.thread(function() return start:await() end)() end
    local through = unsync.thread(function() return "through" end)()
    assert.equal("through", gate.within(through, 30))
    start:resolve("started")
    for i = 1, 250 do assert.equal("started", futures[i]:await()) end
  end)

  it("fails a call with limit where too many wait #slow", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local start = unsync.promise()
      local futures, counts = {}, {}
      for i = 1, 700 do futures[i] = unsync.thread(function() return start:await() end)() end
      local function limited()
        for _, future in ipairs(futures) do if future:done() then return true end end
      end
      local deadline = unsync.now() + 30
      while not limited() and unsync.now() < deadline do unsync.sleep(0.01) end
      start:resolve("started")
      for _, future in ipairs(futures) do
        local ok, value = pcall(future.await, future)
        local key = ok and value or value.code
        counts[key] = (counts[key] or 0) + 1
      end
      print(counts.limit and counts.limit >= 1, (counts.limit or 0) + (counts.started or 0))
    ]])
    assert.same({"", "true\t700\n", 0}, {ran.err, ran.out, ran.code})
  end)

  it("grows while a blocking library holds its threads, and shrinks again #slow #plain", function()
    local out = script.output([[
      local unsync = require "unsync"
      local script = require "spec.support.script"
      local uv = require "luv"
      -- A server that answers when all have come: only possible if all block at once.
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      local clients, count = {}, 12
      server:listen(128, function()
        local client = uv.new_tcp()
        server:accept(client)
        clients[#clients + 1] = client
        if #clients == count then
          for _, each in ipairs(clients) do each:write("now\n") each:shutdown(function() each:close() end) end
          server:close()
        end
      end)
      local port = server:getsockname().port
      local before = script.threads()
      local read = unsync.thread(function()
        local socket = require("socket")
        local client = assert(socket.connect("127.0.0.1", port))
        local line = assert(client:receive("*l"))
        client:close()
        return line
      end)
      local futures = {}
      for i = 1, count do futures[i] = read() end
      for i = 1, count do print(futures[i]:await()) end
      -- The surplus goes after a second without work.
      print(script.eventually(function() return script.threads() <= before + 4 end, 10))
    ]], {env = {LUA_PATH = "./?.lua;;"}})
    assert.equal(("now\n"):rep(12) .. "true\n", out)
  end)

  it("has a thread for each call that blocks, also when the last ones were about to leave #slow", function()
    local fifo = script.path("pool-fifo")
    assert(os.execute("mkfifo " .. script.quote(fifo)))
    local block = unsync.thread(function(started)
      started:resolve()
      io.open(fifo, "r"):close() -- returns when all have started, and somebody opens the other end
    end)
    -- Surplus threads leave after a second without work.
    for _, pause in ipairs {0, 0.99, 0.001, 1, 0.01, 1.01, 0.1, 1.1} do
      local started, calls = {}, {}
      for i = 1, 10 do
        started[i] = unsync.promise()
        calls[i] = block(started[i])
      end
      for i = 1, 10 do started[i]:await(30 * script.slowness) end
      local writer = assert(io.open(fifo, "w"))
      unsync.all(calls):await()
      unsync.sleep(pause)
      writer:close()
    end
  end)

  it("downloads with a blocking library in parallel #slow #plain", function()
    local port = unsync.promise()
    local uv = require("luv")
    local stdin, stdout = uv.new_pipe(), uv.new_pipe()
    local child = uv.spawn(script.program, {args = {"spec/support/http_server.lua"}, stdio = {stdin, stdout, 2}},
      function() end)
    stdout:read_start(function(_, data)
      if data and not port:done() then port:resolve(tonumber(data:match("%d+"))) end
    end)
    local number = gate.within(port, 20)
    local download = unsync.thread(function(url)
      local body = assert(require("socket.http").request(url))
      return #body
    end)
    local before = unsync.now()
    local futures = {}
    for i = 1, 10 do futures[i] = download(("http://127.0.0.1:%d/?delay=0.3&size=%d"):format(number, i * 1000)) end
    for i = 1, 10 do assert.equal(i * 1000, futures[i]:await()) end
    local took = unsync.now() - before
    stdin:close()
    stdout:close()
    child:close()
    assert.is_true(took < 1.5 * script.slowness, took .. " s")
  end)

  it("takes 10,000 calls at once #slow", function()
    local futures = {}
    local double = unsync.thread(function(x) return 2 * x end)
    for i = 1, 10000 do futures[i] = double(i) end
    for i = 1, 10000 do assert.equal(2 * i, futures[i]:await()) end
  end)
end)
