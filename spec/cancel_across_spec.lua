-- Cancelling the work behind a future in a state that did not make it: the wish goes to where the work is done.
local unsync = require("unsync")
local script = require("spec.support.script")

local function forever() unsync.sleep(1e6) end

--- Runs `check(kind, on)` for both kinds of workers.
local function in_workers(check)
  for _, kind in ipairs({"thread", "cpu"}) do check(kind, unsync[kind]) end
end

--- How the future ended: its error's code, reason and `stopped_by`.
local function ended(future)
  pcall(future.await, future)
  local err = future:error()
  return {err.code, err.reason, err.stopped_by}
end

--- A call of `on` in which a task runs that waits for ever; and the future of that task.
local function task_elsewhere(on, body)
  local promise = unsync.promise()
  local call = on(function(handed, run)
    local inner = require("unsync")
    local task = inner.spawn(run or function() inner.sleep(1e6) end)
    handed:resolve(task)
    return select(2, pcall(task.await, task))
  end)(promise, body)
  return promise:await(), call
end

describe("cancelling in a worker", function()
  it("stops a task of the script's, with the reason", function()
    in_workers(function(kind, on)
      local task = unsync.spawn(forever)
      local stop = on(function(future, why) return future:cancel(why) end)
      assert.is_true(stop(task, "enough"):await())
      assert.same({"cancelled", "enough", "await"}, ended(task), kind)
      assert.is_false(stop(task, "again"):await(), kind)
    end)
  end)

  it("passes reasons of all kinds on, and leaves behind what cannot cross", function()
    in_workers(function(kind, on)
      local task = unsync.spawn(forever)
      on(function(future) future:cancel({deep = {1, 2}, future = future}) end)(task):await()
      pcall(task.await, task)
      local reason = task:error().reason
      assert.same({{1, 2}, true}, {reason.deep, rawequal(reason.future, task)}, kind)
      local other = unsync.spawn(forever)
      assert.is_true(on(function(future) return future:cancel(coroutine.create(print)) end)(other):await())
      assert.same({"cancelled", nil, "await"}, ended(other), kind)
    end)
  end)

  it("stops calls of the script's, on whatever executor", function()
    in_workers(function(kind, on)
      local stop = on(function(future) return future:cancel("now") end)
      for _, other in ipairs({unsync.thread, unsync.cpu}) do
        local running = unsync.promise()
        local call = other(function(promise)
          promise:resolve()
          while true do tostring(0.5) end
        end)(running)
        running:await()
        assert.is_true(stop(call):await(), kind)
        assert.same({"cancelled", "now", "hook"}, ended(call), kind)
      end
    end)
  end)

  it("stops what a combinator of the script's stands for", function()
    in_workers(function(kind, on)
      local first, second = unsync.spawn(forever), unsync.spawn(forever)
      local both = unsync.all({first, second})
      assert.is_true(on(function(future) return future:cancel() end)(both):await())
      assert.equal("cancelled", ended(both)[1], kind)
      assert.same({"cancelled", "cancelled"}, {ended(first)[1], ended(second)[1]}, kind)
    end)
  end)

  it("is what a race there does with a loser from elsewhere", function()
    in_workers(function(kind, on)
      local loser = unsync.spawn(forever)
      local race = on(function(future)
        local inner = require("unsync")
        return inner.race({future, inner.resolved("first")}):await()
      end)
      assert.equal("first", race(loser):await(), kind)
      assert.equal("cancelled", ended(loser)[1], kind)
    end)
  end)

  it("is what the end of a block there does with a future from elsewhere that was local to it", function()
    in_workers(function(kind, on)
      local task = unsync.spawn(function()
        local ok, err = pcall(forever)
        return ok, err.code
      end)
      on(function(future)
        do local _ <close> = future end
        assert(future:done())
      end)(task):await()
      assert.same({false, "cancelled"}, {task:await()}, kind)
    end)
  end)

  it("has arrived before the call that did it has ended", function()
    in_workers(function(kind, on)
      local stop = on(function(future) return future:cancel() end)
      for _ = 1, 50 do
        local task = unsync.spawn(forever)
        stop(task):await()
        local turns = 0
        while not task:done() and turns < 100 do -- it need not be heard of in the same turn of the loop
          unsync.yield()
          turns = turns + 1
        end
        assert.equal("cancelled", task:status(), kind)
      end
    end)
  end)
end)

describe("a worker's call that is cancelled", function()
  --- A function that awaits a future, or what is made of it; its promise is settled when it does.
  local function awaiting(on)
    return on(function(future, promise, made_of)
      local inner = require("unsync")
      inner.spawn(function() inner.yield() promise:resolve() end)
      if made_of then future = made_of(future) end
      future:await()
    end)
  end

  it("takes what it alone awaits from elsewhere with it", function()
    in_workers(function(kind, on)
      local task, started = unsync.spawn(forever), unsync.promise()
      local call = awaiting(on)(task, started)
      started:await()
      call:cancel()
      pcall(call.await, call) -- the task itself is awaited by nobody
      assert.same({"cancelled", nil, "await"}, ended(task), kind)
    end)
  end)

  it("takes it with it where its block is out of time", function()
    in_workers(function(kind, on)
      local task = unsync.spawn(forever)
      local call = on(function(future)
        local inner = require("unsync")
        return select(2, pcall(inner.timeout, 0.001, future.await, future)).code
      end)(task)
      assert.equal("timeout", call:await(), kind)
      assert.equal("cancelled", ended(task)[1], kind)
    end)
  end)

  it("takes it with it through a combinator", function()
    in_workers(function(kind, on)
      local task, started = unsync.spawn(forever), unsync.promise()
      local call = awaiting(on)(task, started, function(future) return require("unsync").all({future, future}) end)
      started:await()
      call:cancel()
      pcall(call.await, call) -- the task itself is awaited by nobody
      assert.equal("cancelled", ended(task)[1], kind)
    end)
  end)

  it("leaves what somebody else awaits there, or a third has", function()
    in_workers(function(kind, on)
      local gate = unsync.event()
      local task = unsync.spawn(function() gate:wait() return "whole" end)
      local started, others = unsync.promise(), unsync.promise()
      local waits = unsync.spawn(function() return task:await() end)
      local call = awaiting(on)(task, started)
      started:await()
      call:cancel()
      pcall(call.await, call)
      waits:cancel() -- the last who waits here: a third has it now
      local third = awaiting(on)(task, others)
      others:await()
      pcall(waits.await, waits)
      gate:set()
      assert.equal("whole", task:await(), kind)
      third:await()
    end)
  end)

  it("leaves a promise", function()
    in_workers(function(kind, on)
      local promise, started = unsync.promise(), unsync.promise()
      local call = awaiting(on)(promise, started)
      started:await()
      call:cancel()
      pcall(call.await, call)
      assert.is_true(promise:resolve("kept"), kind)
    end)
  end)
end)

describe("cancelling a task of a worker's", function()
  it("in the script stops it, with the reason", function()
    in_workers(function(kind, on)
      local task, call = task_elsewhere(on)
      assert.is_true(task:cancel("from afar"))
      assert.same({"cancelled", "from afar", "await"}, ended(task), kind)
      assert.equal("from afar", call:await().reason, kind)
      assert.is_false(task:cancel(), kind)
    end)
  end)

  it("is a request, as it is at home", function()
    in_workers(function(kind, on)
      local task, call = task_elsewhere(on, function()
        local inner = require("unsync")
        local _, err = pcall(inner.sleep, 1e6)
        return "a value all the same", err.code
      end)
      task:cancel()
      assert.same({"a value all the same", "cancelled"}, {task:await()}, kind)
      assert.equal("a value all the same", call:await() and task:await(), kind)
    end)
  end)

  it("in another worker stops it", function()
    in_workers(function(kind, on)
      in_workers(function(_, other)
        local task, call = task_elsewhere(on)
        assert.is_true(other(function(future) return future:cancel("sideways") end)(task):await(), kind)
        assert.same({"cancelled", "sideways", "await"}, ended(task), kind)
        assert.equal("sideways", call:await().reason)
      end)
    end)
  end)
end)

describe("cancelling from several states at once", function()
  it("ends each task once, whoever is first, and whether it ends by itself in the same moment", function()
    in_workers(function(kind, on)
      local stop = on(function(futures)
        local first = 0
        for i, future in ipairs(futures) do
          if future:cancel(i) then first = first + 1 end
        end
        return first
      end)
      for round = 1, 10 do
        local tasks, gates, told = {}, {}, 0
        for i = 1, 20 do
          gates[i] = unsync.event()
          tasks[i] = unsync.spawn(function() gates[i]:wait() return i end)
          tasks[i]:finally(function() told = told + 1 end):catch(function() end)
        end
        local calls = {stop(tasks), stop(tasks)}
        for i = round, 20, 2 do
          gates[i]:set()
          unsync.yield()
        end
        for _, call in ipairs(calls) do call:await() end
        for i, task in ipairs(unsync.settled(tasks):await()) do
          if task:status() == "done" then assert.equal(i, task:await())
          else assert.same({"cancelled", i}, {task:status(), task:error().reason}, kind) end
        end
        unsync.yield()
        assert.equal(20, told, kind)
      end
    end)
  end)

  it("keeps nothing of a state that is gone", function()
    local fresh = unsync.thread(function(promise)
      local inner = require("unsync")
      local task = inner.spawn(function() inner.yield() return 1 end)
      promise:resolve(task)
      task:await()
    end, {fresh = true})
    local kept = {}
    local function round()
      local promise = unsync.promise()
      fresh(promise):await()
      kept[#kept + 1] = promise:await()
      assert.equal(1, kept[#kept]:await())
    end
    round()
    local before = script.descriptors()
    for _ = 1, 40 do round() end
    assert.is_true(script.descriptors() < before + 20) -- others' threads come and go
  end)
end)
