local unsync = require("unsync")
local uv = require("luv")

--- Runs `code` in a program of its own: what it wrote to stdout, to stderr, and its exit code.
local function run(code)
  local out, err = uv.new_pipe(false), uv.new_pipe(false)
  local texts, ended, exit_code = {"", ""}, {unsync.promise(), unsync.promise()}, unsync.promise()
  local process
  process = assert(uv.spawn(uv.exepath(), {args = {"-e", code}, stdio = {nil, out, err}}, function(status)
    process:close()
    exit_code:resolve(status)
  end))
  for i, pipe in ipairs({out, err}) do
    pipe:read_start(function(_, bytes)
      if bytes then
        texts[i] = texts[i] .. bytes
      else
        pipe:close()
        ended[i]:resolve()
      end
    end)
  end
  ended[1]:await()
  ended[2]:await()
  return texts[1], texts[2], exit_code:await()
end

--- A promise that a timer of luv resolves.
local function resolved_by_timer(milliseconds, ...)
  local promise, timer, values = unsync.promise(), uv.new_timer(), table.pack(...)
  timer:start(milliseconds, 0, function()
    timer:close()
    promise:resolve(table.unpack(values, 1, values.n))
  end)
  return promise
end

describe("luv on the ambient loop", function()
  it("calls back while the script awaits something", function()
    assert.same({1, nil, 3}, {resolved_by_timer(5, 1, nil, 3):await()})
    local fired = false
    local timer = uv.new_timer()
    timer:start(5, 0, function()
      fired = true
      timer:close()
    end)
    local patience = unsync.now() + 10
    while not fired and unsync.now() < patience do unsync.sleep(0.01) end
    assert.is_true(fired)
  end)

  it("fires no timer early, nor long after", function()
    unsync.sleep(0.03) -- the loop's clock is as old as the turn, not as the last callback of luv
    for _, milliseconds in ipairs({1, 2, 7, 20}) do
      uv.update_time()
      local start = unsync.now()
      resolved_by_timer(milliseconds):await()
      local took = unsync.now() - start
      assert.is_true(took >= (milliseconds - 1) / 1000, took)
      assert.is_true(took < milliseconds / 1000 + 0.2, took)
    end
  end)

  it("waits for descriptors", function()
    local ends = assert(uv.pipe())
    local reader, got = uv.new_pipe(false), unsync.promise()
    reader:open(ends.read)
    reader:read_start(function(_, bytes)
      reader:close()
      got:resolve(bytes)
    end)
    unsync.spawn(function()
      unsync.sleep(0.01)
      uv.fs_write(ends.write, "hello")
      uv.fs_close(ends.write)
    end)
    assert.equal("hello", got:await())
  end)

  it("has a clock that goes on while nothing of luv's happens", function()
    local before = uv.now()
    unsync.sleep(0.02)
    assert.is_true(uv.now() - before >= 19)
  end)

  it("lets tasks run beside it, and runs beside tasks that never rest", function()
    local ticks, stop = 0, false
    local timer = uv.new_timer()
    timer:start(1, 1, function()
      ticks = ticks + 1
      if ticks == 5 then
        stop = true
        timer:close()
      end
    end)
    local turns = 0
    while not stop do
      unsync.yield()
      turns = turns + 1
    end
    assert.is_true(turns > 5)
    local idle, calls = uv.new_idle(), 0
    idle:start(function() calls = calls + 1 end)
    unsync.sleep(0.01)
    idle:close()
    assert.is_true(calls > 1)
  end)

  it("works in a thread, on that thread's own loop", function()
    local require = require
    local wait = unsync.thread(function(milliseconds)
      local mine, loop = require("unsync"), require("luv")
      local promise, timer = mine.promise(), loop.new_timer()
      timer:start(milliseconds, 0, function()
        timer:close()
        promise:resolve("done")
      end)
      return promise:await()
    end)
    local first, second = wait(20), wait(10)
    assert.equal("done", first:await())
    assert.equal("done", second:await())
  end)

  it("knows its own handles only, so that all of them may be closed", function()
    local handles = {}
    local timer = uv.new_timer()
    uv.walk(function(handle) handles[#handles + 1] = handle end)
    assert.same({timer}, handles)
    timer:close()
    unsync.sleep(0.005)
    uv.walk(function() error("none is left") end)
  end)

  describe("a callback", function()
    it("may start tasks, which may wait", function()
      local promise = unsync.promise()
      local timer = uv.new_timer()
      timer:start(1, 0, function()
        timer:close()
        unsync.spawn(function()
          unsync.sleep(0.001)
          promise:resolve("from a task")
        end)
      end)
      assert.equal("from a task", promise:await())
    end)

    it("may look at what is settled, but not wait: `unyieldable`, naming luv", function()
      local promise = unsync.promise()
      local timer = uv.new_timer()
      timer:start(1, 0, function()
        timer:close()
        local settled = unsync.resolved(5):await()
        local fine, problem = pcall(unsync.sleep, 1)
        local fine_too, other = pcall(function() return unsync.promise():await() end)
        promise:resolve(settled, fine, problem, fine_too, other)
      end)
      local settled, fine, problem, fine_too, other = promise:await()
      assert.equal(5, settled)
      assert.is_false(fine)
      assert.equal("unyieldable", problem.code)
      assert.matches("luv", problem.message)
      assert.is_false(fine_too)
      assert.equal("unyieldable", other.code)
    end)

    it("is told its own line where a wait is refused, whatever part of unsync was to wait", function()
      local messages, timer = unsync.promise(), uv.new_timer()
      local function wait() return unsync.promise():await() end
      local verbs = {
        function() return (unsync.sleep(1)) end,
        function() return (unsync.scope(print)) end,
        function() return (unsync.retry(error, {attempts = 2})) end,
        function() local results <close> = unsync.map(wait, {1}) return (results()) end,
        function() return (unsync.as_completed{unsync.promise()}()) end,
        function() return (unsync.every(1)()) end,
      }
      timer:start(1, 0, function()
        timer:close()
        local list = {}
        for i, verb in ipairs(verbs) do list[i] = tostring(select(2, pcall(verb))) end
        messages:resolve(list)
      end)
      local source = debug.getinfo(1, "S").short_src:gsub("%p", "%%%0")
      for i, message in ipairs(messages:await()) do
        local line = debug.getinfo(verbs[i], "S").linedefined
        assert.matches(("^%s:%d: cannot wait here: this is a callback of luv"):format(source, line), message)
      end
    end)

    it("that raises is reported with its traceback, and the program goes on to exit code 1", function()
      local out, err, code = run([[
        local uv = require("luv")
        local timer = uv.new_timer()
        timer:start(1, 0, function()
          timer:close()
          error("oops")
        end)
        require("unsync").sleep(0.02)
        print("went on")
      ]])
      assert.equal("went on\n", out)
      assert.matches("luv.*oops\nstack traceback:\n", err)
      assert.equal(1, code)
    end)

    it("that raises what is no string is reported too", function()
      local _, err, code = run([[
        local uv = require("luv")
        local function soon(fn)
          local timer = uv.new_timer()
          timer:start(1, 0, function() timer:close() fn() end)
        end
        soon(function() error(setmetatable({}, {__tostring = function() return "an object" end})) end)
        soon(function() error(setmetatable({}, {__tostring = function() error("worse") end})) end)
        soon(function() error() end)
      ]])
      assert.matches("an object", err)
      assert.matches("nil", err)
      assert.equal(1, code)
    end)

    it("may resume a coroutine that waits for it", function()
      local co = coroutine.running
      local log = {}
      local generator = coroutine.wrap(function()
        local me = co()
        local timer = uv.new_timer()
        timer:start(1, 0, function()
          timer:close()
          coroutine.resume(me, "resumed")
        end)
        log[1] = coroutine.yield("waiting")
      end)
      assert.equal("waiting", generator())
      uv.run()
      assert.equal("resumed", log[1])
    end)
  end)

  describe("uv.run", function()
    it("waits until luv's own handles have ended, and lets other tasks run", function()
      local other = 0
      local task = unsync.spawn(function()
        while true do
          unsync.sleep(0.001)
          other = other + 1
          if other == 1000 then return end
        end
      end)
      local timer = uv.new_timer()
      timer:start(1, 1, function()
        if other > 0 then timer:close() end
      end)
      assert.is_false(uv.run())
      assert.is_true(other > 0)
      assert.is_false(task:done())
      other = 999
      task:await()
    end)

    it("returns at once where nothing is active", function()
      assert.is_false(uv.run())
      assert.is_false(uv.run("once"))
      assert.is_false(uv.run("nowait"))
      local timer = uv.new_timer()
      timer:start(1000, 0, function() end)
      timer:unref()
      assert.is_false(uv.run())
      timer:close()
      uv.run()
    end)

    it("ends when another task closes the last handle", function()
      local timer = uv.new_timer()
      timer:start(100000, 0, function() end)
      unsync.spawn(function()
        unsync.sleep(0.005)
        timer:close()
      end)
      assert.is_false(uv.run())
    end)

    it("does one pass with 'once', which waits, and with 'nowait', which does not", function()
      local count = 0
      local timer = uv.new_timer()
      timer:start(5, 5, function() count = count + 1 end)
      assert.is_true(uv.run("nowait"))
      assert.equal(0, count)
      assert.is_true(uv.run("once"))
      assert.equal(1, count)
      assert.is_true(uv.run("once"))
      assert.equal(2, count)
      timer:close()
      assert.is_false(uv.run("once"))
      assert.has_error(function() uv.run("never") end)
    end)

    it("ends by uv.stop, called before, inside, or by another task", function()
      local timer = uv.new_timer()
      timer:start(100000, 0, function() end)
      uv.stop()
      assert.is_true(uv.run())
      local other = uv.new_timer()
      other:start(1, 0, function()
        other:close()
        uv.stop()
      end)
      assert.is_true(uv.run())
      unsync.spawn(function()
        unsync.sleep(0.005)
        uv.stop()
      end)
      assert.is_true(uv.run())
      timer:close()
      assert.is_false(uv.run())
    end)

    it("may be called by several tasks at once", function()
      local timer = uv.new_timer()
      timer:start(5, 0, function() timer:close() end)
      local first, second = unsync.spawn(uv.run), unsync.spawn(uv.run)
      assert.is_false(first:await())
      assert.is_false(second:await())
    end)

    it("is refused inside a callback, which leaves the outer one unharmed", function()
      local problem
      local timer = uv.new_timer()
      timer:start(1, 0, function()
        local _, raised = pcall(uv.run)
        problem = raised
        timer:close()
      end)
      assert.is_false(uv.run())
      assert.equal("unyieldable", problem.code)
      assert.matches("luv", problem.message)
    end)

    it("can be given up like any wait", function()
      local timer = uv.new_timer()
      timer:start(100000, 0, function() end)
      local running = unsync.spawn(uv.run)
      local fine, problem = pcall(running.await, running, 0.005)
      assert.is_false(fine)
      assert.equal("timeout", problem.code)
      timer:close()
      assert.is_false(running:await())
    end)

    it("shows in uv.loop_mode and uv.loop_alive", function()
      assert.is_nil(uv.loop_mode())
      assert.is_false(uv.loop_alive())
      local modes = {}
      local timer = uv.new_timer()
      timer:start(1, 1, function() modes[#modes + 1] = uv.loop_mode() end)
      assert.is_true(uv.loop_alive())
      uv.run("once")
      local closer = uv.new_timer()
      closer:start(10, 0, function()
        timer:close()
        closer:close()
      end)
      uv.run()
      assert.equal("once", modes[1])
      assert.equal("default", modes[#modes])
      assert.is_nil(uv.loop_mode())
    end)
  end)

  it("closes its loop when it is unused, and goes on with another", function()
    local timer = uv.new_timer()
    local done, message, name = uv.loop_close()
    assert.is_nil(done)
    assert.matches("EBUSY", message)
    assert.equal("EBUSY", name)
    timer:close()
    uv.run()
    assert.equal(0, uv.loop_close())
    assert.equal(3, resolved_by_timer(1, 3):await())
  end)

  it("keeps the program going as long as a handle is active", function()
    local out, err, code = run([[
      local uv = require("luv")
      local timer = uv.new_timer()
      timer:start(10, 0, function()
        print("fired")
        timer:close()
      end)
      uv.new_timer():start(100000, 0, print)
      uv.walk(function(handle) if handle ~= timer then handle:unref() end end)
    ]])
    assert.equal("fired\n", out)
    assert.equal("", err)
    assert.equal(0, code)
  end)

  it("is hope for whoever awaits, and none once it is quiet: `deadlock`", function()
    assert.equal(1, resolved_by_timer(20, 1):await())
    local _, err, code = run([[
      local uv, unsync = require("luv"), require("unsync")
      local timer = uv.new_timer()
      timer:start(10, 0, function() timer:close() end)
      unsync.promise():await()
    ]])
    assert.matches("deadlock", err)
    assert.equal(1, code)
  end)

  it("runs what is unreferenced as long as something else goes on", function()
    local count = 0
    local timer = uv.new_timer()
    timer:start(2, 2, function() count = count + 1 end)
    timer:unref()
    unsync.sleep(0.03)
    timer:close()
    assert.is_true(count > 1)
  end)

  it("runs programs and hears how they end", function()
    local ended = unsync.promise()
    local process
    process = assert(uv.spawn("/bin/sh", {args = {"-c", "exit 7"}}, function(code, signal)
      process:close()
      ended:resolve(code, signal)
    end))
    assert.same({7, 0}, {ended:await()})
  end)

  it("runs work in its own threads", function()
    local done = unsync.promise()
    local work = uv.new_work(function(a, b) return a + b end, function(sum) done:resolve(sum) end)
    work:queue(3, 4)
    assert.equal(7, done:await())
  end)

  it("ends with everything open", function()
    for _, last in ipairs({"", "error('the end')", "os.exit(0, true)"}) do
      local out, err, code = run([[
        local uv = require("luv")
        uv.new_timer():start(100000, 0, print)
        local closed = uv.new_timer()
        closed:close()
        local server = uv.new_tcp()
        server:bind("127.0.0.1", 0)
        server:listen(5, print)
        local client = uv.new_tcp()
        client:connect("127.0.0.1", server:getsockname().port, print)
        uv.fs_scandir(".", print)
        uv.fs_stat(".", print)
        uv.new_idle():start(function() end)
        uv.walk(function(handle) if not handle:is_closing() then handle:unref() end end)
      ]] .. last)
      assert.equal(last:find("error") and 1 or 0, code)
      if last ~= "" then assert.equal("", out) end
      assert.equal(last:find("error") ~= nil, err:find("the end") ~= nil)
    end
  end)
end)
