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
