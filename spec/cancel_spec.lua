-- Stopping what runs: cancellation on every executor, with clean-up, by whatever it takes.
-- What ends by itself at a point in time: deadline_spec.lua.
local gate = require("spec.support.gate")
local script = require("spec.support.script")
local unsync = require("unsync")

unsync.plugin(script.build .. "/spec/plugins/echo.so")

local function outcome(future)
  local results = table.pack(pcall(future.await, future))
  return table.unpack(results, 1, results.n)
end

--- Awaits a future that has been cancelled; returns its error.
local function cancelled(future)
  local ok, err = outcome(future)
  assert.is_false(ok)
  assert.equal("cancelled", err.code)
  assert.equal("cancelled", future:status())
  return err
end

local function closing(fn) return setmetatable({}, {__close = fn}) end

describe("a cancelled task", function()
  it("gets `cancelled` at the wait in which it stands", function()
    local seen
    local task = unsync.io(function()
      seen = select(2, pcall(unsync.sleep, 60))
      error(seen, 0)
    end, {name = "sleeper"})()
    assert.is_true(task:cancel("no need"))
    local err = cancelled(task)
    assert.equal("cancelled", seen.code)
    assert.equal("sleeper", err.task)
    assert.equal("no need", err.reason)
    assert.equal("await", err.stopped_by)
    assert.equal("sleeper was cancelled: no need", tostring(err))
    assert.is_true(task:cancelled())
    assert.equal("cancelled", task:error().code)
  end)

  it("gets it at every further wait, so that no pcall swallows it for good", function()
    local raised = 0
    local task = unsync.spawn(function()
      for _ = 1, 3 do
        local _, err = pcall(unsync.sleep, 60)
        if type(err) == "table" and err.code == "cancelled" then raised = raised + 1 end
      end
      unsync.yield()
      raised = "it went on"
    end)
    task:cancel()
    cancelled(task)
    assert.equal(3, raised)
  end)

  it("is done if it returns a value all the same, failed if it raises something else", function()
    local done = unsync.spawn(function() return pcall(unsync.sleep, 60) end)
    local failed = unsync.spawn(function()
      pcall(unsync.sleep, 60)
      error("something else", 0)
    end)
    done:cancel()
    failed:cancel()
    local _, stayed, err = outcome(done)
    assert.is_false(stayed)
    assert.equal("cancelled", err.code)
    assert.equal("done", done:status())
    assert.same({false, "something else"}, {outcome(failed)})
    assert.equal("failed", failed:status())
  end)

  it("settles when its clean-up has ended, which may wait in a shield", function()
    local steps = {}
    local task = unsync.spawn(function()
      local _ <close> = closing(function()
        local ok, err = pcall(unsync.yield)
        steps[#steps + 1] = ok or err.code
        unsync.shield(function()
          unsync.sleep(0.001)
          steps[#steps + 1] = "cleaned"
        end)
      end)
      unsync.sleep(60)
    end)
    task:cancel()
    assert.is_false(task:done())
    cancelled(task)
    assert.same({"cancelled", "cleaned"}, steps)
  end)

  it("never runs if it had not begun", function()
    local ran = 0
    local tasks = {}
    local function nest(depth) -- starts past the 16th nested one stand in line
      tasks[depth] = unsync.spawn(function()
        ran = math.max(ran, depth)
        if depth < 20 then nest(depth + 1) end
      end)
    end
    nest(1)
    local last = tasks[#tasks]
    local begun = ran
    assert.is_true(#tasks > begun, "none stands in line")
    assert.is_true(last:cancel())
    local err = cancelled(last)
    assert.equal("queue", err.stopped_by)
    assert.equal(begun, ran)
  end)

  it("may cancel itself: it shows at the next wait, not before", function()
    local went_on = false
    local task = unsync.spawn(function()
      unsync.yield()
      assert.is_true(unsync.current():cancel("enough"))
      went_on = true
      unsync.yield()
      went_on = "too far"
    end)
    assert.equal("enough", cancelled(task).reason)
    assert.is_true(went_on)
  end)

  it("bears a second cancellation, also in its clean-up; the first reason stays", function()
    local in_shield = gate.new()
    local task = unsync.spawn(function()
      local _ <close> = closing(function()
        unsync.shield(function()
          in_shield:resolve()
          unsync.sleep(0.001)
        end)
      end)
      unsync.sleep(60)
    end)
    assert.is_true(task:cancel("first"))
    in_shield:await()
    assert.is_true(task:cancel("second"))
    assert.equal("first", cancelled(task).reason)
    assert.is_false(task:cancel("third"))
  end)

  it("keeps what its wait was given in the same moment; the cancellation shows at the next wait", function()
    local promise, got, after = unsync.promise(), nil, nil
    local task = unsync.spawn(function()
      got = promise:await()
      after = select(2, pcall(unsync.yield))
      error(after, 0)
    end)
    promise:resolve("given")
    task:cancel()
    cancelled(task)
    assert.equal("given", got)
    assert.equal("cancelled", after.code)
  end)

  it("can settle, try and close: those are no waits", function()
    local channel, promise = unsync.channel(1), unsync.promise()
    local results
    local task = unsync.spawn(function()
      pcall(unsync.sleep, 60)
      results = {promise:resolve(1), channel:try_send(2), (channel:try_recv()), unsync.resolved(3):done()}
      channel:close()
      unsync.yield()
    end)
    task:cancel()
    cancelled(task)
    assert.same({true, true, true, true}, results)
    assert.equal(1, promise:await())
  end)

  it("is interrupted after the grace period if it goes on and on", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local rounds = 0
      local task = unsync.spawn(function()
        while true do
          pcall(unsync.sleep, 60)
          rounds = rounds + 1
        end
      end)
      task:cancel()
      local ok, err = pcall(task.await, task)
      assert(not ok and err.code == "cancelled", err)
      assert(err.stopped_by == "hook", err.stopped_by)
      assert(rounds > 1)
    ]], {env = {UNSYNC_GRACE = "0.05"}})
    assert.equal("", ran.err)
    assert.equal(0, ran.code)
  end)

  it("gives the others their turn meanwhile, timers too, on the main thread as well", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local function swallow(ended)
        while not ended() do pcall(unsync.sleep, 1000) end
      end
      local ticked = 0
      local function tick()
        for _ = 1, 5 do
          unsync.sleep(0.001)
          ticked = ticked + 1
        end
      end
      local ticker = unsync.spawn(tick)
      local task = unsync.spawn(swallow, function() return ticked == 5 end)
      task:cancel()
      task:await() -- it has ended by itself
      ticker:await()
      ticked = 0
      ticker = unsync.spawn(tick)
      unsync.timeout(0, swallow, function() return ticked == 5 end)
      ticker:await()
    ]], {env = {UNSYNC_GRACE = "3600"}})
    assert.same({"", 0}, {ran.err, ran.code})
  end)

  it("is interrupted after its function's own grace period", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local task = unsync.io(function() while true do pcall(unsync.sleep, 1000) end end, {grace = 0.02})()
      task:cancel("own")
      local ok, err = pcall(task.await, task)
      assert(not ok and err.stopped_by == "hook" and err.reason == "own", err)
    ]], {env = {UNSYNC_GRACE = "3600"}})
    assert.same({"", 0}, {ran.err, ran.code})
  end)
end)

describe("who awaits a cancelled task", function()
  it("gets an error that names that task, and is not cancelled itself", function()
    local inner = unsync.io(function() unsync.sleep(60) end, {name = "inner"})()
    local outer = unsync.spawn(function()
      local ok, err = pcall(inner.await, inner)
      unsync.yield() -- its own waits are as ever
      return ok, err.code, err.task
    end)
    inner:cancel()
    assert.same({false, "cancelled", "inner"}, {outer:await()})
    assert.equal("done", outer:status())
  end)

  it("cancels it by being cancelled", function()
    local steps = {}
    local inner, outer
    inner = unsync.spawn(function()
      local _ <close> = closing(function()
        unsync.shield(unsync.sleep, 0.001)
        steps[#steps + 1] = "inner"
      end)
      unsync.sleep(60)
    end)
    outer = unsync.spawn(function()
      local _ <close> = closing(function() steps[#steps + 1] = "outer" end)
      return inner:await()
    end)
    outer:cancel()
    cancelled(outer)
    cancelled(inner)
    table.sort(steps)
    assert.same({"inner", "outer"}, steps)
  end)

  it("leaves it alone if somebody else awaits it too", function()
    local promise = unsync.promise()
    local inner = unsync.spawn(function() return promise:await() end)
    local one = unsync.spawn(function() return inner:await() end)
    local other = unsync.spawn(function() return inner:await() end)
    one:cancel()
    cancelled(one)
    assert.is_false(inner:done())
    promise:resolve("kept")
    assert.equal("kept", other:await())
  end)

  it("never cancels a promise: it belongs to whoever settles it", function()
    local promise = unsync.promise()
    local task = unsync.spawn(function() return promise:await() end)
    task:cancel()
    cancelled(task)
    assert.is_false(promise:done())
    assert.is_true(promise:resolve(1))
  end)

  it("cancels a chain of any depth from its end to its root, on a stack of one megabyte", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local leaf = unsync.spawn(unsync.sleep, 3600)
      local order = {}
      local last = leaf
      for i = 1, 30000 do
        local inner = last
        last = unsync.spawn(function()
          local _ <close> = setmetatable({}, {__close = function() order[#order + 1] = i end})
          return inner:await()
        end)
      end
      last:cancel()
      print(pcall(last.await, last))
      local sorted = #order == 30000
      for i = 1, #order do sorted = sorted and order[i] == i end
      print(leaf:status(), sorted)
    ]], {before = "ulimit -s 1024"})
    assert.equal("false\tio was cancelled\ncancelled\ttrue\n", ran.out)
    assert.equal(0, ran.code)
  end)

  it("is woken, and what waits for it in a circle is cancelled with it", function()
    local a, b, first
    a = unsync.spawn(function()
      unsync.yield()
      first = select(2, pcall(unsync.timeout, 0.001, function() return b:await() end))
    end)
    b = unsync.spawn(function() return a:await() end)
    a:await()
    assert.equal("timeout", first.code)
    assert.equal("io", cancelled(b).task)
  end)

  it("cancels all that it awaits, where it awaits several", function()
    for _, combine in ipairs({"all", "any", "race", "settled"}) do
      local promise, one = unsync.promise(), unsync.spawn(unsync.sleep, 3600)
      local two = unsync.thread(function() while true do tostring(0.5) end end)()
      local shared = unsync.spawn(function() return promise:await() end)
      local kept = unsync.spawn(function() return shared:await() end)
      local task = unsync.spawn(function()
        return unsync[combine]({one, unsync.all({two}), shared, promise}):await()
      end)
      task:cancel()
      cancelled(task)
      cancelled(one)
      cancelled(two)
      assert.is_false(shared:done(), combine) -- somebody else awaits it
      assert.is_false(promise:done()) -- its holder's
      promise:resolve("kept")
      assert.equal("kept", kept:await())
    end
  end)
end)

describe("unsync.shield", function()
  it("keeps a cancellation out; it shows at the next wait after it, and the result can be used", function()
    local result, after
    local inside = gate.new()
    local task = unsync.spawn(function()
      result = unsync.shield(function()
        inside:resolve()
        unsync.sleep(0.001)
        return "made"
      end)
      after = select(2, pcall(unsync.yield))
      error(after, 0)
    end)
    inside:await()
    task:cancel()
    cancelled(task)
    assert.equal("made", result)
    assert.equal("cancelled", after.code)
  end)

  it("lets a deadline of its own pass, which is set inside", function()
    local ok, err = unsync.shield(pcall, unsync.timeout, 0.001, unsync.sleep, 60)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
  end)
end)

-- ---- threads and processes ----

-- Loops call something: ThreadSanitizer keeps signals back until the next call of the C library.

for _, kind in ipairs({"thread", "cpu"}) do
  describe("a cancelled call of unsync." .. kind, function()
    --- Calls `fn` with a promise, which it settles once it runs, and cancels it then.
    local function stop(fn, options, ...)
      local running = unsync.promise()
      local call = unsync[kind](fn, options)(running, ...)
      running:await()
      assert.is_true(call:cancel())
      return call
    end

    it("is interrupted wherever it computes #plain", function()
      local err = cancelled(stop(function(running)
        running:resolve()
        while true do end
      end))
      assert.equal("hook", err.stopped_by)
    end)

    it("says so too where a block that has a time of its own was left by the interrupt", function()
      for _, block in ipairs{"timeout", "scope"} do
        local err = select(2, outcome(unsync[kind](function(which)
          local inside = require("unsync")
          local function work()
            pcall(inside.sleep, 60) -- the end of the block's time
            while true do pcall(inside.yield) end
          end
          local ok, problem
          if which == "timeout" then ok, problem = pcall(inside.timeout, 0.001, work)
          else ok, problem = pcall(inside.scope, {timeout = 0.001}, work) end
          error({ok, problem.code, problem.stopped_by}, 0)
        end)(block)))
        assert.same({false, "timeout", "hook"}, err)
      end
    end)

    it("is interrupted under a pcall that swallows errors", function()
      local err = cancelled(stop(function(running)
        running:resolve()
        while true do
          pcall(function() while true do tostring(0.5) end end)
        end
      end))
      assert.equal("hook", err.stopped_by)
    end)

    it("is interrupted in the user's own coroutines, and in what they resume", function()
      local err = cancelled(stop(function(running)
        local function spin()
          running:resolve()
          while true do tostring(0.5) end
        end
        local inner = coroutine.wrap(function() coroutine.wrap(spin)() end)
        while true do
          pcall(inner)
          inner = coroutine.wrap(spin)
        end
      end))
      assert.equal("hook", err.stopped_by)
    end)

    it("is woken where it waits", function()
      local err = cancelled(stop(function(running)
        running:resolve()
        require("unsync").sleep(60)
      end))
      assert.is_true(err.stopped_by == "await" or err.stopped_by == "hook") -- it may not have come that far
    end)

    it("runs its clean-up, which may compute and wait", function()
      local cleaned = unsync.promise()
      local call = stop(function(running, told)
        local _ <close> = setmetatable({}, {__close = function(_, err)
          local sum = 0
          for i = 1, 100000 do sum = sum + i end
          require("unsync").shield(require("unsync").sleep, 0.001)
          told:resolve(sum, err.code)
        end})
        running:resolve()
        while true do tostring(0.5) end
      end, {grace = 5 * script.slowness}, cleaned)
      assert.same({5000050000, "cancelled"}, {cleaned:await()})
      cancelled(call)
    end)

    it("is not interrupted again in its clean-up, by a signal that comes late or by who asks again", function()
      local cleaning, go_on, cleaned = unsync.promise(), unsync.promise(), unsync.promise()
      local call = stop(function(running, began, asked, told)
        local _ <close> = setmetatable({}, {__close = function()
          local uv, n = require("luv"), 0
          began:resolve()
          require("unsync").shield(asked.await, asked)
          for i = 1, 20 do
            uv.kill(uv.os_getpid(), "sigurg") -- in the worker too, it may be this thread that gets it
            n = i
          end
          told:resolve(n)
        end})
        require("luv") -- loading it is no business of the clean-up
        running:resolve()
        while true do tostring(0.5) end
      end, {grace = 30}, cleaning, go_on, cleaned)
      cleaning:await()
      for _ = 1, 20 do call:cancel() end
      go_on:resolve()
      assert.equal(20, cleaned:await(30))
      cancelled(call)
    end)

    it("is interrupted in a clean-up that outlasts the grace period", function()
      local err = cancelled(stop(function(running)
        local _ <close> = setmetatable({}, {__close = function() while true do tostring(0.5) end end})
        running:resolve()
        while true do tostring(0.5) end
      end, {grace = 0.5})) -- long enough for the thread to come up again within a second one, on a busy machine too
      assert.is_true(err.stopped_by == "hook" or kind == "cpu" and err.stopped_by:find("^sig") ~= nil, err.stopped_by)
    end)

    it("cancels the tasks that it has started, and what it awaits elsewhere", function()
      local cleaned = unsync.promise()
      cancelled(stop(function(running, told)
        unsync.spawn(function()
          local _ <close> = setmetatable({}, {__close = function() told:resolve("child") end})
          unsync.sleep(60)
        end)
        local nested = unsync.thread(function()
          running:resolve()
          while true do tostring(0.5) end
        end)
        nested():await()
      end, {}, cleaned))
      assert.equal("child", cleaned:await())
    end)

    it("never runs if it stood in line", function()
      local promise, ran = unsync.promise(), unsync.promise()
      local busy = unsync[kind](function(p, begun, told)
        if told then told:resolve() end
        begun:resolve()
        p:await()
      end, {limit = 1})
      local begun = unsync.promise()
      local first = busy(promise, begun)
      begun:await()
      local second = busy(promise, unsync.promise(), ran)
      assert.is_true(second:cancel())
      assert.equal("queue", cancelled(second).stopped_by)
      promise:resolve()
      first:await()
      assert.is_false(ran:done())
      ran:resolve()
    end)

    it("is done if it returned in the same moment", function()
      for _ = 1, 50 do
        local call = unsync[kind](function() return "value" end)()
        call:cancel()
        local ok, value = outcome(call)
        assert.is_true(ok and value == "value" or value.code == "cancelled")
        assert.equal(ok and "done" or "cancelled", call:status())
      end
    end)

    it("is cancelled, and no failure, if what it awaited was stopped in the same moment and said so first", function()
      local outer = unsync[kind](function(inner, running)
        running:resolve()
        return inner:await()
      end)
      for round = 1, 100 do
        local inner, running = unsync.spawn(unsync.sleep, 60), unsync.promise()
        local call = outer(inner, running)
        running:await()
        inner:cancel()
        for _ = 1, round % 10 do unsync.yield() end
        local asked = call:cancel()
        local _, err = outcome(call)
        assert.equal("cancelled", err.code)
        assert.equal(asked and "cancelled" or "failed", call:status())
      end
    end)

    it("tells of what has failed in it, but of no cancellation that something has died of", function()
      local ran = script.run(([[
        local unsync = require "unsync"
        local running = unsync.promise()
        local call = unsync.%s(function(running)
          local inner = unsync.spawn(unsync.sleep, 60)
          unsync.spawn(function() inner:await() end)
          unsync.spawn(error, "told", 0)
          inner:cancel()
          unsync.sleep(0.001) -- both have failed
          running:resolve()
          unsync.sleep(60)
        end)(running)
        running:await()
        call:cancel()
        print(select(2, pcall(call.await, call)).code)
      ]]):format(kind))
      local _, told = ran.err:gsub("a failure that nobody looked at", "")
      assert.same({"cancelled\n", 1}, {ran.out, told}, ran.err)
      assert.matches("told", ran.err)
    end)

    it("leaves its worker fit for the next call", function()
      local spin = unsync[kind](function(running)
        running:resolve()
        while true do tostring(0.5) end
      end)
      local sum = unsync[kind](function(n)
        local all = 0
        for i = 1, n do all = all + i end
        require("unsync").yield()
        return all
      end)
      for _ = 1, 20 do
        local running = unsync.promise()
        local call = spin(running)
        running:await()
        call:cancel()
        cancelled(call)
        assert.equal(500500, sum(1000):await())
      end
    end)

    it("native: is told by its token", function()
      local call = unsync[kind]("echo.work")(1e9, 1)
      assert.is_true(script.eventually(function() return call:progress() ~= nil end))
      call:cancel()
      assert.equal("token", cancelled(call).stopped_by)
    end)

    it("tells the reason, the function's name and nothing else", function()
      local call = unsync[kind](function() while true do tostring(0.5) end end, {name = "spin"})()
      call:cancel({why = "test"})
      local err = cancelled(call)
      assert.equal("spin", err.task)
      assert.same({why = "test"}, err.reason)
    end)

    it("tells the reason it gave itself, if nobody else has given one", function()
      local function told(reason, first)
        local ready = unsync.promise()
        local call = unsync[kind](function()
          local here = require("unsync")
          local me = here.current()
          ready:resolve()
          if first then pcall(here.sleep, 1000) end
          me:cancel(reason)
          here.sleep(1000)
        end, {name = "own"})()
        ready:await()
        if first then call:cancel(first) end
        return cancelled(call)
      end
      local err = told("enough")
      assert.equal("own was cancelled: enough", tostring(err))
      assert.equal("enough", err.reason)
      assert.same({why = "test"}, told({why = "test"}).reason)
      assert.is_nil(told(nil).reason)
      assert.equal("first", told("second", "first").reason)
    end)
  end)
end

describe("a thread that stands in C, and does not come back", function()
  it("is abandoned after the grace period, and replaced, so that no capacity is lost", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local stuck = unsync.thread("echo.deaf", {grace = 0.05, limit = 64})
      local calls = {}
      for i = 1, 8 do calls[i] = stuck(600000) end
      for _, call in ipairs(calls) do
        while call:status() ~= "running" do unsync.sleep(0.001) end
        assert(call:cancel())
      end
      for _, call in ipairs(calls) do
        local ok, err = pcall(call.await, call)
        assert(not ok and err.code == "cancelled" and err.stopped_by == "abandoned", err)
      end
      local answers = {}
      for i = 1, 8 do answers[i] = unsync.thread(function(n) return n + 1 end)(i) end
      for i = 1, 8 do assert(answers[i]:await() == i + 1) end
      print("all answered")
    ]], {env = {UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"}})
    assert.equal("", ran.err)
    assert.equal("all answered\n", ran.out)
    assert.equal(0, ran.code)
  end)

  it("is abandoned while others stand in line, and hangs nobody", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local stuck = unsync.thread("echo.deaf", {grace = 0})
      local calls = {}
      for i = 1, 100 do calls[i] = stuck(600000) end
      while calls[1]:status() ~= "running" do unsync.sleep(0.0001) end
      for _, call in ipairs(calls) do
        call:cancel()
        if call == calls[1] then pcall(call.await, call) end -- abandoned while the others wait for a thread
      end
      for _, call in ipairs(calls) do pcall(call.await, call) end
      print(unsync.thread(function() return "answered" end)():await())
    ]], {env = {UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins", UNSYNC_STALL = "0"}})
    assert.same({"", "answered\n", 0}, {ran.err, ran.out, ran.code})
  end)

  it("is abandoned in a Lua function that is stuck in C, too; what it gives later is thrown away", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local begun = unsync.promise()
      local call = unsync.thread(function(p)
        p:resolve()
        return (("a"):rep(60) .. "b"):find(("a-"):rep(14) .. "c") -- takes longer than anybody waits
      end, {grace = 0.05})(begun)
      begun:await()
      call:cancel()
      local ok, err = pcall(call.await, call)
      assert(not ok and (err.stopped_by == "abandoned" or err.stopped_by == "hook"), err) -- it may not have come so far
    ]])
    assert.equal("", ran.err)
    assert.equal(0, ran.code)
  end)
end)

describe("a process that stands in C, and does not come back", function()
  local function stopped(code, env)
    env = env or {}
    env.UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"
    -- What it starts lives as long as the module does; SIGTERM is watched from then on, and nothing done about it.
    script.file("deaf_until_killed.lua", [[
      local uv = require "luv"
      local kept = {signal = uv.new_signal()}
      kept.signal:start("sigterm", function() end)
      kept.signal:unref()
      return kept
    ]])
    env.LUA_PATH = script.path("?.lua") .. ";;"
    return script.output([[
      local unsync = require "unsync"
      local function stop(start, ask)
        while true do
          local call = start()
          while call:status() ~= "running" do unsync.sleep(0.001) end
          if ask then ask(call) else call:cancel() end
          local ok, err = pcall(call.await, call)
          assert(not ok and err.code == "cancelled", err)
          if err.stopped_by ~= "queue" then return err.stopped_by end -- the worker had not begun it yet
        end
      end
    ]] .. code, {env = env})
  end

  it("is ended by SIGTERM after the grace period, and replaced", function()
    assert.equal("sigterm\ttrue\n", stopped([[
      local stuck = unsync.cpu("crash.stuck", {grace = 1}) -- time enough to die of it, on a busy machine too
      local other = unsync.cpu(function() require "unsync".sleep(0.2) return true end)()
      print(stop(stuck), other:await())
    ]]))
  end)

  it("is ended as soon if it is asked again and again", function()
    assert.equal("sigterm\ttrue\n", stopped([[
      local asked_last
      local rung = stop(unsync.cpu("crash.stuck", {grace = 1}), function(call)
        asked_last = 0
        while not call:done() and asked_last < 4000 do
          call:cancel()
          asked_last = asked_last + 1
          unsync.sleep(0.005)
        end
      end)
      print(rung, asked_last < 4000)
    ]]))
  end)

  it("is ended in a Lua function that is stuck in C, too", function()
    local rung = stopped([[
      print(stop(unsync.cpu(function()
        return (("a"):rep(60) .. "b"):find(("a-"):rep(14) .. "c") -- takes longer than anybody waits
      end, {grace = 1})))
    ]])
    assert.is_true(rung == "sigterm\n" or rung == "hook\n", rung) -- it may not have come so far
  end)

  it("is killed if it is deaf to SIGTERM, with all that it has started", function()
    local out = stopped([[
      local child, rung
      for _ = 1, 20 do -- until it is the same process: on a busy machine there may be another
        child = unsync.cpu(function()
          local pipe = io.popen("trap '' TERM; echo $$; exec sleep 600")
          require("deaf_until_killed").pipe = pipe
          return tonumber(pipe:read("l"))
        end)():await()
        rung = stop(unsync.cpu("crash.stuck", {grace = 0.05}))
        if rung ~= "sigterm" then break end
      end
      print(rung)
      local gone = false
      for _ = 1, 5000 do
        local status = io.open("/proc/" .. child .. "/stat")
        local text = status and status:read("a")
        if status then status:close() end
        gone = not text or text:find(") Z ", 1, true) ~= nil
        if gone then break end
        unsync.sleep(0.002)
      end
      print(gone)
    ]])
    assert.equal("sigkill\ntrue\n", out)
  end)

  it("takes no other call with it", function()
    assert.equal("20\n", stopped([[
      local begun = unsync.promise()
      local square = unsync.cpu(function(n) return n * n end)
      local stuck = unsync.cpu("echo.deaf", {grace = 0.02})
      local fine = 0
      for i = 1, 20 do
        local call = stuck(600000)
        while call:status() ~= "running" do unsync.sleep(0.001) end
        local other = square(i)
        call:cancel()
        if other:await() == i * i then fine = fine + 1 end
        pcall(call.await, call)
      end
      print(fine)
    ]]))
  end)
end)

describe("the grace period", function()
  it("is UNSYNC_GRACE for all that do not say their own", function()
    local out = script.output([[
      local unsync = require "unsync"
      local call = unsync.thread("echo.deaf")(600000)
      while call:status() ~= "running" do unsync.sleep(0.001) end
      call:cancel()
      local before = unsync.now()
      pcall(call.await, call)
      print(unsync.now() - before)
    ]], {env = {UNSYNC_GRACE = "0.05", UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"}})
    assert.is_true(tonumber(out) >= 0.049)
  end)

  it("is refused where it is no number of seconds", function()
    for _, text in ipairs({"soon", "-1", "nan", "1e300", ""}) do
      local ran = script.run("print(1)", {env = {UNSYNC_GRACE = text}})
      assert.equal(1, ran.code)
      assert.matches("UNSYNC_GRACE: a number of seconds", ran.err, 1, true)
      assert.matches(text, ran.err, 1, true)
    end
  end)
end)

describe("a call in a worker whose wait was given what it waited for as it was cancelled", function()
  -- Each says hello, and computes for ever as soon as it has been heard.
  local ways = {
    ["a send"] = function(hello) hello:send(true) end,
    ["a send in a generator"] = function(hello)
      for _ in coroutine.wrap(function() hello:send(true) while true do tostring(0.5) end end) do end
    end,
    ["a select"] = function(hello) require("unsync").select({ { send = hello, value = true } }) end,
  }
  for _, kind in ipairs({ "thread", "cpu" }) do
    for name, wait in pairs(ways) do
      it("is interrupted in what follows: " .. name .. " in a " .. kind, function()
        local function forever(hello)
          wait(hello)
          while true do tostring(0.5) end
        end
        local call = unsync[kind](forever, { grace = 60 }) -- the next rung would be too late
        for _ = 1, 20 do
          local hello = unsync.channel()
          local future = call(hello)
          hello:recv()
          future:cancel()
          pcall(future.await, future)
          assert.is_true(({ hook = true, await = true })[future:error().stopped_by])
        end
      end)
    end
  end
end)

describe("what is started inside of unsync.shield", function()
  -- Started in the shield, and let go on when the scope has failed. Each gives what it gives.
  local ways = {
    ["a task"] = function(latch) return unsync.spawn(function() return latch:await() end):await() end,
    ["a task of a task"] = function(latch)
      return unsync.spawn(function()
        return unsync.spawn(function() return latch:await() end):await()
      end):await()
    end,
    ["a thread"] = function(latch) return unsync.thread(function() return latch:await() end)():await() end,
    ["a process"] = function(latch) return unsync.cpu(function() return latch:await() end)():await() end,
    ["a combinator"] = function(latch)
      return unsync.all({ unsync.thread(function() return latch:await() end)() }):await()[1]
    end,
    ["a call that is awaited later"] = function(latch)
      local future = unsync.thread(function() return latch:await() end)()
      pcall(unsync.timeout, 0.001, unsync.sleep, 60)
      return future:await()
    end,
  }
  local function in_scope(body, started)
    local ok, err = pcall(unsync.scope, function(s)
      s:spawn(body)
      started:await()
      error("the scope fails", 0)
    end)
    assert.same({ false, "the scope fails" }, { ok, err })
  end

  for name, way in pairs(ways) do
    it("is not cancelled with the scope around it: " .. name, function()
      local latch, started, got = unsync.promise(), unsync.promise(), nil
      in_scope(function()
        local _ <close> = closing(function()
          unsync.shield(function() -- the scope has failed, and waits for this
            unsync.yield()
            latch:resolve("all the same")
          end)
        end)
        unsync.shield(function()
          started:resolve()
          unsync.spawn(function()
            unsync.sleep(0.005)
            latch:resolve("all the same")
          end)
          got = way(latch)
        end)
      end, started)
      assert.equal("all the same", got)
    end)
  end

  it("is cancelled when the shield has ended, and it has not", function()
    local started, left = unsync.promise(), nil
    in_scope(function()
      unsync.shield(function()
        left = unsync.thread(function() while true do tostring(0.5) end end)()
        started:resolve()
        unsync.sleep(0.005)
        assert.is_false(left:done())
      end)
    end, started)
    assert.is_true(left:cancelled())
  end)

  it("is cancelled with a scope inside of the shield", function()
    local ended
    unsync.shield(function()
      local started, future = unsync.promise(), nil
      in_scope(function()
        future = unsync.spawn(unsync.sleep, 3600)
        started:resolve()
      end, started)
      ended = future:status()
    end)
    assert.equal("cancelled", ended)
  end)

  it("is not cancelled with the call of a worker that it belongs to", function()
    local said = unsync.channel(10)
    local call = unsync.thread(function()
      unsync.shield(function()
        local inner = unsync.spawn(function()
          said:send("begun")
          unsync.sleep(0.01)
          said:send("done")
        end)
        inner:await()
      end)
      unsync.sleep(3600)
    end, { grace = 60 })()
    assert.equal("begun", said:recv())
    call:cancel()
    pcall(call.await, call)
    assert.is_true(call:cancelled())
    assert.same({ true, "done" }, { said:try_recv() })
  end)
end)
