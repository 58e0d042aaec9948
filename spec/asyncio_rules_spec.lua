-- What asyncio's manual promises about cancelling tasks, task groups, timeouts and waiting for several, rule by rule,
-- with our answer to each. docs/cancellation.md has the same list, and says why where the answer differs on purpose.
local ending = require("spec.support.ending")
local rules = require("spec.support.rules")
local script = require("spec.support.script")
local testing = require("unsync.testing")
local unsync = require("unsync")

local NEVER = 3600

local asyncio = rules.of("Rule by rule: asyncio", it)
local same, differs = asyncio.same, asyncio.differs

local failure, code, closing = ending.failure, ending.code, ending.closing

local function forever() unsync.sleep(NEVER) end

--- A call that waits, and ends only when it has been cancelled and `promise` is settled.
local function slow_to_end(promise, name)
  return unsync.io(function()
    local _ <close> = closing(function() unsync.shield(promise.await, promise) end)
    forever()
  end, {name = name})()
end

describe("asyncio's tasks:", function()
  same("cancel() says whether there was something to cancel", function()
    local task = unsync.spawn(forever)
    assert.is_true(task:cancel())
    pcall(task.await, task)
    assert.is_false(task:cancel())
    assert.is_false(unsync.resolved(1):cancel())
  end)

  same("CancelledError is thrown in the loop's next round, not by cancel() itself", function()
    local seen
    local task = unsync.spawn(function() seen = code(forever) end)
    task:cancel()
    assert.is_nil(seen)
    task:await()
    assert.equal("cancelled", seen)
  end)

  same("a task may clean up first, and may wait for that", function()
    local cleaned = false
    local task = unsync.spawn(function()
      local _ <close> = closing(function()
        unsync.shield(unsync.sleep, 0.001)
        cleaned = true
      end)
      forever()
    end)
    task:cancel()
    assert.equal("cancelled", code(task.await, task))
    assert.is_true(cleaned)
  end)

  same("to cancel is to ask: a task that returns a value all the same is done", function()
    local task = unsync.spawn(function() return code(forever) end)
    task:cancel()
    assert.equal("cancelled", task:await())
    assert.is_false(task:cancelled())
    assert.equal("done", task:status())
  end)

  differs("a task that has caught CancelledError waits as ever", function()
    local second
    local task = unsync.spawn(function()
      pcall(forever)
      second = code(unsync.sleep, 0)
    end)
    task:cancel()
    task:await()
    assert.equal("cancelled", second)
  end)

  differs("cancel() counts, and uncancel() takes one back", function()
    local task = unsync.spawn(forever)
    task:cancel("first")
    task:cancel("second")
    assert.equal("first", failure(task.await, task).reason)
    assert.is_nil(task.uncancel)
  end)

  differs("except Exception does not catch CancelledError", function()
    local caught, later
    local task = unsync.spawn(function()
      caught = not pcall(forever) -- a pcall catches all; the next wait raises it again
      later = code(forever)
    end)
    task:cancel()
    pcall(task.await, task)
    assert.same({true, "cancelled"}, {caught, later})
  end)

  differs("what the task awaits is cancelled with it, all down the chain", function()
    local leaf = unsync.spawn(forever)
    local middle = unsync.spawn(function() leaf:await() end)
    local top = unsync.spawn(function() middle:await() end)
    top:cancel()
    pcall(top.await, top)
    pcall(leaf.await, leaf)
    assert.same({"cancelled", "cancelled"}, {middle:status(), leaf:status()})
    -- But not what somebody else awaits, too, and no promise.
    local promise = unsync.promise()
    local shared = unsync.spawn(function() return promise:await() end)
    local one = unsync.spawn(function() return shared:await() end)
    local other = unsync.spawn(function() return shared:await() end)
    one:cancel()
    pcall(one.await, one)
    promise:resolve("kept")
    assert.equal("kept", other:await())
  end)

  same("the message goes along to whoever awaits the task", function()
    local task = unsync.spawn(forever)
    task:cancel("closing time")
    local err = failure(task.await, task)
    assert.equal("closing time", err.reason)
    assert.matches("closing time", tostring(err))
  end)

  same("cancelled() holds only if the error left the task", function()
    local fine, ended = unsync.spawn(pcall, forever), unsync.spawn(forever)
    local failed = unsync.spawn(function()
      pcall(forever)
      error("other", 0)
    end)
    for _, task in ipairs({fine, failed, ended}) do
      task:cancel()
      pcall(task.await, task)
    end
    assert.same({false, false, true}, {fine:cancelled(), failed:cancelled(), ended:cancelled()})
  end)

  differs("awaiting a cancelled task raises CancelledError, as one's own cancellation does", function()
    local inner = unsync.io(forever, {name = "inner"})()
    local outer = unsync.spawn(function()
      local err = failure(inner.await, inner)
      unsync.yield() -- nobody has cancelled this one
      return err.task
    end)
    inner:cancel()
    assert.equal("inner", outer:await())
  end)

  same("a future made by hand is cancelled at once", function()
    local promise = unsync.promise()
    assert.is_true(promise:cancel())
    assert.is_true(promise:cancelled())
    assert.is_false(promise:resolve(1))
  end)

  differs("result() and exception() raise where there is no result yet", function()
    local task = unsync.spawn(function()
      unsync.yield()
      return "there"
    end)
    assert.is_nil(task:error())
    assert.equal("there", task:result()) -- any function may wait
  end)

  differs("only the thread of the loop may cancel a task", function()
    local task = unsync.spawn(forever)
    assert.is_true(unsync.thread(function(future) return future:cancel() end)(task):await())
    assert.equal("cancelled", code(task.await, task))
    task = unsync.spawn(forever)
    assert.is_true(unsync.cpu(function(future) return future:cancel() end)(task):await())
    assert.equal("cancelled", code(task.await, task))
  end)

  differs("nobody but you keeps a task alive", function()
    local ended = unsync.promise()
    unsync.spawn(function()
      unsync.yield()
      ended:resolve("ended")
    end)
    collectgarbage()
    collectgarbage()
    assert.equal("ended", ended:await())
  end)

  differs("create_task() only notes the task: it begins in the next round", function()
    local task = unsync.spawn(function() return 1 end)
    assert.is_true(task:done())
  end)

  same("an eager task runs until it first waits; one that need not wait is done at once", function()
    local steps = {}
    local task = unsync.spawn(function()
      steps[#steps + 1] = "begins"
      unsync.yield()
      steps[#steps + 1] = "ends"
    end)
    steps[#steps + 1] = "called"
    task:await()
    assert.same({"begins", "called", "ends"}, steps)
    assert.is_true(unsync.spawn(function() end):done())
  end)

  same("a task has the context of its maker, as it was then", function()
    local var, gate = unsync.var("before"), unsync.promise()
    local task = unsync.spawn(function()
      gate:await()
      return var:get()
    end)
    var:set("after")
    gate:resolve()
    assert.equal("before", task:await())
    var:set("before")
  end)
end)

describe("asyncio's task groups:", function()
  same("the block waits for all tasks of the group", function()
    local ended = 0
    unsync.scope(function(s)
      for _ = 1, 3 do
        s:spawn(function()
          unsync.yield()
          ended = ended + 1
        end)
      end
    end)
    assert.equal(3, ended)
  end)

  same("while it waits, tasks may be added; when it has ended, no more", function()
    local added, kept = false, nil
    unsync.scope(function(s)
      kept = s
      s:spawn(function()
        unsync.yield()
        s:spawn(function() added = true end)
      end)
    end)
    assert.is_true(added)
    assert.equal("closed", code(kept.spawn, kept, forever))
  end)

  same("the first failure cancels the other tasks, and the block if it still runs", function()
    local child, block
    assert.equal("first", code(unsync.scope, function(s)
      child = s:spawn(forever)
      s:spawn(function()
        unsync.yield()
        error("first", 0)
      end)
      block = failure(forever)
      error(block, 0)
    end))
    assert.is_true(child:cancelled())
    assert.equal("cancelled", block.code)
  end)

  differs("when a task has failed, the group takes no others", function()
    local late
    assert.equal("first", code(unsync.scope, function(s)
      s:spawn(function()
        pcall(forever)
        late = s:spawn(forever) -- begins, and is cancelled where it waits
      end)
      error("first", 0)
    end))
    assert.is_true(late:cancelled())
  end)

  differs("failures are raised in a group, which keeps them all", function()
    local err = failure(unsync.scope, function(s)
      s:spawn(function()
        pcall(forever)
        error("second", 0)
      end)
      s:spawn(error, {code = "first"})
      forever()
    end)
    assert.same({code = "first", others = {"second"}}, err)
  end)

  same("an error of the block counts as a task's", function()
    local child
    assert.equal("block", code(unsync.scope, function(s)
      child = s:spawn(forever)
      error("block", 0)
    end))
    assert.is_true(child:cancelled())
  end)

  same("a task that was cancelled is no failure", function()
    assert.equal("fine", unsync.scope(function(s)
      s:spawn(forever):cancel()
      return "fine"
    end))
  end)

  same("groups nest: the inner one deals with its failures first, then the outer with its own", function()
    local inner
    local outer = failure(unsync.scope, function(s)
      s:spawn(function()
        inner = failure(unsync.scope, function(t)
          t:spawn(error, {code = "inner"})
          forever()
        end)
        error(inner, 0)
      end)
      s:spawn(function()
        pcall(forever)
        error("outer", 0)
      end)
    end)
    assert.equal(inner, outer)
    assert.same({code = "inner", others = {"outer"}}, outer)
  end)

  same("a cancellation from outside is not lost in a group that fails", function()
    local raised, after
    local task = unsync.spawn(function()
      raised = failure(unsync.scope, function(s)
        s:spawn(function()
          unsync.current():cancel() -- both in one moment
          error("failed", 0)
        end)
        forever()
      end)
      after = code(unsync.sleep, 0)
    end)
    task:cancel()
    pcall(task.await, task)
    assert.is_not_nil(raised)
    assert.equal("cancelled", after)
  end)

  same("a group is ended by a task that raises an error which is caught outside", function()
    local enough, others = {}, nil
    assert.equal(enough, failure(unsync.scope, function(s)
      others = s:spawn(forever)
      s:spawn(error, enough)
    end))
    assert.is_true(others:cancelled())
  end)

  same("KeyboardInterrupt and SystemExit go through a group as they are", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local uv = require "luv"
      unsync.scope(function(s)
        s:spawn(function()
          uv.kill(uv.os_getpid(), "sigint")
          unsync.sleep(3600)
        end)
        unsync.sleep(3600)
      end)
    ]])
    assert.equal(130, ran.code)
    assert.matches("interrupted", ran.err)
    ran = script.run([[
      local unsync = require "unsync"
      unsync.scope(function(s)
        s:spawn(unsync.sleep, 3600)
        s:spawn(function() os.exit(7) end)
      end)
    ]])
    assert.equal(7, ran.code)
  end)
end)

describe("asyncio's timeouts:", function()
  same("timeout() cancels what is in the block, and raises TimeoutError behind it", function()
    local inside
    assert.equal("timeout", code(unsync.timeout, 0.001, function()
      inside = code(forever)
      unsync.yield()
    end))
    assert.equal("cancelled", inside)
  end)

  same("what comes behind the block is not cancelled", function()
    local task = unsync.spawn(function()
      pcall(unsync.timeout, 0.001, forever)
      unsync.sleep(0.001)
      return "goes on"
    end)
    assert.equal("goes on", task:await())
  end)

  differs("timeout(None) sets no limit", function()
    assert.equal(1, unsync.timeout(math.huge, function() return 1 end))
    assert.error_matches(function() unsync.timeout(nil, print) end, "#1")
  end)

  differs("a timeout can be rescheduled, and asked when it is due", function()
    local work = unsync.promise()
    for _ = 1, 3 do assert.equal("timeout", code(work.await, work, 0.001)) end
    work:resolve("in time")
    assert.equal("in time", work:await(0))
  end)

  same("expired() tells afterwards whether it was this one", function()
    local inner
    local outer = code(unsync.timeout, 0.001, function()
      inner = code(unsync.timeout, NEVER, forever)
      unsync.yield()
    end)
    assert.same({"cancelled", "timeout"}, {inner, outer})
  end)

  same("timeouts nest", function()
    assert.equal("timeout", unsync.timeout(NEVER, code, unsync.timeout, 0.001, forever))
    assert.equal("timeout", code(unsync.timeout, 0.001, unsync.timeout, NEVER, forever))
  end)

  same("one that is due already ends the block at its next wait", function()
    assert.equal("timeout", code(unsync.timeout, 0, forever))
    assert.equal("no wait", unsync.timeout(0, function() return "no wait" end))
  end)

  same("a cancellation from outside goes through it as it is", function()
    local task = unsync.spawn(unsync.timeout, NEVER, forever)
    task:cancel("outside")
    local err = failure(task.await, task)
    assert.same({"cancelled", "outside"}, {err.code, err.reason})
  end)

  same("timeout and cancellation in one moment: neither is lost", function()
    local after
    local task = unsync.spawn(function()
      pcall(unsync.timeout, 0.001, function()
        pcall(forever)
        unsync.current():cancel()
        unsync.yield()
      end)
      after = code(unsync.sleep, 0)
    end)
    pcall(task.await, task)
    assert.equal("cancelled", after)
  end)

  differs("wait_for() cancels what it has waited for in vain", function()
    local task = unsync.spawn(forever)
    assert.equal("timeout", code(task.await, task, 0.001))
    assert.is_false(task:done()) -- it is only the wait that has ended
    assert.equal("timeout", code(unsync.timeout, 0.001, task.await, task)) -- this is wait_for
    assert.equal("cancelled", code(task.await, task))
  end)

  differs("wait_for() returns when what it has cancelled has ended, however long that takes", function()
    local clean_up = unsync.promise()
    local task = slow_to_end(clean_up, "slow")
    assert.equal("timeout", code(unsync.timeout, 0.001, task.await, task))
    assert.is_false(task:done())
    clean_up:resolve()
    assert.equal("cancelled", code(task.await, task))
    -- A scope's timeout waits.
    local ended
    assert.equal("timeout", code(unsync.scope, {timeout = 0.001}, function(s)
      s:spawn(function()
        local _ <close> = closing(function()
          unsync.shield(unsync.sleep, 0.003)
          ended = true
        end)
        forever()
      end)
    end))
    assert.is_true(ended)
  end)

  same("if the wait is cancelled, so is what it waits for", function()
    local task = unsync.spawn(forever)
    local waits = unsync.spawn(function() return task:await(NEVER) end)
    waits:cancel()
    pcall(waits.await, waits)
    assert.equal("cancelled", code(task.await, task))
  end)

  same("a result that comes in the same moment is not lost", function()
    local clock <close> = testing.clock()
    local promise = unsync.promise()
    unsync.spawn(function()
      unsync.sleep(1)
      promise:resolve("given")
    end)
    local got
    local waits = unsync.spawn(function() got = promise:await(1) end)
    clock:advance(1)
    pcall(waits.await, waits)
    assert.equal("given", got) -- who waited first is served first, the limit comes second
    assert.equal("given", promise:await())
  end)

  same("no time at all: a result that is there is given, else it is a timeout", function()
    assert.equal("there", unsync.resolved("there"):await(0))
    local promise = unsync.promise()
    assert.equal("timeout", code(promise.await, promise, 0))
  end)

  differs("sleep() of a negative time returns at once", function()
    assert.error_matches(function() unsync.sleep(-1) end, "#1")
    assert.error_matches(function() unsync.sleep(0 / 0) end, "#1")
  end)

  same("sleep(0) lets the others run", function()
    local ran = false
    unsync.spawn(function()
      unsync.yield()
      ran = true
    end)
    unsync.sleep(0)
    assert.is_true(ran)
  end)
end)

describe("asyncio's shield:", function()
  differs("the caller is cancelled at once, what is inside goes on alone", function()
    local order, shielded = {}, unsync.promise()
    local task = unsync.spawn(function()
      unsync.shield(function()
        shielded:resolve()
        unsync.sleep(0.001)
        order[#order + 1] = "inside has ended"
      end)
      order[#order + 1] = code(forever)
    end)
    shielded:await()
    task:cancel()
    task:await()
    assert.same({"inside has ended", "cancelled"}, order)
  end)

  same("if what is inside is cancelled itself, so does the shield end", function()
    local task = unsync.spawn(forever)
    task:cancel()
    assert.equal("cancelled", code(unsync.shield, task.await, task))
  end)

  differs("one must keep hold of what is shielded, or it may be collected", function()
    local ended
    unsync.shield(function()
      collectgarbage()
      unsync.yield()
      collectgarbage()
      ended = true
    end)
    assert.is_true(ended)
  end)
end)

describe("asyncio's waits for several:", function()
  local function three()
    return {unsync.resolved(1), unsync.spawn(function() unsync.yield() return 2 end), unsync.resolved(3)}
  end

  same("gather() has the results in the order of the list", function()
    assert.same({1, 2, 3}, unsync.all(three()):await())
  end)

  differs("gather(): the first failure is raised at once, and the others go on", function()
    local other = unsync.spawn(forever)
    local both = unsync.all({other, unsync.rejected("first")})
    assert.equal("first", code(both.await, both))
    assert.equal("cancelled", code(other.await, other))
  end)

  same("gather(return_exceptions=True) waits for all and raises nothing", function()
    local list = {unsync.rejected("no"), unsync.spawn(function() unsync.yield() return "yes" end)}
    local settled = unsync.settled(list):await()
    assert.same({"no", "yes"}, {settled[1]:error(), settled[2]:await()})
  end)

  same("to cancel gather() cancels all that has not ended", function()
    local one, two = unsync.spawn(forever), unsync.spawn(forever)
    local both = unsync.all({one, two})
    assert.is_true(both:cancel())
    for _, future in ipairs({both, one, two}) do assert.equal("cancelled", code(future.await, future)) end
  end)

  differs("gather(): that one of the list is cancelled is an error like any other", function()
    local one, two = unsync.io(forever, {name = "one"})(), unsync.spawn(forever)
    local both = unsync.all({one, two})
    one:cancel()
    assert.equal("one", failure(both.await, both).task)
    assert.equal("cancelled", both:status())
    assert.equal("cancelled", code(two.await, two))
  end)

  same("to cancel gather() when it has ended does nothing", function()
    local done = unsync.all({unsync.resolved(1)})
    done:await()
    assert.is_false(done:cancel())
  end)

  same("wait(FIRST_COMPLETED) ends with the first, and leaves the others alone", function()
    local other, first = unsync.spawn(forever), unsync.resolved("first")
    assert.equal(first, (unsync.select({other, first})))
    assert.is_false(other:done())
    other:cancel()
  end)

  differs("wait(FIRST_EXCEPTION) ends with the first failure, and leaves the others alone", function()
    local other = unsync.spawn(forever)
    local both = unsync.all({other, unsync.rejected("first")})
    assert.equal("first", code(both.await, both))
    assert.equal("cancelled", code(other.await, other))
  end)

  same("wait(ALL_COMPLETED) ends when all have ended, however that was", function()
    local list = {unsync.spawn(function() unsync.yield() error("x") end), unsync.spawn(forever)}
    list[2]:cancel()
    unsync.settled(list):await()
    assert.same({"failed", "cancelled"}, {list[1]:status(), list[2]:status()})
    assert.matches("x", list[1]:error())
  end)

  same("wait(timeout=…) neither raises nor cancels", function()
    local task = unsync.spawn(forever)
    assert.same({nil, "timeout", n = 2}, table.pack(unsync.select({task, timeout = 0.001})))
    assert.is_false(task:done())
    task:cancel()
  end)

  same("wait() for nothing at all is an error", function()
    assert.error_matches(function() unsync.select({}) end, "#1")
    assert.error_matches(function() unsync.race({}) end, "#1")
  end)

  same("as_completed() gives the tasks themselves in the order in which they end", function()
    local late, early = unsync.promise(), unsync.promise()
    unsync.spawn(function()
      early:resolve()
      unsync.yield()
      late:resolve()
    end)
    local order = {}
    for future in unsync.as_completed({late, early}) do order[#order + 1] = future end
    assert.same({true, true}, {order[1] == early, order[2] == late})
  end)

  same("as_completed(timeout=…) raises when that is over, and cancels nothing", function()
    local task, left = unsync.spawn(forever), unsync.spawn(forever)
    assert.equal("timeout", code(unsync.timeout, 0.001, function()
      for _ in unsync.as_completed({task, left}) do error("none ends") end
    end))
    assert.same({false, false}, {task:done(), left:done()})
    task:cancel()
    left:cancel()
  end)
end)

describe("asyncio's threads:", function()
  same("to_thread() takes the context along", function()
    local var = unsync.var("nobody")
    assert.equal("Ada", var:with("Ada", function() return unsync.thread(function() return var:get() end)():await() end))
  end)

  differs("a call in a thread cannot be cancelled once it runs", function()
    local running = unsync.promise()
    local call = unsync.thread(function(promise)
      promise:resolve()
      while true do tostring(0.5) end
    end)(running)
    running:await()
    call:cancel()
    assert.equal("hook", failure(call.await, call).stopped_by)
  end)

  differs("run_coroutine_threadsafe() hands work to the loop from another thread", function()
    local asked = unsync.channel()
    local worker = unsync.thread(function(channel)
      local answer = require("unsync").promise()
      channel:send({question = 6, answer = answer})
      return answer:await()
    end)(asked)
    local request = asked:recv()
    request.answer:resolve(request.question * 7)
    assert.equal(42, worker:await())
  end)
end)

describe("asyncio's rules", function() asyncio.told() end)
