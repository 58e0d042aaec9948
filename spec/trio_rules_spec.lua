-- What trio's manual promises about checkpoints, time, cancellation, nurseries and threads, rule by rule, with our
-- answer to each. docs/cancellation.md has the same list, and says why where the answer differs on purpose.
local ending = require("spec.support.ending")
local gate = require("spec.support.gate")
local rules = require("spec.support.rules")
local script = require("spec.support.script")
local testing = require("unsync.testing")
local unsync = require("unsync")

local plugin = script.build .. "/spec/plugins/echo.so"

local NEVER = 3600

local trio = rules.of("Rule by rule: trio", it)
local same, differs = trio.same, trio.differs

local failure, code, closing = ending.failure, ending.code, ending.closing

local function forever() unsync.sleep(NEVER) end

--- Runs `fn` in a task that has been cancelled; returns what it returns.
local function when_cancelled(fn)
  local results
  local task = unsync.spawn(function()
    unsync.current():cancel()
    results = table.pack(fn())
  end)
  pcall(task.await, task)
  return table.unpack(results or {}, 1, results and results.n or 0)
end

describe("trio's checkpoints:", function()
  same("a function that is not async never raises Cancelled", function()
    local promise, channel, event = unsync.promise(), unsync.channel(1), unsync.event()
    assert.is_true(when_cancelled(function()
      promise:resolve(1)
      channel:try_send(1)
      channel:try_recv()
      channel:close()
      event:set()
      return promise:done() and unsync.spawn(function() return 1 end):done()
    end))
  end)

  differs("every async function checks for cancellation, even where it need not wait", function()
    local channel = unsync.channel(1)
    assert.same({7, 8, "cancelled"}, {when_cancelled(function()
      channel:send(8)
      return unsync.resolved(7):await(), channel:recv(), code(unsync.sleep, 0)
    end)})
  end)

  differs("every async function lets others run, even where it need not wait", function()
    local settled, turn = unsync.resolved(1), nil
    local other = unsync.spawn(function()
      unsync.yield()
      turn = "had"
    end)
    settled:await()
    assert.is_nil(turn)
    while not turn do settled:await() end -- its turn comes all the same
    other:await()
  end)

  differs("an async loop passes a checkpoint in each round, and over nothing too", function()
    local channel, rounds = unsync.channel(3), 0
    for i = 1, 3 do channel:send(i) end
    channel:close()
    when_cancelled(function() for _ in channel do rounds = rounds + 1 end end)
    assert.equal(3, rounds)
  end)

  same("sleep(0) is a checkpoint and nothing else", function()
    local turns = 0
    unsync.spawn(function()
      unsync.yield()
      turns = turns + 1
    end)
    unsync.sleep(0)
    assert.equal(1, turns)
    assert.equal("cancelled", when_cancelled(function() return code(unsync.sleep, 0) end))
    assert.equal("cancelled", when_cancelled(function() return code(unsync.yield) end))
  end)
end)

describe("trio's time:", function()
  same("the clock only goes forward, and a test can bring its own", function()
    local before = unsync.now()
    assert.is_true(unsync.now() >= before)
    local clock <close> = testing.clock({autojump = true})
    unsync.sleep(NEVER)
    assert.is_true(clock:now() >= NEVER)
  end)

  same("sleep is never shorter than asked for", function()
    for _, seconds in ipairs({0.0001, 0.001, 0.0021}) do
      local before = unsync.now()
      unsync.sleep(seconds)
      assert.is_true(unsync.now() - before >= seconds)
    end
  end)

  same("a negative number of seconds is refused, and so is NaN", function()
    for _, wrong in ipairs({-1, 0 / 0}) do
      assert.error_matches(function() unsync.sleep(wrong) end, "#1")
      assert.error_matches(function() unsync.timeout(wrong, print) end, "#1")
    end
  end)

  differs("sleep_forever waits until it is cancelled", function()
    local task = unsync.spawn(unsync.sleep, math.huge)
    task:cancel()
    assert.equal("cancelled", code(task.await, task))
    -- What nobody can end is told, where trio would hang.
    local promise = unsync.promise()
    assert.equal("deadlock", code(promise.await, promise))
  end)

  differs("sleep_until, move_on_at and fail_at take a point in time", function()
    local clock <close> = testing.clock({autojump = true})
    local at = unsync.now() + 10
    unsync.sleep(math.max(0, at - unsync.now()))
    assert.is_true(clock:now() >= 10)
  end)
end)

describe("trio's timeouts:", function()
  same("a timeout is one for the whole block, not one for each wait", function()
    local clock <close> = testing.clock({autojump = true})
    local waits = 0
    assert.equal("timeout", code(unsync.timeout, 10, function()
      for _ = 1, 5 do
        unsync.sleep(4)
        waits = waits + 1
      end
    end))
    assert.equal(2, waits)
    assert.is_true(clock:now() >= 10)
  end)

  differs("move_on_after goes on behind the block without a word", function()
    local behind
    assert.equal("timeout", code(unsync.timeout, 0.001, forever))
    pcall(unsync.timeout, 0.001, forever)
    behind = true
    assert.is_true(behind)
  end)

  same("fail_after raises an error of its own, at the end of the block and not inside", function()
    local inside
    local outside = failure(unsync.timeout, 0.001, function()
      inside = failure(forever)
      error(inside, 0)
    end)
    assert.same({"cancelled", "timeout", "timeout"}, {inside.code, inside.reason, outside.code})
  end)

  same("blocks nest: what expires ends all that is in it, and is caught by its own block only", function()
    local steps = {}
    local err = failure(unsync.timeout, 0.001, function()
      unsync.timeout(NEVER, function()
        forever()
        steps[#steps + 1] = "slept"
      end)
      steps[#steps + 1] = "behind the inner block"
    end)
    assert.equal("timeout", err.code)
    assert.same({}, steps)
  end)

  same("one can tell which block it was that expired", function()
    local inner
    local outer = failure(unsync.timeout, 0.001, function()
      inner = failure(unsync.timeout, NEVER, forever)
      error(inner, 0)
    end)
    assert.same({"cancelled", "timeout"}, {inner.code, outer.code}) -- cancelled_caught: false, true
    assert.equal("timeout", unsync.timeout(NEVER, code, unsync.timeout, 0.001, forever))
  end)

  same("a block that ends by itself has not expired, however late", function()
    assert.equal("late", unsync.timeout(0.001, function()
      unsync.shield(unsync.sleep, 0.003)
      return "late"
    end))
  end)

  same("a deadline that is over ends the block at its first checkpoint", function()
    local began
    assert.equal("timeout", code(unsync.timeout, 0, function()
      began = true
      forever()
    end))
    assert.is_true(began)
  end)

  differs("the deadline of a block can be moved while it runs", function()
    -- A wait with a limit leaves the work alone: who waits may give it more time, as often as he likes.
    local work, granted = unsync.promise(), 0
    while granted < 3 do
      assert.equal("timeout", code(work.await, work, 0.001))
      granted = granted + 1
    end
    work:resolve("in time")
    assert.equal("in time", work:await(0))
  end)

  differs("current_effective_deadline says until when the nearest block lasts", function()
    -- Native tasks are told; Lua is stopped when it is over. In a program of its own: a clock of a test is no worker's.
    assert.equal("true\n", script.output([[
      local unsync = require "unsync"
      unsync.plugin(arg[1])
      local left_ms = unsync.thread("echo.deadline")
      local left = unsync.timeout(3600, unsync.timeout, 500, function() return left_ms():await() end)
      print(left > 0 and left <= 500000)
    ]], {args = {plugin}}))
  end)
end)

describe("trio's cancellation:", function()
  same("what waits in a cancelled scope is ended at once, all else at its next checkpoint", function()
    local waits = unsync.spawn(forever)
    assert.is_true(waits:cancel())
    assert.equal("cancelled", code(waits.await, waits))
    local went_on
    assert.equal("cancelled", when_cancelled(function()
      went_on = true
      return code(forever)
    end))
    assert.is_true(went_on)
  end)

  same("to cancel twice changes nothing", function()
    local task = unsync.spawn(forever)
    task:cancel("first")
    task:cancel("second")
    assert.equal("first", failure(task.await, task).reason)
  end)

  differs("a scope can be cancelled before anybody is in it", function()
    -- A scope is a call here. One that waits in line, and is cancelled there, never runs.
    local ran, hold = 0, unsync.promise()
    local one = unsync.io(function()
      ran = ran + 1
      return hold:await()
    end, {limit = 1})
    local first, second = one(), one()
    second:cancel()
    hold:resolve()
    first:await()
    assert.equal("queue", failure(second.await, second).stopped_by)
    assert.equal(1, ran)
  end)

  differs("a scope can be cancelled from within, and ends without a word", function()
    local never = {}
    assert.equal("done", unsync.scope(function(s) -- a child cancelled on purpose is no failure
      for i = 1, 3 do never[i] = s:spawn(forever) end
      for i = 1, 3 do never[i]:cancel() end
      return "done"
    end))
    assert.same({false, "enough"}, {pcall(unsync.scope, function(s) -- or an error of one's own, caught outside
      s:spawn(forever)
      s:spawn(function() error("enough", 0) end)
      forever()
    end)})
  end)

  same("any task that has got hold of it may cancel it", function()
    local work = unsync.spawn(forever)
    unsync.spawn(function() work:cancel("from beside") end):await()
    assert.equal("from beside", failure(work.await, work).reason)
  end)

  same("Cancelled can be caught, but is raised again at each further checkpoint", function()
    local raised = {}
    when_cancelled(function() for i = 1, 3 do raised[i] = code(forever) end end)
    assert.same({"cancelled", "cancelled", "cancelled"}, raised)
  end)

  same("who meets an error of his own while he is cancelled may raise that", function()
    local task = unsync.spawn(function()
      pcall(forever)
      error("worse", 0)
    end)
    task:cancel()
    assert.equal("worse", code(task.await, task))
    assert.equal("failed", task:status())
  end)

  differs("who catches it each time goes on as long as he likes", function()
    local once = unsync.spawn(function()
      pcall(forever)
      return "all the same"
    end)
    once:cancel()
    assert.equal("all the same", once:await())
    local ran = script.run([[ -- but not for longer than the grace period
      local unsync = require "unsync"
      local task = unsync.spawn(function() while true do pcall(unsync.sleep, 3600) end end)
      task:cancel()
      local ok, err = pcall(task.await, task)
      print(ok, err.code, err.stopped_by)
    ]], {env = {UNSYNC_GRACE = "0.02"}})
    assert.same({"false\tcancelled\thook\n", ""}, {ran.out, ran.err})
  end)

  same("Cancelled means that it did not happen: what was to be sent has not been", function()
    local channel = unsync.channel()
    local sender = unsync.spawn(channel.send, channel, "never")
    sender:cancel()
    pcall(sender.await, sender)
    assert.same({false, "empty"}, {channel:try_recv()})
  end)

  same("Cancelled means that it did not happen: what was to be received is still there", function()
    local channel = unsync.channel()
    local receiver = unsync.spawn(channel.recv, channel)
    receiver:cancel()
    pcall(receiver.await, receiver)
    unsync.spawn(channel.send, channel, "kept")
    assert.equal("kept", channel:recv())
  end)

  same("Cancelled means that it did not happen: a lock or a permit is still free", function()
    for _, make in ipairs({unsync.mutex, function() return unsync.semaphore(1) end}) do
      local lock = make()
      local take, give, try = lock.lock or lock.acquire, lock.unlock or lock.release, lock.try_lock or lock.try_acquire
      take(lock)
      local waiter = unsync.spawn(take, lock)
      waiter:cancel()
      pcall(waiter.await, waiter)
      give(lock)
      assert.truthy(try(lock))
      give(lock)
    end
  end)

  same("what had happened already is kept, and Cancelled comes at the next checkpoint", function()
    local channel, item, after = unsync.channel(), nil, nil
    local receiver = unsync.spawn(function()
      item = channel:recv()
      after = code(forever)
    end)
    channel:send("given")
    receiver:cancel()
    pcall(receiver.await, receiver)
    assert.same({"given", "cancelled"}, {item, after})
  end)

  same("clean-up that waits is cancelled like anything else, after the least that must be done", function()
    local mutex, reached = unsync.mutex(), false
    local task = unsync.spawn(function()
      local _ <close> = mutex:lock()
      local _ <close> = closing(function()
        pcall(forever)
        reached = true
      end)
      forever()
    end)
    task:cancel()
    pcall(task.await, task)
    assert.is_true(reached)
    assert.truthy(mutex:try_lock())
    mutex:unlock()
  end)
end)

describe("trio's shields:", function()
  same("a shield keeps out the cancellation and the deadlines of what is outside", function()
    local steps = {}
    pcall(unsync.timeout, 0.001, function()
      unsync.shield(unsync.sleep, 0.003)
      steps[1] = "deadline"
    end)
    local shielded = gate.new()
    local task = unsync.spawn(function()
      unsync.shield(function()
        shielded:resolve()
        unsync.sleep(0.001)
      end)
      steps[2] = "cancellation"
    end)
    shielded:await()
    task:cancel()
    task:await()
    assert.same({"deadline", "cancellation"}, steps)
  end)

  same("timeouts that begin inside a shield work as ever", function()
    assert.equal("timeout", when_cancelled(function() return unsync.shield(code, unsync.timeout, 0.001, forever) end))
  end)

  same("a shield with a timeout gives clean-up so much time and no more", function()
    local clean_up
    local task = unsync.spawn(function()
      local _ <close> = closing(function()
        clean_up = code(unsync.shield, unsync.timeout, 0.001, forever)
      end)
      forever()
    end)
    task:cancel()
    assert.equal("cancelled", code(task.await, task))
    assert.equal("timeout", clean_up)
  end)

  same("the first checkpoint behind a shield raises what it has kept out", function()
    assert.equal("cancelled", when_cancelled(function()
      unsync.shield(unsync.yield)
      return code(forever)
    end))
  end)
end)

describe("trio's nurseries:", function()
  same("the block ends when all children have ended; to return from it cancels nobody", function()
    local ended = 0
    local result = unsync.scope(function(s)
      for _ = 1, 3 do
        s:spawn(function()
          unsync.yield()
          ended = ended + 1
        end)
      end
      return "returned"
    end)
    assert.same({"returned", 3}, {result, ended})
  end)

  same("a child's error cancels the other children and the block", function()
    local ends = {}
    local function guarded(name)
      local _ <close> = closing(function(_, err) ends[name] = err.code end)
      forever()
    end
    assert.equal("broken", code(unsync.scope, function(s)
      s:spawn(guarded, "child")
      s:spawn(function()
        unsync.yield()
        error("broken", 0)
      end)
      guarded("block")
    end))
    assert.same({child = "cancelled", block = "cancelled"}, ends)
  end)

  same("an error of the block cancels the children", function()
    local child
    assert.equal("broken", code(unsync.scope, function(s)
      child = s:spawn(forever)
      error("broken", 0)
    end))
    assert.is_true(child:cancelled())
  end)

  differs("errors are raised in a group, even one alone", function()
    local mine = {code = "mine"}
    assert.equal(mine, failure(unsync.scope, function(s)
      s:spawn(error, mine)
      forever()
    end))
    assert.is_nil(mine.others)
  end)

  same("no error is lost of those that come while the nursery is being cancelled", function()
    local err = failure(unsync.scope, function(s)
      for i = 1, 2 do
        s:spawn(function()
          pcall(forever)
          error("clean-up " .. i, 0)
        end)
      end
      error({code = "first"})
    end)
    assert.same({code = "first", others = {"clean-up 1", "clean-up 2"}}, err)
  end)

  same("that the nursery has cancelled its children is none of the errors", function()
    local err = failure(unsync.scope, function(s)
      s:spawn(forever)
      s:spawn(forever)
      error({code = "alone"})
    end)
    assert.same({code = "alone"}, err)
  end)

  same("a nursery that has ended takes no more children", function()
    local kept
    unsync.scope(function(s) kept = s end)
    assert.equal("closed", code(kept.spawn, kept, forever))
  end)

  same("a child may start others, also while the block waits for the last ones", function()
    local seen = 0
    unsync.scope(function(s)
      local function grow(n)
        seen = seen + 1
        unsync.yield()
        if n > 0 then s:spawn(grow, n - 1) end
      end
      s:spawn(grow, 4)
    end)
    assert.equal(5, seen)
  end)

  same("a nursery can be handed on: what others start in it are its children", function()
    local ended
    unsync.scope(function(s)
      unsync.spawn(function()
        s:spawn(function()
          unsync.sleep(0.001)
          ended = true
        end)
      end):detach()
    end)
    assert.is_true(ended)
  end)

  same("children are held to the deadlines around the nursery, not to those around their start", function()
    local child
    assert.equal("timeout", code(unsync.timeout, 0.001, unsync.scope, function(s) child = s:spawn(forever) end))
    assert.is_true(child:cancelled())
    local hold = unsync.promise()
    assert.equal("free", unsync.scope(function(s)
      pcall(unsync.timeout, 0.001, function()
        child = s:spawn(hold.await, hold)
        forever()
      end)
      hold:resolve("free")
      return child:await()
    end))
  end)

  differs("start_soon returns before the child has begun", function()
    local begun
    unsync.scope(function(s)
      s:spawn(function() begun = true end)
      assert.is_true(begun) -- a call runs until it first waits
    end)
  end)

  differs("children begin in any order", function()
    local order = {}
    unsync.scope(function(s) for i = 1, 5 do s:spawn(function() order[i] = #order + 1 end) end end)
    assert.same({1, 2, 3, 4, 5}, order)
  end)

  differs("start() waits until the child says that it is ready; until then its errors are start's own", function()
    local function start(s, fn)
      local ready = unsync.promise()
      local child = s:spawn(fn, ready)
      local source, value = unsync.select({ready, child})
      if source == child then child:await() end
      return value
    end
    unsync.scope(function(s)
      assert.equal("port 80", start(s, function(ready)
        unsync.yield()
        ready:resolve("port 80")
        unsync.yield()
      end))
    end)
    assert.equal("in use", code(unsync.scope, function(s)
      start(s, function()
        unsync.yield()
        error("in use", 0)
      end)
    end))
  end)

  differs("without a nursery nothing can be started", function()
    local ended
    unsync.scope(function() -- a plain call is a child of the innermost scope
      unsync.spawn(function()
        unsync.yield()
        ended = true
      end)
    end)
    assert.is_true(ended)
  end)

  same("the program ends when all tasks have ended", function()
    assert.equal("main\ntask\n", script.output([[
      local unsync = require "unsync"
      unsync.spawn(function() unsync.sleep(0.01) print "task" end)
      print "main"
    ]]))
  end)

  same("cancelled from outside, it waits for its children, and then the cancellation goes on", function()
    local cleaned
    local task = unsync.spawn(unsync.scope, function(s)
      s:spawn(function()
        local _ <close> = closing(function()
          unsync.shield(unsync.sleep, 0.001)
          cleaned = true
        end)
        forever()
      end)
    end)
    unsync.yield()
    task:cancel()
    assert.equal("cancelled", code(task.await, task))
    assert.is_true(cleaned)
  end)

  differs("cancelled from outside, errors of its children are raised in its place", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local task = unsync.spawn(unsync.scope, function(s)
        s:spawn(function()
          pcall(unsync.sleep, 3600)
          error("clean-up failed", 0)
        end)
      end)
      unsync.yield()
      task:cancel()
      local ok, err = pcall(task.await, task)
      print(ok, err.code)
    ]])
    assert.same({"false\tcancelled\n", 1}, {ran.out, ran.code})
    assert.matches("a failure that nobody looked at[^\n]*clean%-up failed", ran.err)
  end)

  same("to cancel an outer nursery cancels what is in the inner ones", function()
    local inner
    pcall(unsync.scope, function(outer)
      outer:spawn(unsync.scope, function(s)
        inner = s:spawn(forever)
        forever()
      end)
      error("out")
    end)
    assert.is_true(inner:cancelled())
  end)

  same("a child sees the context of whoever started it, as it was then", function()
    local var, seen = unsync.var("nobody"), nil
    var:set("parent")
    unsync.scope(function(s)
      s:spawn(function()
        unsync.yield()
        seen = var:get()
        var:set("child")
      end)
      var:set("later")
    end)
    assert.same({"parent", "later"}, {seen, var:get()})
    var:set("nobody")
  end)

  same("the tree of tasks can be seen", function()
    local found = {}
    unsync.scope(function(s)
      local child = s:spawn(unsync.io(forever, {name = "leaf"}))
      for _, task in ipairs(unsync.tasks()) do if task.future == child then found = task end end
      child:cancel()
    end)
    assert.same({"leaf", "waiting"}, {found.name, found.state})
    assert.truthy(found.parent)
  end)
end)

describe("trio's threads:", function()
  same("a call that is cancelled before it begins never runs", function()
    local hold = unsync.promise()
    local one = unsync.thread(function(promise) return promise:await() end, {limit = 1})
    local first, second = one(hold), one(hold)
    assert.is_true(second:cancel())
    assert.equal("queue", failure(second.await, second).stopped_by)
    hold:resolve("first")
    assert.equal("first", first:await())
  end)

  differs("what runs in a thread cannot be stopped: it is waited for, or abandoned on demand", function()
    local running = unsync.promise()
    local call = unsync.thread(function(promise)
      promise:resolve()
      while true do tostring(0.5) end
    end)(running)
    running:await()
    call:cancel()
    assert.equal("hook", failure(call.await, call).stopped_by)
  end)

  differs("code in a thread asks from time to time whether it has been cancelled", function()
    local raised = gate.new()
    local call = unsync.thread(function(promise) -- it is told: by an error where it stands, in Lua
      local here = require("unsync")
      pcall(here.sleep, 3600)
      promise:resolve((select(2, pcall(here.yield))).code)
    end)(raised)
    call:cancel()
    pcall(call.await, call)
    if raised:done() then assert.equal("cancelled", raised:await()) end -- else it never began
  end)
end)

describe("trio's rules", function() trio.told() end)
