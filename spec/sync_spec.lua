-- semaphore, mutex, event, barrier, rate, every: who waits is served in turn, and no permit is ever lost.
local unsync = require("unsync")

local function settle()
  for _ = 1, 5 do unsync.yield() end
end

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return err
end

describe("a semaphore", function()
  it("lets that many through, and serves the others in turn", function()
    settle() -- a turn of its own: nobody has to let others go first
    local sem, log, running, most = unsync.semaphore(2), {}, 0, 0
    local tasks = {}
    for i = 1, 6 do
      tasks[i] = unsync.spawn(function()
        local _ <close> = sem:acquire()
        log[#log + 1], running = i, running + 1
        most = math.max(most, running)
        unsync.yield()
        running = running - 1
      end)
    end
    unsync.all(tasks):await()
    assert.same({1, 2, 3, 4, 5, 6}, log)
    assert.equal(2, most)
  end)

  it("has try_acquire, which never waits", function()
    local sem = unsync.semaphore(1)
    assert.is_true(sem:try_acquire())
    assert.is_false(sem:try_acquire())
    sem:release()
    assert.is_true(sem:try_acquire())
  end)

  it("lets go at the end of a block that fails", function()
    local sem = unsync.semaphore(1)
    failure(function()
      local _ <close> = sem:acquire()
      error("no")
    end)
    assert.is_true(sem:try_acquire())
  end)

  it("loses no permit to a waiter that is cancelled, before or in the moment it gets one", function()
    local sem = unsync.semaphore(1)
    sem:acquire()
    local before = unsync.spawn(sem.acquire, sem)
    local at_once = unsync.spawn(function()
      local _ <close> = sem:acquire()
      unsync.yield()
    end)
    local after = unsync.spawn(sem.acquire, sem)
    before:cancel()
    sem:release()
    at_once:cancel()
    assert.equal("cancelled", failure(before.await, before).code)
    assert.equal("cancelled", failure(at_once.await, at_once).code)
    after:await()
    assert.is_false(sem:try_acquire())
    sem:release()
    assert.is_true(sem:try_acquire())
  end)

  it("conserves its permits, in 5,000 rounds of cancels and timeouts", function()
    local sem, inside, tasks = unsync.semaphore(3), 0, {}
    for round = 1, 5000 do
      local task = unsync.spawn(function()
        local function body()
          local _ <close> = sem:acquire()
          inside = inside + 1
          assert(inside <= 3)
          local _ <close> = setmetatable({}, {__close = function() inside = inside - 1 end})
          unsync.yield()
        end
        if round % 7 == 0 then pcall(unsync.timeout, 0, body) else body() end
      end)
      tasks[round] = task
      if round % 3 == 0 then task:cancel() end
      if round % 5 == 0 then unsync.yield() end
      if round % 11 == 0 then task:cancel() end
    end
    unsync.settled(tasks):await()
    assert.equal(0, inside)
    for _ = 1, 3 do assert.is_true(sem:try_acquire()) end
    assert.is_false(sem:try_acquire())
  end)

  it("refuses to be released too often, and senseless counts", function()
    local sem = unsync.semaphore(1)
    assert.matches("more often than it was acquired", failure(sem.release, sem))
    for _, count in ipairs({0, -1, 1.5, 0 / 0, math.huge, "x", {}}) do
      assert.matches("bad argument #1", tostring(failure(unsync.semaphore, count)))
    end
    assert.matches("bad argument #1", failure(unsync.semaphore))
  end)

  it("is a deadlock for the one who waits for a permit that nobody will give back", function()
    local sem = unsync.semaphore(1)
    sem:acquire()
    local err = failure(sem.acquire, sem)
    assert.equal("deadlock", err.code)
    assert.matches("a permit", err.message)
  end)
end)

describe("a mutex", function()
  it("has one owner at a time, in the order they came", function()
    local mutex, log = unsync.mutex(), {}
    local tasks = {}
    for i = 1, 4 do
      tasks[i] = unsync.spawn(function()
        local _ <close> = mutex:lock()
        log[#log + 1] = i
        unsync.yield()
        log[#log + 1] = -i
      end)
    end
    unsync.all(tasks):await()
    assert.same({1, -1, 2, -2, 3, -3, 4, -4}, log)
  end)

  it("cannot be taken by somebody who comes later", function()
    local mutex = unsync.mutex()
    mutex:lock()
    local waiting = unsync.spawn(function()
      mutex:lock()
      mutex:unlock()
    end)
    mutex:unlock()
    assert.is_false(mutex:try_lock())
    waiting:await()
    assert.is_true(mutex:try_lock())
    mutex:unlock()
  end)

  it("is left alone by a waiter that is cancelled", function()
    local mutex = unsync.mutex()
    mutex:lock()
    local first, second = unsync.spawn(mutex.lock, mutex), unsync.spawn(function()
      mutex:lock()
      mutex:unlock()
      return "second"
    end)
    first:cancel()
    mutex:unlock()
    assert.equal("second", second:await())
    assert.equal("cancelled", failure(first.await, first).code)
  end)

  it("refuses misuse", function()
    local mutex = unsync.mutex()
    assert.matches("not locked", failure(mutex.unlock, mutex))
    mutex:lock()
    assert.equal("deadlock", failure(mutex.lock, mutex).code)
    local thief = unsync.spawn(mutex.unlock, mutex)
    assert.matches("locked by another task", failure(thief.await, thief))
    mutex:unlock()
    assert.matches("unsync.Mutex expected", failure(mutex.lock, unsync.semaphore(1)))
  end)

  it("left locked by a task that ends fails that task, and all who want it", function()
    local mutex, line = unsync.mutex(), nil
    local careless = unsync.io(function()
      line = debug.getinfo(1, "l").currentline + 1
      mutex:lock()
      unsync.yield()
      return "done"
    end, {name = "careless"})()
    local waiting = unsync.spawn(mutex.lock, mutex)
    local err = failure(careless.await, careless)
    assert.equal("abandoned", err.code)
    local place = "%(at spec/sync_spec%.lua:" .. line .. "%)"
    assert.matches("careless ended with a mutex locked " .. place, err.message)
    err = failure(waiting.await, waiting)
    assert.equal("abandoned", err.code)
    assert.matches("careless ended with this mutex locked " .. place, err.message)
    assert.equal("abandoned", failure(mutex.lock, mutex).code)
    assert.equal("abandoned", failure(mutex.try_lock, mutex).code)
  end)

  it("left locked by a task that fails keeps that task's error", function()
    local mutex = unsync.mutex()
    local failing = unsync.spawn(function()
      mutex:lock()
      error("its own", 0)
    end)
    assert.equal("its own", failure(failing.await, failing))
    assert.equal("abandoned", failure(mutex.lock, mutex).code)
  end)

  it("is part of what deadlock finds: a cycle, told to the youngest", function()
    local a, b = unsync.mutex(), unsync.mutex()
    local function both(name, one, other)
      return unsync.io(function()
        local _ <close> = one:lock()
        unsync.yield()
        local _ <close> = other:lock()
        return name
      end, {name = name})()
    end
    local first, second = both("first", a, b), both("second", b, a)
    assert.equal("first", first:await())
    local err = failure(second.await, second)
    assert.equal("deadlock", err.code)
    assert.matches("io second at %S+ waits for a mutex that io first at %S+ holds\n" ..
      "\tio first at %S+ waits for a mutex that io second at %S+ holds: a cycle$", err.message)
  end)
end)

describe("an event", function()
  it("wakes all who wait, and lets through who comes later", function()
    local event, woken = unsync.event(), 0
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = unsync.spawn(function()
        event:wait()
        woken = woken + 1
      end)
    end
    settle()
    assert.same({0, false}, {woken, event:is_set()})
    event:set()
    event:set()
    unsync.all(tasks):await()
    assert.same({3, true}, {woken, event:is_set()})
    event:wait()
    event:clear()
    assert.is_false(event:is_set())
    assert.equal("timeout", failure(unsync.timeout, 0.002, event.wait, event).code)
  end)
end)

describe("a barrier", function()
  it("lets all go on when the last has come, again and again", function()
    local barrier, log = unsync.barrier(3), {}
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = unsync.spawn(function()
        for round = 1, 3 do
          for _ = 1, i do unsync.yield() end
          log[#log + 1] = round
          barrier:wait()
        end
      end)
    end
    unsync.all(tasks):await()
    assert.same({1, 1, 1, 2, 2, 2, 3, 3, 3}, log)
  end)

  it("forgets a waiter that is cancelled; the others go on waiting", function()
    local barrier = unsync.barrier(2)
    local first = unsync.spawn(barrier.wait, barrier)
    settle()
    first:cancel()
    settle()
    local second = unsync.spawn(barrier.wait, barrier)
    settle()
    assert.is_false(second:done())
    barrier:wait()
    second:await()
    unsync.barrier(1):wait()
    for _, count in ipairs({0, -1, 0 / 0, "x"}) do assert.matches("bad argument", failure(unsync.barrier, count)) end
  end)
end)

describe("a rate", function()
  it("grants so many in any window, in turn", function()
    local rate, times = unsync.rate(3, 0.02), {}
    local tasks = {}
    for i = 1, 10 do
      tasks[i] = unsync.spawn(function()
        rate:acquire()
        times[#times + 1] = {i, unsync.now()}
      end)
    end
    assert.equal(3, #times)
    unsync.all(tasks):await()
    for i = 1, 10 do assert.equal(i, times[i][1]) end
    for i = 4, 10 do assert.is_true(times[i][2] - times[i - 3][2] >= 0.0195, i) end
  end)

  it("gives a cancelled waiter's turn to the next, and keeps nothing alive", function()
    local rate = unsync.rate(1, 0.01)
    rate:acquire()
    local first, second = unsync.spawn(rate.acquire, rate), unsync.spawn(rate.acquire, rate)
    first:cancel()
    local start = unsync.now()
    second:await()
    assert.is_true(unsync.now() - start < 1)
    local hopeless = unsync.rate(1, 1000)
    hopeless:acquire()
    assert.equal("timeout", failure(unsync.timeout, 0.002, hopeless.acquire, hopeless).code)
    assert.equal("deadlock", failure(unsync.promise().await, unsync.promise()).code)
  end)

  it("refuses senseless numbers", function()
    for _, arguments in ipairs({{0, 1}, {-1, 1}, {1e9, 1}, {1, 0}, {1, -1}, {1, 0 / 0}, {1, "x"}, {1}, {}}) do
      assert.matches("bad argument", failure(unsync.rate, table.unpack(arguments)))
    end
    unsync.rate(1, math.huge):acquire()
  end)
end)

describe("unsync.every", function()
  it("ticks on time, however long the body takes", function()
    local start, ticks = unsync.now(), {}
    for n in unsync.every(0.01) do
      ticks[#ticks + 1] = n
      assert.is_true(unsync.now() - start >= n * 0.01 - 1e-6)
      if #ticks == 2 then unsync.sleep(0.025) end
      if #ticks == 4 then break end
    end
    assert.is_true(ticks[1] < ticks[2] and ticks[2] + 2 < ticks[3] and ticks[3] < ticks[4]) -- later on a busy machine
  end)

  it("refuses senseless numbers", function()
    for _, seconds in ipairs({0, -1, 0 / 0, math.huge, "x", {}}) do
      assert.matches("bad argument #1 to 'every'", failure(unsync.every, seconds))
    end
    assert.matches("bad argument", failure(unsync.every))
  end)
end)
