--- unsync.testing: a clock that the test moves, an order that depends on a seed.
local unsync = require("unsync")
local testing = require("unsync.testing")
local script = require("spec.support.script")

describe("testing.clock", function()
  it("stands still until it is moved", function()
    local clock <close> = testing.clock()
    local before = unsync.now()
    for _ = 1, 1000 do unsync.yield() end
    assert.equal(before, unsync.now())
    assert.equal(0, clock:now())
    clock:advance(90)
    assert.equal(90, clock:now())
    assert.is_true(math.abs(unsync.now() - before - 90) < 1e-6)
  end)

  it("moves deadline by deadline, and lets what was woken run before the next", function()
    local clock <close> = testing.clock()
    local log = {}
    unsync.scope(function(s)
      s:spawn(function()
        for _ = 1, 3 do
          unsync.sleep(10)
          log[#log + 1] = "slow " .. clock:now()
        end
      end)
      s:spawn(function()
        for n in unsync.every(7) do
          log[#log + 1] = "tick " .. clock:now()
          if n == 4 then break end
        end
      end)
      clock:advance(20)
      assert.same({ "tick 7.0", "slow 10.0", "tick 14.0", "slow 20.0" }, log)
      clock:advance(10)
      assert.same({ "tick 21.0", "tick 28.0", "slow 30.0" }, { table.unpack(log, 5) })
    end)
  end)

  it("comes to all that is due at a moment before whoever moved it goes on", function()
    local clock <close> = testing.clock()
    local log = {}
    local late = unsync.spawn(function()
      unsync.sleep(5)
      unsync.sleep(5)
      log[#log + 1] = "slept"
    end)
    clock:advance(10)
    assert.same({ "slept" }, log)
    late:await()
  end)

  it("serves several who move it, each in its time", function()
    local clock <close> = testing.clock()
    local log = {}
    unsync.scope(function(s)
      for _, seconds in ipairs({ 3, 1, 2 }) do
        s:spawn(function()
          clock:advance(seconds)
          log[#log + 1] = seconds .. " " .. clock:now()
        end)
      end
    end)
    assert.same({ "1 1.0", "2 2.0", "3 3.0" }, log)
  end)

  it("is what timeouts, deadlines of scopes and of calls, select and rates go by", function()
    local clock <close> = testing.clock({ autojump = true })
    local never = unsync.promise()
    testing.fails("timeout", unsync.timeout, 1000, function() never:await() end)
    assert.equal(1000, clock:now())
    testing.fails("timeout", never.await, never, 500)
    assert.equal(1500, clock:now())
    testing.fails("timeout", unsync.scope, { timeout = 250 }, function() never:await() end)
    assert.equal(1750, clock:now())
    local called = unsync.io(function() never:await() end, { timeout = 50 })
    testing.fails("timeout", function() called():await() end)
    assert.equal(1800, clock:now())
    assert.same({ nil, "timeout" }, { unsync.select({ never, timeout = 200 }) })
    assert.equal(2000, clock:now())
    local rate = unsync.rate(1, 3600)
    rate:acquire()
    rate:acquire()
    assert.equal(5600, clock:now())
    local tries = 0
    testing.fails(nil, unsync.retry, function()
      tries = tries + 1
      error("no")
    end, { attempts = 3, backoff = 100 })
    assert.equal(5900, clock:now())
    assert.equal(3, tries)
  end)

  it("does not jump while a thread is at work, nor over what came from it", function()
    local clock <close> = testing.clock({ autojump = true })
    local gate = unsync.promise()
    local work = unsync.thread(function(g) return g:await() end)(gate)
    local log = {}
    local sleeper = unsync.spawn(function()
      unsync.sleep(60)
      log[#log + 1] = "slept"
    end)
    for _ = 1, 100 do unsync.yield() end
    gate:resolve("from the thread")
    assert.equal("from the thread", work:await())
    assert.equal(0, clock:now())
    assert.same({}, log)
    sleeper:await()
    assert.equal(60, clock:now())
  end)

  it("does not jump while a handle of luv is active, which keeps real time", function()
    local uv = require("luv")
    local clock <close> = testing.clock({ autojump = true })
    local called, log = unsync.promise(), {}
    local timer = uv.new_timer()
    timer:start(10, 0, function()
      timer:close()
      called:resolve()
    end)
    local sleeper = unsync.spawn(function()
      unsync.sleep(3600)
      log[#log + 1] = "slept"
    end)
    called:await()
    assert.same({ 0, {} }, { clock:now(), log })
    sleeper:await()
    assert.equal(3600, clock:now())
  end)

  it("ends a thread's call whose time has passed on it, although real time has not", function()
    local clock <close> = testing.clock()
    local never = unsync.promise()
    local stuck = unsync.thread(function(p) return p:await() end, { timeout = 3600 })(never)
    clock:advance(3599)
    assert.is_false(stuck:done())
    clock:advance(1)
    testing.fails("timeout", stuck.await, stuck)
    never:resolve()
  end)

  it("says that nobody is left to move it", function()
    local clock <close> = testing.clock()
    local err = testing.fails("deadlock", unsync.sleep, 1)
    assert.truthy(err.message:find("the test clock stands still", 1, true), err.message)
    assert.equal(0, clock:now())
  end)

  it("runs on when it is closed: what still waits ends in its time", function()
    local clock = testing.clock()
    local before = unsync.now()
    local sleeper = unsync.spawn(function()
      unsync.sleep(10.01)
      return unsync.now()
    end)
    clock:advance(10)
    clock:close()
    clock:close()
    assert.is_true(sleeper:await() >= before + 10.01)
    assert.is_true(unsync.now() >= before + 10)
    testing.clock():close()
    assert.is_true(unsync.now() >= before + 10)
  end)

  it("wakes who moves it when somebody else closes it", function()
    local clock = testing.clock()
    local mover = unsync.spawn(function() clock:advance(1e6) end)
    unsync.spawn(function() unsync.sleep(1) end):cancel()
    clock:close()
    mover:await()
  end)

  it("lets a mover be cancelled", function()
    local clock <close> = testing.clock()
    local mover = unsync.spawn(function() clock:advance(1e6) end)
    mover:cancel()
    testing.fails("cancelled", mover.await, mover)
    assert.equal(0, clock:now())
  end)

  it("leaves processes that a script starts their real time", function()
    local clock <close> = testing.clock({ autojump = true })
    local sleeper = unsync.spawn(unsync.sleep, 3600)
    assert.is_true(os.execute("true"))
    local pipe <close> = io.popen("echo out")
    assert.equal("out", pipe:read("l"))
    assert.equal(0, clock:now())
    sleeper:await()
    assert.equal(3600, clock:now())
  end)

  it("jumps where the workers themselves wait for what is done here when it is time", function()
    local clock <close> = testing.clock({ autojump = true })
    for _, kind in ipairs({ "thread", "cpu" }) do
      local begun = clock:now()
      local await = unsync[kind](function(future) return future:await() end)
      local late = unsync.spawn(function()
        unsync.sleep(100)
        unsync.sleep(200)
        return "late"
      end)
      assert.equal("late", await(late):await())
      assert.equal(300, clock:now() - begun)
    end
  end)

  it("comes to the timeout of a call that waits for ever", function()
    local clock <close> = testing.clock({ autojump = true })
    for _, kind in ipairs({ "thread", "cpu" }) do
      local begun = clock:now()
      local promise = unsync.promise()
      local await = unsync[kind](function(future) return future:await() end, { timeout = 60 })
      local future = await(promise)
      local keeper = unsync.spawn(function()
        unsync.sleep(90)
        promise:resolve()
      end)
      testing.fails("timeout", future.await, future)
      assert.equal(60, clock:now() - begun)
      keeper:await()
    end
  end)

  it("ends with the call of a worker that made it", function()
    local stop = unsync.thread(function() require("unsync.testing").clock() end)
    local sleep = unsync.thread(function() return require("unsync").sleep(0.001) end)
    for _ = 1, 4 do stop():await() end
    for _ = 1, 4 do sleep():await() end
  end)

  it("is one at a time, and refuses what it does not know", function()
    local clock <close> = testing.clock()
    assert.has_error(testing.clock, "there is a test clock already, which has not been closed")
    assert.has_error(function() testing.clock(5) end, "bad argument #1 to 'clock' (table expected, got number)")
    assert.has_error(function() testing.clock({ jump = true }) end,
      "bad argument #1 to 'clock' (unknown option 'jump')")
    assert.has_error(function() clock:advance(-1) end, "bad argument #1 to 'advance' (seconds must be 0 or more)")
    assert.has_error(function() clock:advance(0 / 0) end, "bad argument #1 to 'advance' (seconds must be 0 or more)")
    assert.has_error(function() clock:advance("x") end, "bad argument #1 to 'advance' (number expected, got string)")
    clock:close()
    assert.has_error(function() clock:advance(1) end, "this test clock has been closed")
    assert.has_error(function() clock:now() end, "this test clock has been closed")
  end)

  it("costs no real time, however much passes", function()
    local clock <close> = testing.clock({ autojump = true })
    unsync.scope(function(s)
      for n = 1, 1000 do s:spawn(unsync.sleep, n * 3600) end
    end)
    assert.equal(3600000, clock:now())
  end)
end)

describe("testing.shuffle", function()
  local function order(seed, count)
    local shuffled <close> = testing.shuffle(seed)
    local _ = shuffled
    local log = {}
    unsync.scope(function(s)
      for n = 1, count or 6 do
        s:spawn(function()
          unsync.sleep(0)
          log[#log + 1] = n
        end)
      end
    end)
    return table.concat(log, " ")
  end

  it("orders ready tasks by the seed: the same one, the same order", function()
    local seen, count = {}, 0
    for seed = 0, 49 do
      local once = order(seed)
      assert.equal(once, order(seed))
      if not seen[once] then count = count + 1 end
      seen[once] = true
    end
    assert.is_true(count > 40, count .. " different orders")
  end)

  it("ends with its block", function()
    order(1)
    assert.equal("1 2 3 4 5 6", order(nil))
  end)

  it("loses and doubles none of very many", function()
    local list = {}
    for n in order(7, 5000):gmatch("%d+") do list[#list + 1] = tonumber(n) end
    table.sort(list)
    for n = 1, 5000 do assert.equal(n, list[n]) end
    assert.equal(5000, #list)
  end)

  it("lets whoever yields run behind all that were ready before", function()
    for seed = 1, 30 do
      local shuffled <close> = testing.shuffle(seed)
      local _ = shuffled
      local ran = 0
      local others = {}
      for n = 1, 5 do
        others[n] = unsync.spawn(function()
          unsync.sleep(0)
          ran = ran + 1
        end)
      end
      unsync.sleep(0)
      for n = 6, 10 do
        others[n] = unsync.spawn(function()
          unsync.yield()
          ran = ran + 1
        end)
      end
      unsync.yield()
      assert.equal(10, ran)
      unsync.settled(others):await()
    end
  end)

  it("refuses what is no seed", function()
    assert.has_error(function() testing.shuffle(1.5) end, "bad argument #1 to 'shuffle' (integer expected, got number)")
    assert.has_error(function() testing.shuffle("1") end, "bad argument #1 to 'shuffle' (integer expected, got string)")
  end)
end)

describe("testing.inline", function()
  local base = 10

  it("runs calls of thread and cpu functions on the caller's loop, and by its clock", function()
    local clock <close> = testing.clock({ autojump = true })
    local inline <close> = testing.inline()
    local _ = inline
    for _, declare in ipairs({ unsync.thread, unsync.cpu }) do
      local before = clock:now()
      local fn = declare(function(n)
        local here = require("unsync")
        here.sleep(3600)
        return base + n, nil, here.tasks()[1].name
      end)
      local call = fn(1)
      assert.same(table.pack(11, nil, "main"), table.pack(call:await()))
      assert.equal(before + 3600, clock:now())
    end
  end)

  it("goes by the seed as well", function()
    local function order(seed)
      local inline <close> = testing.inline({ thread = true })
      local shuffled <close> = testing.shuffle(seed)
      local _, _ = inline, shuffled
      local log = unsync.channel(10)
      local fn = unsync.thread(function(n)
        require("unsync").yield()
        require("unsync").sleep(0)
        return n
      end)
      local calls = {}
      for n = 1, 5 do calls[n] = fn(n) end
      for call in unsync.as_completed(calls) do log:send(call:await()) end
      log:close()
      local list = {}
      for n in log do list[#list + 1] = n end
      return table.concat(list, " ")
    end
    assert.equal(order(3), order(3))
    local different = {}
    for seed = 1, 20 do different[order(seed)] = true end
    local count = 0
    for _ in pairs(different) do count = count + 1 end
    assert.is_true(count > 5, count .. " orders")
  end)

  it("copies as strictly as on the way to a worker: arguments, upvalues, results, errors", function()
    local inline <close> = testing.inline()
    local _ = inline
    local shared, kept = { n = 1 }, nil
    local fn = unsync.thread(function(t, keep)
      t.n, shared.n = 5, 7
      kept = keep
      return t, shared
    end)
    local given = { n = 2 }
    local first, second = fn(given, true):await()
    assert.same({ { n = 5 }, { n = 7 } }, { first, second })
    assert.same({ { n = 2 }, { n = 1 } }, { given, shared })
    assert.is_nil(kept)
    local file <close> = io.open("/dev/null")
    local err = testing.fails("unsendable", fn, { file = file })
    assert.equal("argument 1.file", err.path)
    err = testing.fails("unsendable", unsync.cpu(function() return { print, io.open("/dev/null") } end))
    assert.equal("result 1[2]", err.path)
    local fault = setmetatable({ code = "mine" }, nil)
    err = testing.fails("mine", unsync.thread(function() error(fault) end))
    assert.are_not.equal(fault, err)
    err = testing.fails(nil, unsync.thread(function() error("plain") end))
    assert.truthy(err:find("plain", 1, true))
  end)

  it("keeps limits, timeouts and cancellation", function()
    local clock <close> = testing.clock({ autojump = true })
    local inline <close> = testing.inline({ cpu = true })
    local _ = inline
    local slow = unsync.cpu(function() require("unsync").sleep(100) end, { timeout = 10 })
    testing.fails("timeout", slow)
    assert.equal(10, clock:now())
    local one = unsync.cpu(function() require("unsync").sleep(100) end, { limit = 1 })
    local calls = { one(), one(), one() }
    unsync.all(calls):await()
    assert.equal(310, clock:now())
    local call = one()
    call:cancel()
    testing.fails("cancelled", call.await, call)
  end)

  it("leaves the other kind, native tasks, and all after its block where they are", function()
    local place = function() return require("unsync").tasks()[1].name end
    do
      local inline <close> = testing.inline({ cpu = true })
      local _ = inline
      assert.equal("main", (unsync.cpu(place, { name = "here" })():await()))
      assert.equal("there", (unsync.thread(place, { name = "there" })():await()))
    end
    assert.equal("there", (unsync.cpu(place, { name = "there" })():await()))
    assert.has_error(function() testing.inline({ io = true }) end,
      "bad argument #1 to 'inline' (unknown option 'io')")
    assert.has_error(function() testing.inline({ cpu = 1 }) end, "bad argument #1 to 'inline' (bad option 'cpu': 1)")
  end)
end)

describe("testing.gate", function()
  it("holds whoever comes until it is opened, in any state", function()
    local gate = testing.gate()
    local there = unsync.thread(function(g) return g:wait() end)(gate)
    gate:reached()
    assert.is_false(there:done())
    assert.is_false(gate:is_open())
    assert.is_true(gate:open("come", nil, "in"))
    assert.is_false(gate:open("again"))
    assert.same(table.pack("come", nil, "in"), table.pack(there:await()))
    assert.same(table.pack("come", nil, "in"), table.pack(gate:wait()))
    assert.is_true(gate:is_open())
  end)
end)

describe("testing.sequencer", function()
  it("puts the steps of several tasks in one order, whatever the seed", function()
    for seed = 1, 10 do
      local shuffled <close> = testing.shuffle(seed)
      local _ = shuffled
      local seq, log = testing.sequencer(), {}
      unsync.scope(function(s)
        s:spawn(function()
          seq(0, function() log[#log + 1] = "a" end)
          seq(3)
          log[#log + 1] = "d"
        end)
        s:spawn(function()
          seq(2)
          log[#log + 1] = "c"
        end)
        s:spawn(function()
          local value = seq(1, function(x)
            unsync.sleep(0)
            log[#log + 1] = x
            return "value"
          end, "b")
          assert.equal("value", value)
        end)
      end)
      assert.equal("a b", table.concat(log, " ", 1, 2))
      table.sort(log)
      assert.equal("a b c d", table.concat(log, " "))
    end
  end)

  it("counts a step that fails as done, and gives back one that was cancelled", function()
    local seq = testing.sequencer()
    testing.fails(nil, seq, 0, error, "no")
    seq(1)
    local waiting = unsync.spawn(function() seq(3) end)
    waiting:cancel()
    testing.fails("cancelled", waiting.await, waiting)
    seq(2)
    seq(3)
  end)

  it("lets each step be taken once", function()
    local seq = testing.sequencer()
    seq(0)
    assert.has_error(function() seq(0) end, "step 0 has been taken already")
    assert.has_error(function() seq(-1) end, "bad argument #1 to a sequencer (a step from 0 expected, got -1)")
    testing.fails("deadlock", seq, 2)
  end)
end)

describe("testing.fails", function()
  it("returns the error, of a call or of the future it returns", function()
    local err = testing.fails("timeout", unsync.timeout, 0, function() unsync.promise():await() end)
    assert.equal("timeout", err.code)
    assert.equal("mine", testing.fails("mine", unsync.io(function() error({ code = "mine" }) end)).code)
    assert.equal("text", testing.fails(nil, error, "text", 0))
  end)

  it("fails where nothing does, or something else", function()
    local function message(...) return select(2, pcall(testing.fails, ...)) end
    assert.truthy(message("closed", function() end):find("an error 'closed' expected, but there was none", 1, true))
    assert.truthy(message(nil, function() end):find("an error expected, but there was none", 1, true))
    assert.truthy(message("closed", error, "text", 0):find("an error 'closed' expected, but it was: text", 1, true))
    assert.has_error(function() testing.fails(1) end, "bad argument #1 to 'fails' (string expected, got number)")
    assert.has_error(function() testing.fails("x", 1) end, "bad argument #2 to 'fails' (function expected, got number)")
  end)
end)

describe("the test clock and the end of a script", function()
  it("leaves nothing behind: one that was never closed, sleepers and all #memcheck", function()
    script.output([[
      local unsync = require("unsync")
      local clock = require("unsync.testing").clock()
      unsync.spawn(function() clock:advance(5) clock:close() end)
      unsync.spawn(unsync.sleep, 10):cancel()
      unsync.var(1)
    ]])
    local ran = script.run([[
      local unsync = require("unsync")
      clock = require("unsync.testing").clock()
      local rate = unsync.rate(1, 5)
      rate:acquire()
      unsync.spawn(function() rate:acquire() end)
      unsync.spawn(unsync.sleep, 10)
    ]])
    assert.equal(1, ran.code)
    assert.truthy(ran.err:find("deadlock", 1, true), ran.err)
  end)
end)
