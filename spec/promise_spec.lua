-- Promises: futures settled by hand, once, from wherever they were sent.
local unsync = require("unsync")
local gate = require("spec.support.gate")
local script = require("spec.support.script")

--- What a script says on stderr, and its exit code.
local function report(code)
  local ran = script.run('local unsync = require "unsync"\n' .. code)
  return ran.err, ran.code
end

describe("unsync.promise", function()
  it("is a future that is pending until it is settled", function()
    local promise = unsync.promise()
    assert.is_true(unsync.is_future(promise))
    assert.equal("pending", promise:status())
    assert.is_true(promise:resolve(1, nil, 3))
    assert.equal("done", promise:status())
    assert.same(table.pack(1, nil, 3), table.pack(promise:await()))
  end)

  it("is settled once: every further try says false and changes nothing", function()
    local first = unsync.promise()
    assert.is_true(first:resolve("a"))
    assert.is_false(first:resolve("b"))
    assert.is_false(first:reject("c"))
    assert.equal("a", first:await())
    local second = unsync.promise()
    assert.is_true(second:reject("x"))
    assert.is_false(second:reject("y"))
    assert.is_false(second:resolve("z"))
    assert.equal("x", second:error())
  end)

  it("may be resolved with nothing, with nil, and with many values", function()
    local nothing, one_nil, many = unsync.promise(), unsync.promise(), unsync.promise()
    nothing:resolve()
    one_nil:resolve(nil)
    many:resolve(table.unpack({}, 1, 1000))
    assert.equal(0, select("#", nothing:await()))
    assert.equal(1, select("#", one_nil:await()))
    assert.equal(1000, select("#", many:await()))
  end)

  it("may be rejected with anything, nil too", function()
    for _, err in ipairs({"text", 12, {}, print, true}) do
      local promise = unsync.promise()
      promise:reject(err)
      assert.equal(err, promise:error())
      assert.equal("failed", promise:status())
    end
    local promise = unsync.promise()
    promise:reject()
    assert.same(table.pack(false, nil), table.pack(pcall(promise.await, promise)))
  end)

  it("does not follow a future that it is resolved with", function()
    local inner = unsync.resolved(1)
    local promise = unsync.promise()
    promise:resolve(inner)
    assert.equal(inner, (promise:await()))
  end)

  it("may be resolved with itself", function()
    local promise = unsync.promise()
    promise:resolve(promise)
    assert.equal(promise, (promise:await()))
  end)

  it("is settled by a task that others wait for", function()
    local promise = unsync.promise()
    local waiter = unsync.spawn(function() return promise:await() end)
    unsync.spawn(function()
      unsync.yield()
      promise:resolve("from a task")
    end)
    assert.equal("from a task", waiter:await())
  end)

  it("runs no waiting code inside resolve", function()
    local promise = unsync.promise()
    local ran = false
    local waiter = unsync.spawn(function()
      promise:await()
      ran = true
    end)
    promise:resolve()
    assert.is_false(ran)
    waiter:await()
  end)

  it("is settled from luv's callbacks, too", function()
    local uv = require("luv")
    local promise = unsync.promise()
    local timer = uv.new_timer()
    timer:start(1, 0, function()
      timer:close()
      promise:resolve("from luv")
    end)
    assert.equal("from luv", promise:await())
  end)

  it("is the only kind of future that can be settled by hand", function()
    local task = unsync.spawn(function() unsync.yield() end)
    assert.error_matches(function() task:resolve() end, "promise expected")
    assert.error_matches(function() task:reject("x") end, "promise expected")
    assert.error_matches(function() unsync.resolved():resolve() end, "promise expected")
    local promise = unsync.promise()
    local chained = promise:catch(print)
    assert.error_matches(function() chained:resolve() end, "promise expected")
    promise:resolve()
    chained:await()
    assert.error_matches(function() promise.resolve(12) end, "unsync.Future expected")
    assert.error_matches(function() promise.resolve() end, "unsync.Future expected")
  end)
end)

describe("unsync.resolved and unsync.rejected", function()
  it("are settled from the start", function()
    local fine = unsync.resolved(1, nil)
    assert.is_true(fine:done())
    assert.same(table.pack(1, nil), table.pack(fine:await()))
    assert.equal(0, select("#", unsync.resolved():await()))
    local failed = unsync.rejected("x")
    assert.is_true(failed:done())
    assert.same({false, "x"}, {pcall(failed.await, failed)})
    assert.same(table.pack(false, nil), table.pack(pcall(unsync.Future.await, unsync.rejected())))
  end)
end)

describe("a promise in another thread", function()
  it("is settled there, and awaited here", function()
    local promise = unsync.promise()
    local settled_first = unsync.thread(function() return promise:resolve(1, nil, "x"), promise:resolve(2) end)()
    assert.same(table.pack(1, nil, "x"), table.pack(promise:await()))
    assert.same({true, false}, {settled_first:await()})
    assert.is_false(promise:resolve("late"))
  end)

  it("is rejected there with an error of any kind", function()
    for _, err in ipairs({"text", 1.5, {code = "custom", list = {1, 2}}}) do
      local promise = unsync.promise()
      unsync.thread(function() promise:reject(err) end)():await()
      assert.same(err, promise:error())
    end
    local promise = unsync.promise()
    unsync.thread(function() promise:reject() end)():await()
    assert.same(table.pack(false, nil), table.pack(pcall(promise.await, promise)))
  end)

  it("is settled here, and awaited there", function()
    local promise, started = unsync.promise(), unsync.promise()
    local future = unsync.thread(function()
      started:resolve()
      return "got", promise:await()
    end)()
    started:await()
    promise:resolve(nil, 2)
    assert.same(table.pack("got", nil, 2), table.pack(future:await()))
  end)

  it("is there what it is here, when it was settled before it was sent", function()
    local fine, failed = unsync.promise(), unsync.promise()
    fine:resolve(1, nil)
    failed:reject("wrong")
    assert.same(table.pack("done", "failed", "wrong", 1, nil), table.pack(unsync.thread(function()
      return fine:status(), failed:status(), select(2, pcall(failed.await, failed)), fine:await()
    end)():await()))
  end)

  it("is settled by one of many that try at once #slow", function()
    for _ = 1, 50 do
      local promise, start = unsync.promise(), unsync.promise()
      local tries = {}
      for i = 1, 8 do
        tries[i] = unsync.thread(function()
          start:await()
          return promise:resolve(i)
        end)()
      end
      start:resolve()
      local winners = {}
      for i, try in ipairs(tries) do
        if try:await() then winners[#winners + 1] = i end
      end
      assert.equal(1, #winners)
      assert.equal(winners[1], promise:await())
    end
  end)

  it("goes from thread to thread, and comes back as itself", function()
    local promise = unsync.promise()
    local inner = unsync.thread(function(p) p:resolve("through two") return p end)
    local outer = unsync.thread(function(p) return inner(p):await(), p:await() end)
    local returned, value = outer(promise):await()
    assert.equal(promise, returned)
    assert.equal("through two", value)
  end)

  it("refuses values that cannot cross, and stays pending", function()
    local promise = unsync.promise()
    local code, path = unsync.thread(function()
      local ok, err = pcall(promise.resolve, promise, {1, {file = io.tmpfile()}})
      assert(not ok)
      return err.code, err.path
    end)():await()
    assert.equal("unsendable", code)
    assert.equal("argument 1[2].file", path)
    assert.equal("pending", promise:status())
    promise:resolve(1)
    assert.equal(1, promise:await())
  end)

  it("becomes settled with an error there, where the values settled here cannot cross", function()
    local promise, started = unsync.promise(), unsync.promise()
    local future = unsync.thread(function()
      started:resolve()
      local _, err = pcall(promise.await, promise)
      return err.code, err.path
    end)()
    started:await()
    local ok, err = pcall(promise.resolve, promise, io.tmpfile())
    if ok then
      assert.same({"unsendable", "result 1"}, {future:await()})
    else
      assert.equal("unsendable", err.code)
      assert.equal("pending", promise:status())
      promise:reject({code = "given up"})
      assert.equal("given up", (future:await()))
    end
  end)

  it("that failed there is looked at here: nobody reports it", function()
    assert.same({"", 0}, {report([[
      local promise = unsync.promise()
      local call = unsync.thread(function() promise:reject("looked at") collectgarbage() end)()
      call:await()
      promise:error()
    ]])})
    assert.same({"", 0}, {report([[
      local promise = unsync.promise()
      promise:reject("looked at there")
      unsync.thread(function() return promise:error() end)():await()
    ]])})
    assert.same({"", 0}, {report([[
      local failed = unsync.thread(function() return require("unsync").rejected("from there") end)():await()
      for _ = 1, 5 do unsync.thread(collectgarbage)():await() end
      failed:error()
    ]])})
  end)

  it("that failed and that nobody looked at anywhere is reported once", function()
    for _, code in ipairs({
      "local kept = unsync.promise() unsync.thread(function() kept:reject('lost') collectgarbage() end)():await()",
      "local kept = unsync.promise() kept:reject('lost') unsync.thread(function() return kept:status() end)():await()",
      "local kept = unsync.thread(function() return require('unsync').rejected('lost') end)():await()",
      "do local p = unsync.promise() unsync.thread(function() p:reject('lost') end)():await() end collectgarbage()",
    }) do
      local err, exit_code = report(code)
      local _, count = err:gsub("lost", "")
      assert.equal(1, count, code .. "\n" .. err)
      assert.equal(1, exit_code, code)
    end
  end)

  it("passes messages to and fro as often as one likes #slow", function()
    local ping = {}
    local pong = {}
    for i = 1, 500 do ping[i], pong[i] = unsync.promise(), unsync.promise() end
    local other = unsync.thread(function()
      for i = 1, #ping do pong[i]:resolve(ping[i]:await() + 1) end
      return "done"
    end)()
    for i = 1, #ping do
      ping[i]:resolve(i)
      assert.equal(i + 1, gate.within(pong[i], 20))
    end
    assert.equal("done", other:await())
  end)
end)

for _, kind in ipairs({"thread", "process"}) do
  local elsewhere = unsync[kind == "thread" and "thread" or "cpu"]
  describe("a promise that is cancelled in another " .. kind, function()
    it("is cancelled for all who have it, for the reason that was given", function()
      local promise = unsync.promise()
      local waiter = unsync.spawn(function() return select(2, pcall(promise.await, promise)) end)
      local first, again, status = elsewhere(function()
        return promise:cancel("enough"), promise:cancel("too late"), promise:status()
      end)():await()
      assert.same({true, false, "cancelled"}, {first, again, status})
      local err = waiter:await()
      assert.same({"cancelled", "promise", "enough"}, {err.code, err.task, err.reason})
      assert.is_true(promise:cancelled())
      assert.is_false(promise:resolve("too late"))
    end)

    it("was made there, or is waited for there", function()
      local made = elsewhere(function() return require("unsync").promise() end)():await()
      assert.is_true(made:cancel({why = "test"}))
      local ok, err = pcall(made.await, made)
      assert.is_false(ok)
      assert.same({why = "test"}, err.reason)
      local begun, promise = unsync.promise(), unsync.promise()
      local call = elsewhere(function()
        begun:resolve()
        local _, told = pcall(promise.await, promise)
        return told.code, told.reason
      end)()
      begun:await()
      assert.is_true(promise:cancel(coroutine.create(print))) -- a reason that cannot cross is left behind
      assert.same({"cancelled"}, {call:await()})
    end)

    it("at the end of the block that it is local to there", function()
      local promise = unsync.promise()
      elsewhere(function() local _ <close> = promise end)():await()
      assert.equal("cancelled", promise:status())
    end)

    it("or resolved in the same moment: one of the two says that it was the first, and it ends so", function()
      for i = 1, 100 do
        local promise = unsync.promise()
        local call = elsewhere(function() return promise:resolve("resolved") end)()
        for _ = 1, i % 4 do unsync.yield() end
        local cancelled = promise:cancel()
        local resolved = call:await()
        assert.is_true(cancelled ~= resolved, ("round %d: %s and %s"):format(i, cancelled, resolved))
        assert.equal(resolved and "done" or "cancelled", promise:status())
      end
    end)
  end)
end
