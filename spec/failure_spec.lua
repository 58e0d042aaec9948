local unsync = require("unsync")
local script = require("spec.support.script")

--- Runs `check(kind, wrapper)` for both kinds of workers.
local function in_workers(check)
  for _, kind in ipairs({"thread", "cpu"}) do check(kind, unsync[kind]) end
end

describe("a failure inside a call of a worker", function()
  it("that nobody looked at is the call's", function()
    in_workers(function(kind, on)
      local call = on(function()
        local inner = require("unsync")
        inner.spawn(function() error("unseen", 0) end)
        return "fine"
      end)()
      assert.same({false, "unseen"}, {pcall(call.await, call)}, kind)
      assert.matches("in " .. kind .. " .*failure_spec%.lua", call:traceback())
    end)
  end)

  it("is the call's also where its future is garbage by then", function()
    in_workers(function(_, on)
      local call = on(function()
        local inner = require("unsync")
        do inner.rejected("collected") end
        collectgarbage()
        collectgarbage()
      end)()
      assert.same({false, "collected"}, {pcall(call.await, call)})
    end)
  end)

  it("is the call's also where it comes after the function has returned, of whatever kind", function()
    in_workers(function(_, on)
      local io = on(function()
        local inner = require("unsync")
        inner.spawn(function() inner.sleep(0.005) error({late = true}) end)
      end)()
      local _, err = pcall(io.await, io)
      assert.is_true(err.late)
      local nested = on(function()
        require("unsync").thread(function() error("far", 0) end)()
      end)()
      assert.same({false, "far"}, {pcall(nested.await, nested)})
    end)
  end)

  it("is none of the call's, if somebody looked", function()
    in_workers(function(_, on)
      local call = on(function()
        local inner = require("unsync")
        local failing = inner.spawn(function() error("seen", 0) end)
        pcall(failing.await, failing)
        inner.rejected("error"):error()
        inner.rejected("caught"):catch(function() end)
        return "fine"
      end)()
      assert.equal("fine", call:await())
    end)
  end)

  it("is none of the call's, if it goes home with the results", function()
    in_workers(function(kind, on)
      local future = on(function() return require("unsync").rejected("passed on") end)():await()
      assert.same({false, "passed on"}, {pcall(future.await, future)}, kind)
    end)
  end)

  it("comes with the call's own, in its `others` and its traceback", function()
    in_workers(function(_, on)
      local call = on(function()
        local inner = require("unsync")
        inner.rejected("1st beside")
        inner.rejected({code = "2nd beside"})
        error({code = "own"})
      end)()
      local ok, err = pcall(call.await, call)
      assert.is_false(ok)
      assert.equal("own", err.code)
      assert.same({"1st beside", {code = "2nd beside"}}, err.others)
      assert.matches("also failed: promise: 1st beside", call:traceback(), 1, true)
    end)
  end)

  it("comes alone, where what came with it cannot cross", function()
    in_workers(function(_, on)
      local call = on(function()
        local inner = require("unsync")
        inner.rejected(coroutine.create(print))
        error({code = "own"})
      end)()
      local _, err = pcall(call.await, call)
      assert.equal("own", err.code)
      assert.is_nil(err.others)
    end)
  end)

  it("cancels what the call has started, and that is waited for", function()
    in_workers(function(_, on)
      local ended = unsync.promise()
      local call = on(function(to)
        local inner = require("unsync")
        inner.spawn(function()
          local _ <close> = setmetatable({}, {__close = function()
            inner.shield(function() inner.sleep(0.001) to:resolve("cleaned up") end)
          end})
          inner.sleep(1000)
        end)
        inner.thread(function() require("unsync").sleep(1000) end)()
        error("own", 0)
      end)(ended)
      assert.same({false, "own"}, {pcall(call.await, call)})
      assert.is_true(ended:done())
      assert.equal("cleaned up", ended:await())
    end)
  end)

  it("of a call that nobody awaited there is waited for, and nothing of it is left to the next", function()
    in_workers(function(_, on)
      local worker = on(function(what)
        local inner = require("unsync")
        if what then inner.rejected(what) end
        return inner.spawn(function() inner.sleep(0.002) return "done" end):await()
      end, {limit = 1})
      for i = 1, 20 do
        local failing, fine = worker("unseen " .. i), worker()
        assert.same({false, "unseen " .. i}, {pcall(failing.await, failing)})
        assert.equal("done", fine:await())
      end
    end)
  end)

  it("of a cancelled call is told, and the call is cancelled", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local started = unsync.promise()
      local call = unsync.thread(function(to)
        local inner = require "unsync"
        inner.rejected("beside")
        to:resolve()
        inner.sleep(1000)
      end)(started)
      started:await()
      call:cancel()
      print(pcall(call.await, call))
      print(call:status())
    ]])
    assert.matches("cancelled\n$", ran.out)
    assert.matches("nobody looked at, of promise: beside", ran.err)
  end)

  it("is the oldest, where there are 1,000", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local f = unsync.thread(function()
        local inner = require "unsync"
        for i = 1, 1000 do inner.rejected("number " .. i) end
      end)()
      local ok, err = pcall(f.await, f)
      assert(not ok and err == "number 1", err)
    ]])
    assert.equal(0, ran.code, ran.err)
  end)
end)

describe("a failure that crosses", function()
  local looks = unsync.cpu(function(future)
    local _, err = pcall(future.await, future)
    return err
  end)

  it("and is awaited in a process needs nobody else to look", function()
    for _, how in ipairs({
      "local f = unsync.rejected('seen there')",
      "local f = unsync.promise() unsync.spawn(function() unsync.yield() f:reject('seen there') end)",
      "local f = unsync.spawn(function() unsync.sleep(0.001) error('seen there', 0) end)",
      "local f = unsync.promise() unsync.cpu(function(p) p:reject('seen there') end)(f)",
    }) do
      for _ = 1, 5 do
        local ran = script.run("local unsync = require 'unsync'\n" .. how .. [[

          local looks = unsync.cpu(function(future)
            local ok, err = pcall(future.await, future)
            return err
          end)
          print(looks(f):await())
        ]])
        assert.same({0, "seen there\n", ""}, {ran.code, ran.out, ran.err}, how)
      end
    end
  end)

  it("and was looked at where it came from stays so", function()
    local call = unsync.cpu(function()
      local future = require("unsync").rejected("seen")
      future:error()
      return future
    end)
    local ran = script.run([[
      local unsync = require "unsync"
      kept = unsync.cpu(function()
        local future = require("unsync").rejected("seen")
        future:error()
        return future
      end)():await()
    ]])
    assert.same({0, ""}, {ran.code, ran.err})
    assert.equal("seen", call():await():error())
  end)

  it("to another process is reported where it is handed on, if at all", function()
    assert.equal("far", unsync.cpu(function(look)
      return look(require("unsync").rejected("far")):await()
    end)(looks):await())
  end)
end)

describe("settled futures inside settled futures", function()
  local function nest(count)
    local inner = require("unsync")
    local future = inner.resolved("core")
    for i = 1, count do
      future = i % 2 == 0 and inner.resolved(future) or inner.rejected(future)
      future:error()
    end
    return future
  end
  local function unwrap(future)
    local inner = require("unsync")
    local depth = -1
    while inner.is_future(future) do
      local _, value = pcall(future.await, future)
      future = value
      depth = depth + 1
    end
    return depth, future
  end

  for _, kind in ipairs({"thread", "cpu"}) do
    it("cross to a " .. kind .. " and back, 10,000 deep", function()
      local on = unsync[kind]
      assert.same({10000, "core"}, {on(unwrap)(nest(10000)):await()})
      assert.same({10001, "core"}, {unwrap(on(nest)(10000))})
    end)

    it("cross to a " .. kind .. " when a promise there is settled with them", function()
      local promise = unsync.promise()
      unsync[kind](function(to, make)
        to:resolve(make(1000))
      end)(promise, nest):await()
      assert.same({1001, "core"}, {unwrap(promise)})
    end)
  end

  it("may be the future itself, which is let go of nonetheless", function()
    for _, kind in ipairs({"thread", "cpu"}) do
      local promise = unsync.promise()
      unsync[kind](function(to) to:resolve(to, {to}) end)(promise):await()
      local self, list = promise:await()
      assert.equal(promise, self)
      assert.equal(promise, list[1])
    end
  end)
end)

describe("calls held back by a limit", function()
  it("at the end by an error are let go of #memcheck", function()
    for _, kind in ipairs({"io", "thread", "cpu"}) do
      local ran = script.run(([[
        local unsync = require "unsync"
        local one = unsync.%s(function() end, {limit = 1, timeout = 100})
        kept = {}
        for i = 1, 5 do kept[i] = one() end
        setmetatable({}, {__gc = function() for i = 1, 5 do tostring(kept[i]) end end})
        error("out", 0)
      ]]):format(kind))
      assert.equal(1, ran.code)
      assert.matches("^unsync: out", ran.err)
    end
  end)
end)
