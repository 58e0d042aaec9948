-- Futures: the one thing that every call returns, whatever runs it.
local unsync = require("unsync")
local script = require("spec.support.script")

--- A future of each kind that ends with the values, or, where `fails`, with the error; and its name.
local function each_kind(fn)
  fn("io", unsync.io)
  fn("thread", unsync.thread)
  fn("promise", function(body)
    return function(...)
      local promise = unsync.promise()
      local outcome = table.pack(pcall(body, ...))
      unsync.spawn(function()
        unsync.yield()
        if outcome[1] then promise:resolve(table.unpack(outcome, 2, outcome.n)) else promise:reject(outcome[2]) end
      end)
      return promise
    end
  end)
end

local function code_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.equal("table", type(err), tostring(err))
  return err.code, tostring(err)
end

describe("await", function()
  it("returns every result, nils included, for every kind", function()
    each_kind(function(name, wrap)
      local same = wrap(function(...) return ... end)
      for _, values in ipairs({
        table.pack(), table.pack(nil), table.pack(1, nil, 3), table.pack(nil, nil), table.pack(false),
        table.pack("a", nil, nil),
      }) do
        assert.same(values, table.pack(same(table.unpack(values, 1, values.n)):await()), name)
      end
    end)
  end)

  it("goes by the name of result, too", function()
    each_kind(function(_, wrap)
      assert.same(table.pack(1, nil), table.pack(wrap(function() return 1, nil end)():result()))
      local failed = wrap(function() error("wrong", 0) end)()
      assert.has_error(function() failed:result() end, "wrong")
    end)
  end)

  it("returns the same each time, or raises the same each time", function()
    each_kind(function(_, wrap)
      local future = wrap(function() return {1} end)()
      local first = future:await()
      assert.equal(first, (future:await()))
      local failed = wrap(function() error({code = 7}) end)()
      local _, one = pcall(failed.await, failed)
      local _, two = pcall(failed.await, failed)
      assert.equal(7, one.code)
      assert.equal(one, two)
    end)
  end)

  it("raises the error as it is, without a position or a wrapper", function()
    each_kind(function(name, wrap)
      local future = wrap(function() error("plain text", 0) end)()
      assert.same({false, "plain text"}, {pcall(future.await, future)}, name)
      future = wrap(function() error(setmetatable({1}, nil)) end)()
      assert.same({false, {1}}, {pcall(future.await, future)}, name)
      future = wrap(function() error(nil) end)()
      assert.same(table.pack(false, nil), table.pack(pcall(future.await, future)), name)
      future = wrap(function() error(42) end)()
      assert.same({false, 42}, {pcall(future.await, future)}, name)
    end)
  end)

  it("may be given many results", function()
    local future = unsync.io(function() return table.unpack({}, 1, 100000) end)()
    assert.equal(100000, select("#", future:await()))
  end)

  it("refuses what is no future", function()
    local await = unsync.resolved().await
    assert.error_matches(function() await(12) end, "unsync.Future expected")
    assert.error_matches(function() await({}) end, "unsync.Future expected")
    assert.error_matches(function() await() end, "unsync.Future expected")
    assert.error_matches(function() await(io.stdout) end, "unsync.Future expected")
  end)
end)

describe("await with a timeout", function()
  it("raises the error timeout, and leaves the work alone", function()
    local gate = unsync.promise()
    local finished = false
    local future = unsync.spawn(function()
      gate:await()
      finished = true
      return "after all"
    end)
    local code, text = code_of(future.await, future, 0.01)
    assert.equal("timeout", code)
    assert.matches("timeout", text)
    assert.equal("running", future:status())
    gate:resolve()
    assert.equal("after all", future:await())
    assert.is_true(finished)
  end)

  it("never raises it early", function()
    local pending = unsync.promise()
    for _, seconds in ipairs({0.0005, 0.001, 0.0151}) do
      local before = unsync.now()
      assert.equal("timeout", (code_of(pending.await, pending, seconds)))
      assert.is_true(unsync.now() - before >= seconds)
    end
  end)

  it("works for every kind", function()
    each_kind(function(name, wrap)
      local gate = unsync.promise()
      local future = name == "promise" and gate or wrap(function() return gate:await() end)()
      assert.equal("timeout", (code_of(future.await, future, 0.01)), name)
      gate:resolve(name)
      assert.equal(name, future:await(5 * script.slowness))
    end)
  end)

  it("of 0 waits for nothing that is not there yet", function()
    local pending = unsync.promise()
    assert.equal("timeout", (code_of(pending.await, pending, 0)))
    assert.equal(1, unsync.resolved(1):await(0))
  end)

  it("does not raise it for what settled in time, however late that is noticed", function()
    local future = unsync.spawn(function()
      unsync.yield()
      return "in time"
    end)
    local waiter = unsync.spawn(function() return future:await(0.001) end)
    local busy_until = unsync.now() + 0.01
    while not future:done() do unsync.yield() end
    while unsync.now() < busy_until do end
    assert.equal("in time", waiter:await())
  end)

  it("does not fire into a later wait", function()
    local first = unsync.promise()
    unsync.spawn(function() first:resolve(1) end)
    assert.equal(1, first:await(0.01))
    local second = unsync.promise()
    unsync.spawn(function()
      unsync.sleep(0.03)
      second:resolve(2)
    end)
    assert.equal(2, second:await())
    unsync.sleep(0.001)
  end)

  it("may come again and again", function()
    local promise = unsync.promise()
    for _ = 1, 20 do assert.equal("timeout", (code_of(promise.await, promise, 0.0005))) end
    promise:resolve("there")
    assert.equal("there", promise:await(0.0005))
  end)

  it("may be nil, which is none, or endless", function()
    local promise = unsync.promise()
    unsync.spawn(function()
      unsync.sleep(0.005)
      promise:resolve(1)
    end)
    assert.equal(1, promise:await(math.huge))
    assert.equal(1, promise:await(nil))
  end)

  it("refuses what is no time", function()
    local promise = unsync.promise()
    assert.error_matches(function() promise:await(-1) end, "negative")
    assert.error_matches(function() promise:await(0 / 0) end, "NaN")
    assert.error_matches(function() promise:await("soon") end, "number expected")
    assert.error_matches(function() promise:await({}) end, "number expected")
  end)
end)

describe("what a future says of itself", function()
  it("is whether it is done, and how it stands", function()
    local gate = unsync.promise()
    assert.is_false(gate:done())
    assert.equal("pending", gate:status())
    local task = unsync.spawn(function() gate:await() end)
    assert.is_false(task:done())
    assert.equal("running", task:status())
    gate:resolve()
    assert.is_true(gate:done())
    assert.equal("done", gate:status())
    task:await()
    assert.equal("done", task:status())
    local failed = unsync.rejected("x")
    assert.is_true(failed:done())
    assert.equal("failed", failed:status())
    assert.equal("x", failed:error())
  end)

  it("is running for a thread call that has started, pending for one in the queue", function()
    local started, gate = unsync.promise(), unsync.promise()
    local future = unsync.thread(function()
      started:resolve()
      gate:await()
    end)()
    assert.is_true(future:status() == "pending" or future:status() == "running")
    started:await()
    assert.equal("running", future:status())
    gate:resolve()
    future:await()
    assert.equal("done", future:status())
  end)

  it("is its error, without raising; nil where there is none", function()
    each_kind(function(_, wrap)
      local fine, failed = wrap(function() return 1 end)(), wrap(function() error("wrong", 0) end)()
      fine:await()
      assert.is_nil(fine:error())
      assert.is_nil(fine:traceback())
      assert.is_false(fine:cancelled())
      pcall(failed.await, failed)
      assert.equal("wrong", failed:error())
      assert.is_false(failed:cancelled())
    end)
    local pending = unsync.promise()
    assert.is_nil(pending:error())
    assert.is_nil(pending:traceback())
    assert.is_false(pending:cancelled())
  end)

  it("is a text: kind, name, state, and the time that it took so far", function()
    local gate = unsync.promise()
    local named = unsync.io(function() gate:await() end, {name = "fetch"})()
    assert.matches("^future: io fetch running %d+%.%d%d s$", tostring(named))
    assert.matches("^future: promise pending$", tostring(gate))
    gate:resolve()
    named:await()
    assert.equal("future: io fetch done", tostring(named))
    assert.matches("^future: io .*future_spec.lua:%d+ done$", tostring(unsync.io(function() end)()))
    local failed = unsync.rejected("x")
    assert.equal("future: promise failed", tostring(failed))
    failed:error()
    local threaded = unsync.thread(function() end, {name = "work"})()
    threaded:await()
    assert.equal("future: thread work done", tostring(threaded))
  end)

  it("is a text for a call that waits for long, with its seconds", function()
    local gate = unsync.promise()
    local task = unsync.io(function() gate:await() end, {name = "slow"})()
    unsync.sleep(0.12)
    local seconds = tonumber(tostring(task):match("running (%d+%.%d%d) s"))
    assert.is_true(seconds >= 0.1 and seconds < 2 * script.slowness, tostring(task))
    gate:resolve()
    task:await()
  end)

  it("is nothing that can be changed", function()
    local future = unsync.resolved(1)
    assert.has_error(function() future.field = 1 end)
    assert.is_nil(future.nothing)
    assert.is_false(pcall(setmetatable, future, {}))
  end)
end)

describe("is_future", function()
  it("tells a future from everything else", function()
    assert.is_true(unsync.is_future(unsync.promise()))
    assert.is_true(unsync.is_future(unsync.spawn(function() end)))
    for _, value in ipairs({1, "x", {}, print, io.stdout, true, coroutine.create(print)}) do
      assert.is_false(unsync.is_future(value))
    end
    assert.is_false(unsync.is_future(nil))
    assert.is_false(unsync.is_future(setmetatable({}, {__index = unsync.promise()})))
  end)
end)

describe("the traceback of a future", function()
  local function broken_inside() error("broken") end

  it("says where it failed", function()
    local future = unsync.spawn(function() broken_inside() end)
    assert.matches("broken_inside", future:traceback())
    assert.matches("future_spec.lua", future:traceback())
  end)

  it("then says where it was awaited", function()
    local inner = unsync.io(function() broken_inside() end)
    local function waits_for_it() inner():await() return 1 end
    local outer = unsync.spawn(function() return (waits_for_it()) end)
    pcall(outer.await, outer)
    local traceback = outer:traceback()
    local failed, awaited = traceback:find("broken_inside", 1, true), traceback:find("waits_for_it", 1, true)
    assert.truthy(failed, traceback)
    assert.truthy(awaited, traceback)
    assert.is_true(failed < awaited)
  end)

  it("has the remote part first", function()
    local remote = unsync.thread(function()
      local function remote_part() error("far away") end
      remote_part()
    end, {name = "far"})
    local function local_part() remote():await() return 1 end
    local outer = unsync.spawn(function() return (local_part()) end)
    pcall(outer.await, outer)
    local traceback = outer:traceback()
    local there, here = traceback:find("remote_part", 1, true), traceback:find("local_part", 1, true)
    assert.truthy(there, traceback)
    assert.truthy(here, traceback)
    assert.is_true(there < here)
    assert.matches("in thread far", traceback)
  end)

  it("stays short, however long the chain that it came through #slow", function()
    local down
    down = unsync.io(function(n)
      if n == 0 then
        unsync.yield()
        error("bottom", 0)
      end
      return (down(n - 1):await())
    end, {name = "down"})
    local future = down(3000)
    assert.has_error(function() future:await() end, "bottom")
    assert.is_true(#future:traceback() < 100000, #future:traceback())
  end)

  it("is there for errors that are no strings, too", function()
    local future = unsync.spawn(function()
      local function thrower() error({}) end
      thrower()
    end)
    assert.matches("thrower", future:traceback())
    future = unsync.spawn(function()
      local function thrower() error() end
      thrower()
    end)
    assert.matches("thrower", future:traceback())
    local at_promise = unsync.rejected("x")
    local traceback = at_promise:traceback()
    assert.is_true(traceback == nil or type(traceback) == "string")
  end)
end)

describe("many waiters", function()
  it("wake in the order in which they came", function()
    local promise = unsync.promise()
    local seen, tasks = {}, {}
    for i = 1, 100 do
      tasks[i] = unsync.spawn(function()
        local value = promise:await()
        seen[#seen + 1] = i * value
      end)
    end
    promise:resolve(1)
    assert.same({}, seen) -- a wake-up runs no user code inside the settling call
    for _, task in ipairs(tasks) do task:await() end
    for i = 1, 100 do assert.equal(i, seen[i]) end
  end)

  it("all get the results, or all get the error", function()
    each_kind(function(name, wrap)
      local gate = unsync.promise()
      local fine = name == "promise" and gate or wrap(function() return gate:await() end)()
      local failed = wrap(function() error("for all", 0) end)()
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = unsync.spawn(function() return select("#", fine:await()), select(2, pcall(failed.await, failed)) end)
      end
      gate:resolve(nil, nil)
      for _, task in ipairs(tasks) do
        local count, err = task:await()
        assert.equal(2, count)
        assert.equal("for all", err)
      end
    end)
  end)

  it("may leave in any order by their timeouts", function()
    local promise = unsync.promise()
    local tasks = {}
    for i = 1, 50 do
      local seconds = i % 3 == 0 and 0.001 * (i % 7) or nil
      tasks[i] = unsync.spawn(function() return pcall(promise.await, promise, seconds) end)
    end
    unsync.sleep(0.02)
    promise:resolve("late")
    for i, task in ipairs(tasks) do
      local ok, value = task:await()
      if i % 3 == 0 then
        assert.is_false(ok)
        assert.equal("timeout", value.code)
      else
        assert.same({true, "late"}, {ok, value})
      end
    end
  end)
end)

describe("and_then", function()
  it("passes all results on, and is a future of all that its function returns", function()
    each_kind(function(_, wrap)
      local chained = wrap(function() return 1, nil, 3 end)():and_then(function(...) return select("#", ...), ... end)
      assert.is_true(unsync.is_future(chained))
      assert.same(table.pack(3, 1, nil, 3), table.pack(chained:await()))
    end)
  end)

  it("follows a future that its function returns", function()
    each_kind(function(_, wrap)
      local double = wrap(function(x) return x * 2, nil end)
      assert.same(table.pack(12, nil), table.pack(unsync.resolved(3):and_then(double):and_then(double):await()))
    end)
  end)

  it("follows only a future that is the one result, and not what that resolves to", function()
    local inner = unsync.resolved(7)
    local chained = unsync.resolved():and_then(function() return inner, 2 end)
    local first, second = chained:await()
    assert.equal(inner, first)
    assert.equal(2, second)
  end)

  it("lets an error pass, without calling its function", function()
    local called = false
    local chained = unsync.rejected("early"):and_then(function() called = true end)
    assert.same({false, "early"}, {pcall(chained.await, chained)})
    assert.is_false(called)
  end)

  it("fails with the error of its function", function()
    local chained = unsync.resolved(1):and_then(function() error("inside", 0) end)
    assert.same({false, "inside"}, {pcall(chained.await, chained)})
    assert.matches("future_spec", chained:traceback())
    local followed = unsync.resolved(1):and_then(function() return unsync.rejected("followed") end)
    assert.same({false, "followed"}, {pcall(followed.await, followed)})
  end)

  it("calls a function that may wait, never inside the settling call", function()
    local promise = unsync.promise()
    local called = false
    local chained = promise:and_then(function(x)
      called = true
      unsync.sleep(0.001)
      return x
    end)
    promise:resolve(5)
    assert.is_false(called)
    assert.equal(5, chained:await())
  end)

  it("makes chains of any length", function()
    local future = unsync.resolved(0)
    for _ = 1, 1000 do future = future:and_then(function(n) return n + 1 end) end
    assert.equal(1000, future:await())
  end)

  it("takes a callable object, and refuses the rest at once", function()
    local callable = setmetatable({}, {__call = function(_, x) return x + 1 end})
    assert.equal(2, unsync.resolved(1):and_then(callable):await())
    for _, name in ipairs({"and_then", "catch", "finally"}) do
      local future = unsync.resolved(1)
      assert.error_matches(function() future[name](future) end, "function expected")
      assert.error_matches(function() future[name](future, 12) end, "function expected")
      assert.error_matches(function() future[name](future, {}) end, "function expected")
      assert.error_matches(function() future[name](12, print) end, "unsync.Future expected")
    end
  end)
end)

describe("catch", function()
  it("makes results of an error", function()
    each_kind(function(_, wrap)
      local caught = wrap(function() error("wrong", 0) end)():catch(function(err) return "was " .. err, nil end)
      assert.same(table.pack("was wrong", nil), table.pack(caught:await()))
    end)
  end)

  it("lets results pass, without calling its function", function()
    local called = false
    local future = unsync.resolved(1, nil):catch(function() called = true end)
    assert.same(table.pack(1, nil), table.pack(future:await()))
    assert.is_false(called)
  end)

  it("may raise again, or something else, or return a future", function()
    local again = unsync.rejected({1}):catch(function(err) error(err) end)
    assert.same({false, {1}}, {pcall(again.await, again)})
    local other = unsync.rejected("a"):catch(function(err) error(err .. "b", 0) end)
    assert.same({false, "ab"}, {pcall(other.await, other)})
    assert.equal(3, unsync.rejected("a"):catch(unsync.io(function()
      unsync.yield()
      return 3
    end)):await())
  end)

  it("gets the error nil, too", function()
    local caught = unsync.rejected(nil):catch(function(...) return select("#", ...), ... end)
    assert.same(table.pack(1, nil), table.pack(caught:await()))
  end)

  it("looks at the failure: it is not reported", function()
    local ran = script.run([[
      local unsync = require "unsync"
      unsync.io(function() error("handled") end)():catch(function() end)
    ]])
    assert.same({0, ""}, {ran.code, ran.err})
  end)
end)

describe("finally", function()
  it("runs its function however it ended, and keeps the outcome", function()
    each_kind(function(_, wrap)
      local calls = {}
      local function note(...) calls[#calls + 1] = select("#", ...) return "ignored" end
      assert.same(table.pack(1, nil), table.pack(wrap(function() return 1, nil end)():finally(note):await()))
      local failed = wrap(function() error("wrong", 0) end)():finally(note)
      assert.same({false, "wrong"}, {pcall(failed.await, failed)})
      assert.same({0, 0}, calls)
    end)
  end)

  it("fails with the error of its function instead", function()
    for _, future in ipairs({unsync.resolved(1), unsync.rejected("first")}) do
      local after = future:finally(function() error("second", 0) end)
      assert.same({false, "second"}, {pcall(after.await, after)})
    end
  end)

  it("waits for a future that its function returns, and takes over its failure", function()
    local order = {}
    local after = unsync.resolved("kept"):finally(unsync.io(function()
      unsync.yield()
      order[#order + 1] = "clean"
      return "ignored"
    end))
    assert.equal("kept", after:await())
    assert.same({"clean"}, order)
    local failing = unsync.resolved("lost"):finally(function() return unsync.rejected("in clean-up") end)
    assert.same({false, "in clean-up"}, {pcall(failing.await, failing)})
  end)
end)

describe("a failure that nobody looked at", function()
  local function report(code)
    local ran = script.run('local unsync = require "unsync"\n' .. code)
    return ran.code, ran.err, ran.out
  end

  it("is reported at the end, with its traceback, and makes the exit code 1", function()
    local code, err, out = report([[
      unsync.io(function() local function culprit() error("lost one") end culprit() end, {name = "loser"})()
      print("end")
    ]])
    assert.equal(1, code)
    assert.equal("end\n", out)
    assert.matches("lost one", err)
    assert.matches("io loser", err)
    assert.matches("culprit", err)
  end)

  it("is reported for every kind, the oldest first", function()
    local code, err = report([[
      kept = {}
      kept[1] = unsync.rejected("1st lost")
      kept[2] = unsync.io(function() error("2nd lost", 0) end)()
      kept[3] = unsync.thread(function() error("3rd lost", 0) end)()
      local p = unsync.promise()
      p:reject("4th lost")
    ]])
    assert.equal(1, code)
    local places = {}
    for i, text in ipairs({"1st lost", "2nd lost", "3rd lost", "4th lost"}) do
      places[i] = err:find(text, 1, true)
      assert.truthy(places[i], err)
      local _, count = err:gsub(text, "")
      assert.equal(1, count, text)
    end
    assert.is_true(places[1] < places[2])
  end)

  it("is reported at once where the future is collected, while the script goes on", function()
    local ran = script.run([[
      local unsync = require "unsync"
      do unsync.io(function() error("collected", 0) end)() end
      collectgarbage() collectgarbage()
      io.stderr:write("still running\n")
    ]])
    assert.equal(1, ran.code)
    local reported, running = ran.err:find("collected", 1, true), ran.err:find("still running", 1, true)
    assert.truthy(reported, ran.err)
    assert.truthy(running)
    assert.is_true(reported < running, ran.err)
  end)

  it("is none, if anybody looked: awaited, error, traceback, catch, and_then, finally, a combinator", function()
    for _, look in ipairs({
      "pcall(f.await, f)", "f:error()", "f:traceback()", "f:catch(print)",
      "local g = f:and_then(print) g:error() pcall(g.await, g)",
      "local g = f:finally(print) pcall(g.await, g)", "pcall(f.await, f, 1)",
      "local g = unsync.settled{f} g:await() f:error()", "local g = unsync.all{f} pcall(g.await, g)",
      "local g = unsync.race{f} pcall(g.await, g)", "local g = unsync.any{f} pcall(g.await, g)",
    }) do
      local code, err = report("local f = unsync.rejected('looked at')\n" .. look)
      assert.same({0, ""}, {code, err}, look)
    end
  end)

  it("is one of the continuation, if nobody looked at that", function()
    for _, how in ipairs({"f:and_then(print)", "f:finally(print)", "f:catch(error)", "unsync.all{f}"}) do
      local code, err = report("local f = unsync.rejected('passed on')\n" .. how)
      assert.equal(1, code, how)
      local _, count = err:gsub("nobody looked at", "")
      assert.equal(1, count, how .. ": " .. err)
      assert.matches("passed on", err)
    end
  end)

  it("is not one that is only asked whether it is done", function()
    local code, err = report("local f = unsync.rejected('x') f:done() f:status() tostring(f) f:cancelled()")
    assert.equal(1, code)
    assert.matches("nobody looked at", err)
  end)

  it("is told whatever the error is", function()
    for _, case in ipairs({
      {"nil", "nil"}, {"12", "12"}, {"{}", "table"},
      {"setmetatable({}, {__tostring = function() return 'as text' end})", "as text"},
      {"setmetatable({}, {__tostring = function() error('no') end})", "tostring failed"},
      {"setmetatable({}, {__tostring = function() return {} end})", "tostring failed"},
      {"print", "function"}, {"('x'):rep(100000)", "xxxxx"}, {"'with \\0 zero'", "with"},
    }) do
      local code, err = report("kept = unsync.rejected(" .. case[1] .. ")")
      assert.equal(1, code)
      assert.matches(case[2], err, 1, true)
    end
  end)

  it("fails the call, where it is one of a thread's or a process's, and so the script", function()
    for _, kind in ipairs({"thread", "cpu"}) do
      local code, err = report(([[
        unsync.%s(function()
          local unsync = require "unsync"
          unsync.spawn(function() error("in the worker", 0) end)
        end)()
      ]]):format(kind))
      assert.equal(1, code)
      assert.matches("nobody looked at, of " .. kind .. ".*in the worker", err)
      local _, count = err:gsub("in the worker", "")
      assert.equal(1, count, err)
    end
  end)

  it("comes without a word and with exit code 0, if there was none", function()
    local code, err = report("unsync.spawn(function() unsync.yield() end)")
    assert.same({0, ""}, {code, err})
  end)

  it("is reported after 1,000 of them, each once #slow", function()
    local code, err = report("kept = {} for i = 1, 1000 do kept[i] = unsync.rejected('number ' .. i .. ';') end")
    assert.equal(1, code)
    local _, count = err:gsub("number %d+;", "")
    assert.equal(1000, count)
  end)
end)
