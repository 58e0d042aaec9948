-- The end: whatever is still going on, the program ends in order, with the right exit code, and leaves nothing behind.
local script = require("spec.support.script")

local function ends(code, options)
  local ran = script.run('local unsync = require "unsync"\n' .. code, options)
  return ran.code, ran.err, ran.out
end

-- Work under way on every executor that has one: {what it is, how it is started}.
local in_flight = {
  {"a sleeping task", "unsync.spawn(unsync.sleep, 100)"},
  {"a task that waits in a generator", [[
    unsync.spawn(function() for _ in coroutine.wrap(function() unsync.sleep(100) end) do end end)]]},
  {"a thread that sleeps in Lua", "unsync.thread(function() require'unsync'.sleep(100) end)()"},
  {"a thread that awaits the script", [[
    local never = unsync.spawn(unsync.sleep, 100) unsync.thread(function() return never:await() end)()]]},
  {"a thousand queued thread calls", [[
    local f = unsync.thread(function() require'unsync'.sleep(100) end) for i = 1, 1000 do f() end]]},
  {"nested thread calls", [[
    local f f = unsync.thread(function(n) if n == 0 then require'unsync'.sleep(100) end return f(n - 1):await() end)
    f(10)]]},
  {"calls under a limit that no cancellation reaches", [[
    local f = unsync.io(function() unsync.shield(unsync.sleep, 100) end, {limit = 1}) f() f()]]},
  {"a luv timer", "local uv = require'luv' kept = uv.new_timer() kept:start(100000, 0, print)"},
  {"a luv server and its client", [[
    local uv = require'luv'
    server = uv.new_tcp() server:bind("127.0.0.1", 0) server:listen(8, function() end)
    client = uv.new_tcp() client:connect("127.0.0.1", server:getsockname().port, function() end)]]},
  {"an HTTP request", [[
    local uv = require'luv'
    server = uv.new_tcp() server:bind("127.0.0.1", 0) server:listen(8, function() end)
    require'unsync.http'.get("http://127.0.0.1:" .. server:getsockname().port .. "/")]]},
  {"a shell command", "unsync.spawn(os.execute, 'exec sleep 100')"},
}

describe("an error in main", function()
  for _, case in ipairs(in_flight) do
    it("ends the program although there is " .. case[1] .. " #memcheck", function()
      local code = 'local unsync = require "unsync"\n%s\nunsync.sleep(0.01)\nerror("main ends")'
      local ran = script.run(code:format(case[2]))
      assert.equal(1, ran.code, ran.err)
      assert.matches("main ends", ran.err)
      assert.is_true(ran.seconds < 10 * script.slowness, ran.seconds)
    end)
  end
end)

describe("os.exit", function()
  for _, case in ipairs(in_flight) do
    it("ends the program although there is " .. case[1], function()
      for _, exit in ipairs({"os.exit(5)", "os.exit(5, true)", "unsync.spawn(os.exit, 5)",
        "unsync.spawn(function() unsync.yield() os.exit(5, true) end) unsync.sleep(100)"}) do
        local ran = script.run(('local unsync = require "unsync"\n%s\nunsync.sleep(0.005)\n%s'):format(case[2], exit))
        assert.same({5, ""}, {ran.code, ran.err}, exit)
        assert.is_true(ran.seconds < 10 * script.slowness, ran.seconds)
      end
    end)
  end

  it("with true closes the state: finalizers run, and what is to be closed in main is", function()
    assert.same({0, "", "closed\ncollected\n"}, {ends([[
      kept = setmetatable({}, {__gc = function() print("collected") end})
      local guard <close> = setmetatable({}, {__close = function() print("closed") end})
      os.exit(0, true)
    ]])})
  end)
end)

describe("the end of the script", function()
  it("waits for every kind of work that was started, without being told", function()
    local code, err, out = ends([[
      local gate = unsync.promise()
      unsync.spawn(function() unsync.sleep(0.005) print("task") gate:resolve() end)
      unsync.thread(function() gate:await() require'unsync'.sleep(0.005) print("thread") end)()
      local timer = require'luv'.new_timer()
      timer:start(30, 0, function() timer:close() print("timer") end)
    ]])
    assert.same({0, "", "task\nthread\ntimer\n"}, {code, err, out})
  end)

  it("runs finalizers, which may still look at futures, but not wait", function()
    local code, err, out = ends([[
      local settled, pending = unsync.resolved(7), unsync.promise()
      kept = setmetatable({}, {__gc = function()
        print(settled:await(), pending:status(), pcall(pending.await, pending) == false)
      end})
    ]])
    assert.same({0, "", "7\tpending\ttrue\n"}, {code, err, out})
  end)

  it("bears finalizers that start, resolve and cancel, in the script and in workers", function()
    local body = [[
      local unsync = require "unsync"
      local promise = unsync.promise()
      local shared = unsync.promise()
      unsync.thread(function() return shared:status() end)():await()
      local add = unsync.thread(function(a) return a end)
      kept = setmetatable({}, {__gc = function()
        promise:resolve(1)
        shared:resolve(2)
        pcall(unsync.spawn, function() end)
        pcall(unsync.spawn, unsync.sleep, 1)
        pcall(add, 1)
        pcall(unsync.thread, print)
        pcall(unsync.sleep, 1)
        pcall(unsync.rejected, "x")
        pcall(function() promise:cancel() end)
        collectgarbage()
      end})
    ]]
    assert.equal(0, (ends(body)))
    assert.equal(0, (ends("unsync.thread(function() " .. body .. " end)():await()")))
    assert.equal(0, (ends("unsync.thread(function() " .. body .. " end, {fresh = true})():await()")))
    assert.equal(0, (ends(body .. " os.exit(0, true)")))
  end)

  it("waits for threads that have nothing to do, however little time there is", function()
    local code, err, out = ends([[
      local keep = unsync.thread(function()
        require'unsync'.sleep(0.001) -- lends its place, so that there are several
        if not kept then io.write("o") end
        kept = setmetatable({}, {__gc = function() io.write("c") end})
      end)
      local calls = {}
      for n = 1, 6 do calls[n] = keep() end
      for n = 1, 6 do calls[n]:await() end
    ]], {env = {UNSYNC_GRACE = "0"}})
    assert.same({0, ""}, {code, err})
    local opened = select(2, out:gsub("o", ""))
    assert.is_true(opened > 0 and select(2, out:gsub("c", "")) >= opened, out)
  end)

  for what, body in pairs({computes = "while true do end", blocks = "io.open(arg[1])"}) do
    it("does not wait for a finalizer in a thread that never ends, as it " .. what, function()
      local fifo = script.path("nobody_writes_" .. what)
      assert.is_true(os.execute("mkfifo " .. script.quote(fifo)))
      local ran = script.run(([[
        require"unsync".thread(function(arg)
          kept = setmetatable({}, {__gc = function() %s end})
        end)(arg):await()
      ]]):format(body), {args = {fifo}, env = {UNSYNC_GRACE = "0.01"}})
      assert.equal(0, ran.code, ran.err)
    end)
  end

  it("comes in order after thousands of futures in every state #slow", function()
    local code, err = ends([[
      kept = {}
      local double = unsync.thread(function(x) return 2 * x end)
      for i = 1, 2000 do
        kept[#kept + 1] = unsync.promise()
        kept[#kept + 1] = unsync.resolved(i)
        kept[#kept + 1] = double(i)
        kept[#kept + 1] = unsync.spawn(function() unsync.yield() end)
      end
    ]])
    assert.same({0, ""}, {code, err})
  end)

  it("leaves no zombie, no thread and no process behind", function()
    local out = script.output([[
      local unsync = require "unsync"
      local uv = require "luv"
      local pids = {}
      for i = 1, 3 do pids[i] = tonumber((io.popen("echo $$"):read("a"))) end
      for i = 1, 3 do assert(os.execute("true")) end
      unsync.thread(os.execute)("true"):await()
      collectgarbage() collectgarbage()
      print(#io.open(("/proc/self/task/%d/children"):format(uv.os_getpid())):read("a"))
    ]])
    assert.equal("0\n", out)
  end)
end)

describe("under valgrind, the end #slow #plain", function()
  local wrapper = "valgrind -q --error-exitcode=99 --errors-for-leak-kinds=definite --fair-sched=try"
    .. (pcall(script.read_file, ".ci/valgrind.supp") and " --suppressions=.ci/valgrind.supp" or "")

  local function clean(code, leaks)
    if not os.execute("command -v valgrind >/dev/null") then pending("no valgrind here") end
    local ran = script.run('local unsync = require "unsync"\n' .. code, {wrapper = wrapper .. leaks, limit_s = 120})
    assert.equal(0, ran.code, ran.err:sub(1, 4000))
  end

  it("touches and leaks nothing after a bit of everything", function()
    clean([[
      local double = unsync.thread(function(x) return 2 * x end)
      local promise, shared = unsync.promise(), unsync.promise()
      unsync.thread(function() return shared:await() end)()
      local list = {}
      for i = 1, 50 do list[i] = double(i) end
      for i = 1, 50 do assert(list[i]:await() == 2 * i) end
      pcall(promise.await, promise, 0.001)
      shared:resolve({1, {2}})
      pcall(double, io.tmpfile())
      local failed = unsync.thread(function() error({code = 1}) end)()
      pcall(failed.await, failed)
      for _ in coroutine.wrap(function() unsync.sleep(0) coroutine.yield(1) end) do end
      promise:resolve()
    ]], " --leak-check=full")
  end)

  -- What stuck threads may touch is not taken away: it goes with the process.
  it("touches nothing of what is gone, with work in flight", function()
    clean([[
      unsync.spawn(unsync.sleep, 100)
      unsync.thread(function() require'unsync'.sleep(100) end)()
      local never = unsync.promise()
      unsync.spawn(function() never:await() end)
      unsync.thread(function() return never:await() end)()
      kept = setmetatable({}, {__gc = function() never:resolve() end})
      unsync.sleep(0.05)
      os.exit(0, true)
    ]], " --leak-check=no")
  end)
end)
