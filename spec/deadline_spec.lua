-- What ends by itself at a point in time: timeouts of calls, blocks, scopes and waits. Times here are limits for what
-- would never end, or so short that they are over at once: nothing depends on how fast the machine is.
local script = require("spec.support.script")
local unsync = require("unsync")

unsync.plugin(script.build .. "/spec/plugins/echo.so")

local NEVER = 3600

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return err
end

local function spin_or_sleep(kind)
  if kind == "io" then return function() unsync.sleep(NEVER) end end
  return function() while true do tostring(0.5) end end
end

for _, kind in ipairs({"io", "thread", "cpu"}) do
  describe("opts of unsync." .. kind, function()
    it("timeout: fails the call with `timeout` when it is over, and stops the work", function()
      local call = unsync[kind](spin_or_sleep(kind), {name = "slow", timeout = 0.01})()
      local err = failure(call.await, call)
      assert.equal("timeout", err.code)
      assert.equal("timeout: slow did not end in time", tostring(err))
      assert.equal("failed", call:status())
      assert.is_false(call:cancelled())
    end)

    it("timeout: counts the time in line", function()
      local hold = unsync.promise()
      local one = unsync[kind](function(p) return p:await() end, {limit = 1, timeout = 0.02})
      local first = one(hold)
      local second = one(hold)
      assert.equal("timeout", failure(second.await, second).code)
      assert.equal("timeout", failure(first.await, first).code)
      hold:resolve()
    end)

    it("run_timeout: counts from the start, not in line", function()
      local hold = unsync.promise()
      local limited = unsync[kind](function(p, wait)
        if wait then p:await() end
        return "in time"
      end, {limit = 1, run_timeout = 30 * script.slowness})
      local first, second = limited(hold, true), limited(hold, false)
      assert.is_false(second:done())
      hold:resolve()
      first:await()
      assert.equal("in time", second:await())
      local slow = unsync[kind](spin_or_sleep(kind), {run_timeout = 0.01})()
      assert.equal("timeout", failure(slow.await, slow).code)
    end)

    it("timeout: lets clean-up wait in a shield, and settles after it", function()
      local cleaned = unsync.promise()
      local call = unsync[kind](function(told)
        local _ <close> = setmetatable({}, {__close = function(_, err)
          require("unsync").shield(function()
            require("unsync").sleep(0.001)
            told:resolve(err.code, err.reason)
          end)
        end})
        require("unsync").sleep(3600)
      end, {timeout = 0.01, grace = 10 * script.slowness})(cleaned)
      assert.equal("timeout", failure(call.await, call).code)
      assert.is_true(cleaned:done())
      assert.equal("cancelled", (cleaned:await()))
    end)

    it("timeout: of a call that ends in time changes nothing", function()
      local quick = unsync[kind](function(a) return a end, {timeout = NEVER, run_timeout = NEVER})
      for i = 1, 10 do assert.equal(i, quick(i):await()) end
    end)
  end)

  it("f:await(timeout) leaves the work alone: " .. kind, function()
    local hold = unsync.promise()
    local call = unsync[kind](function(p) return p:await() end)(hold)
    for _ = 1, 3 do assert.equal("timeout", failure(call.await, call, 0.001).code) end
    assert.equal("timeout", failure(call.result, call, 0).code)
    assert.is_false(call:done())
    hold:resolve("all the same")
    assert.equal("all the same", call:await(NEVER))
  end)

  it("unsync.timeout stops what is waited for: " .. kind, function()
    local call
    local err = failure(unsync.timeout, 0.02, function()
      call = unsync[kind](spin_or_sleep(kind))()
      return call:await()
    end)
    assert.equal("timeout", err.code)
    assert.equal("cancelled", failure(call.await, call).code)
    assert.equal("cancelled", call:status())
  end)
end

describe("unsync.timeout", function()
  it("returns what the function returns", function()
    assert.same({1, nil, 3, n = 3}, table.pack(unsync.timeout(NEVER, function(...) return ... end, 1, nil, 3)))
  end)

  it("raises what the function raises, unchanged", function()
    local mine = {"mine"}
    assert.equal(mine, failure(unsync.timeout, NEVER, error, mine))
  end)

  it("with no time left lets the function run until it waits", function()
    local began = false
    local err = failure(unsync.timeout, 0, function()
      began = true
      unsync.sleep(NEVER)
    end)
    assert.is_true(began)
    assert.equal("timeout", err.code)
    assert.equal("done", unsync.timeout(0, function() return "done" end)) -- nothing was late
  end)

  it("raises `cancelled` with the reason timeout inside, at every wait", function()
    local reasons = {}
    local err = failure(unsync.timeout, 0.001, function()
      for i = 1, 3 do
        local inner = failure(unsync.sleep, NEVER)
        reasons[i] = inner.code .. " " .. tostring(inner.reason)
      end
      unsync.yield()
    end)
    assert.same({"cancelled timeout", "cancelled timeout", "cancelled timeout"}, reasons)
    assert.equal("timeout", err.code)
  end)

  it("is over with its block: later waits are as ever", function()
    failure(unsync.timeout, 0.001, unsync.sleep, NEVER)
    unsync.sleep(0.002)
    unsync.yield()
  end)

  it("nests: the earliest wins, and its owner alone says so", function()
    local inner_error
    local outer = failure(unsync.timeout, 0.005, function()
      inner_error = failure(unsync.timeout, NEVER, unsync.sleep, NEVER)
      error(inner_error, 0)
    end)
    assert.equal("cancelled", inner_error.code) -- not the inner one's deadline
    assert.equal("timeout", outer.code)

    local result = unsync.timeout(NEVER, function()
      return failure(unsync.timeout, 0.001, unsync.sleep, NEVER).code
    end)
    assert.equal("timeout", result)
  end)

  it("is no cancellation of the task around it", function()
    local task = unsync.spawn(function()
      pcall(unsync.timeout, 0.001, unsync.sleep, NEVER)
      unsync.yield()
      return "goes on"
    end)
    assert.equal("goes on", task:await())
  end)

  it("and a cancellation from outside: the cancellation passes through", function()
    local seen
    local task = unsync.spawn(function()
      seen = failure(unsync.timeout, NEVER, unsync.sleep, NEVER)
      error(seen, 0)
    end)
    task:cancel("outside")
    assert.equal("outside", failure(task.await, task).reason)
    assert.equal("cancelled", seen.code)
  end)

  it("reaches calls made inside, and gives native tasks the time that is left", function()
    for _, kind in ipairs({"thread", "cpu"}) do
      local deadline = unsync[kind]("echo.deadline")
      local left = unsync.timeout(1000, function() return deadline():await() end)
      assert.is_true(left > 0 and left <= 1000000, tostring(left))
      local own = unsync[kind]("echo.deadline", {timeout = 500})
      left = unsync.timeout(1000, function() return own():await() end)
      assert.is_true(left > 0 and left <= 500000, tostring(left))
      left = unsync.timeout(200, function() return own():await() end)
      assert.is_true(left > 0 and left <= 200000, tostring(left))
      assert.equal(-1, (deadline():await()))
    end
  end)

  it("goes on in a worker's own calls", function()
    for _, kind in ipairs({"thread", "cpu"}) do
      local relay = unsync[kind](function(inner) return inner():await() end)
      local left = unsync.timeout(1000, function() return relay(unsync.thread("echo.deadline")):await() end)
      assert.is_true(left > 0 and left <= 1000000, kind .. " " .. tostring(left))
    end
  end)
end)

describe("a time", function()
  local nan = 0 / 0

  local function refused(what, fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok, what)
    assert.matches(what, tostring(err), 1, true)
  end

  it("that is none is refused where it is given, and the argument named", function()
    for _, wrong in ipairs({nan, -1, -0.001, "soon", {}, true}) do
      refused("#1", unsync.sleep, wrong)
      refused("#1", unsync.timeout, wrong, print)
      refused("timeout", unsync.io, print, {timeout = wrong})
      refused("run_timeout", unsync.thread, print, {run_timeout = wrong})
      refused("grace", unsync.cpu, print, {grace = wrong})
      refused("timeout", unsync.scope, {timeout = wrong}, print)
      local future = unsync.promise()
      refused("#2", future.await, future, wrong)
      refused("timeout", unsync.select, {future, timeout = wrong})
    end
  end)

  it("may be as long as you like", function()
    for _, long in ipairs({1e9, 1e18, math.huge, math.maxinteger}) do
      assert.equal(1, unsync.timeout(long, function() return 1 end))
      assert.equal(2, unsync.io(function() return 2 end, {timeout = long})():await(long))
      assert.equal(3, unsync.thread(function() return 3 end, {timeout = long})():await(long))
      local task = unsync.spawn(unsync.sleep, long)
      unsync.yield()
      assert.is_false(task:done())
      task:cancel()
      assert.equal("cancelled", failure(task.await, task).code)
    end
  end)
end)

describe("a block whose time is over and that goes on, though each of its waits raises", function()
  local swallowing = [[
    local unsync = require "unsync"
    local here = function(unsync, how)
      local function swallow() while true do pcall(unsync.sleep, 1000) end end
      local ok, err
      if how == "timeout" then ok, err = pcall(unsync.timeout, 0.01, swallow)
      elseif how == "scope" then
        ok, err = pcall(unsync.scope, {timeout = 0.01}, function(s) s:spawn(swallow) swallow() end)
      elseif how == "generator" then ok, err = pcall(unsync.timeout, 0.01, function() coroutine.wrap(swallow)() end)
      elseif how == "nested" then
        ok, err = pcall(unsync.timeout, 0.01, function()
          while true do pcall(unsync.timeout, 0.001, swallow) end
        end)
      end
      assert(not ok and err.code == "timeout", err)
      unsync.sleep(0.001) -- its task's waits are as ever
      return "over"
    end
  ]]

  for _, place in ipairs({"the main thread", "a task", "a thread", "a process"}) do
    it("is interrupted after the grace period: " .. place, function()
      local call = ({
        ["the main thread"] = "here(unsync, how)",
        ["a task"] = "unsync.spawn(here, unsync, how):await()",
        ["a thread"] = "unsync.thread(function() return here(require('unsync'), how) end)():await()",
        ["a process"] = "unsync.cpu(function() return here(require('unsync'), how) end)():await()",
      })[place]
      local ran = script.run(swallowing .. [[
        for _, how in ipairs({"timeout", "scope", "generator", "nested"}) do assert(]] .. call .. [[ == "over") end
      ]], {env = {UNSYNC_GRACE = "0.02"}})
      assert.same({"", 0}, {ran.err, ran.code})
    end)
  end
end)
