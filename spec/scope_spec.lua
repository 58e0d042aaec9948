-- Scopes: a block ends when all that was started in it has ended; a failure ends the rest.
local unsync = require("unsync")

local function forever() unsync.promise():await() end

--- Waits for good; counts those that were cleared away.
local function guarded(cleared)
  local _ <close> = setmetatable({}, { __close = function() cleared.n = cleared.n + 1 end })
  forever()
end

describe("scope", function()
  it("returns what its function returns, nils included, when all children have ended", function()
    local ended = 0
    local results = table.pack(unsync.scope(function(s)
      for i = 1, 3 do
        s:spawn(function()
          unsync.sleep(i / 1000)
          ended = ended + 1
        end)
      end
      return 1, nil, "x", nil
    end))
    assert.same({ table.pack(1, nil, "x", nil), 3 }, { results, ended })
    assert.equal(0, select("#", unsync.scope(function() end)))
  end)

  it("gives the future of each child; arguments go along", function()
    unsync.scope(function(s)
      assert.same({ 3, "x" }, { s:spawn(function(...) return select("#", ...), ... end, "x", nil, nil):await() }, 1)
    end)
  end)

  it("has children of any kind", function()
    for _, kind in ipairs({ "io", "thread", "cpu" }) do
      local double = unsync[kind](function(n) return 2 * n end)
      local future
      unsync.scope(function(s) future = s:spawn(double, 4) end)
      assert.is_true(future:done(), kind)
      assert.equal(8, future:await())
    end
  end)

  it("a child's failure cancels the others and the block, and is raised unchanged", function()
    for _, kind in ipairs({ "io", "thread", "cpu" }) do
      local cleared = { n = 0 }
      local fail = unsync[kind](function() error({ code = "mine" }) end)
      local ok, err = pcall(unsync.scope, function(s)
        s:spawn(guarded, cleared)
        s:spawn(guarded, cleared)
        s:spawn(fail)
        guarded(cleared)
      end)
      assert.same({ false, { code = "mine" }, 3 }, { ok, err, cleared.n }, kind)
    end
    assert.has_error(function()
      unsync.scope(function(s) s:spawn(error, "a text", 0) end)
    end, "a text")
  end)

  it("stops children that run on threads and in processes", function()
    for _, kind in ipairs({ "thread", "cpu" }) do
      local busy = unsync[kind](function() while true do end end)
      local future
      assert.has_error(function()
        unsync.scope(function(s)
          future = s:spawn(busy)
          error("enough", 0)
        end)
      end, "enough")
      assert.is_true(future:cancelled(), kind)
    end
  end)

  it("a failure of the block cancels the children", function()
    local cleared = { n = 0 }
    local problem = {}
    local ok, err = pcall(unsync.scope, function(s)
      s:spawn(guarded, cleared)
      unsync.yield()
      error(problem)
    end)
    assert.same({ false, true, 1 }, { ok, rawequal(err, problem), cleared.n })
    assert.is_nil(err.others)
  end)

  it("tells of the other errors in the traceback, of a text too, behind where the first came from", function()
    local function first_thrower() error("first", 0) end
    local function second_thrower() error("second", 0) end
    local task = unsync.spawn(function()
      unsync.scope(function(s)
        s:spawn(function()
          pcall(unsync.sleep, 1000)
          second_thrower()
        end)
        s:spawn(function() first_thrower() end)
        unsync.sleep(1000)
      end)
    end)
    assert.same({false, "first"}, {pcall(task.await, task)})
    local text = task:traceback()
    local at = 1
    for _, part in ipairs({"first_thrower", "awaited in:", "scope_spec", "also failed: io: second"}) do
      local found = text:find(part, at, true)
      assert.truthy(found, part .. " in " .. text)
      at = found + 1
    end
  end)

  it("keeps the traceback of the block's own error, whatever is awaited until it ends", function()
    local function block_thrower() error("own", 0) end
    local task = unsync.spawn(function()
      unsync.scope(function(s)
        s:spawn(function()
          pcall(unsync.sleep, 1000)
          local same = unsync.rejected("own")
          unsync.shield(function() pcall(same.await, same) end)
        end)
        block_thrower()
      end)
    end)
    assert.same({false, "own"}, {pcall(task.await, task)})
    local text = task:traceback()
    assert.matches("block_thrower", text)
    assert.is_nil(text:find("awaited in", 1, true), text)
  end)

  it("has the other errors in others, where the first is a table and the field is free", function()
    local function late(err)
      pcall(forever)
      error(err, 0)
    end
    local ok, err = pcall(unsync.scope, function(s)
      s:spawn(late, "second")
      s:spawn(late, { "third" })
      s:spawn(function()
        unsync.yield()
        error({ code = "first" })
      end)
    end)
    assert.same({ false, { code = "first", others = { "second", { "third" } } } }, { ok, err })
    ok, err = pcall(unsync.scope, function(s)
      s:spawn(late, "second")
      error({ others = "taken" })
    end)
    assert.same({ false, { others = "taken" } }, { ok, err })
    ok, err = pcall(unsync.scope, function(s)
      s:spawn(late, "second")
      error("text", 0)
    end)
    assert.same({ false, "text" }, { ok, err })
  end)

  it("a child cancelled on purpose is no failure", function()
    assert.equal("fine", unsync.scope(function(s)
      s:spawn(forever):cancel()
      return "fine"
    end))
  end)

  it("can be nested: an inner failure that is caught inside leaves the outer alone", function()
    local steps = {}
    unsync.scope(function(outer)
      outer:spawn(function()
        unsync.sleep(0.003)
        steps[#steps + 1] = "outer child"
      end)
      local ok, err = pcall(unsync.scope, function(inner)
        inner:spawn(error, "inner", 0)
        forever()
      end)
      assert.same({ false, "inner" }, { ok, err })
      steps[#steps + 1] = "caught"
    end)
    assert.same({ "caught", "outer child" }, steps)
  end)

  it("cancels what is in inner scopes, too, from the innermost out", function()
    local cleared = { n = 0 }
    local ok, err = pcall(unsync.scope, function(outer)
      outer:spawn(function()
        unsync.scope(function(inner)
          inner:spawn(guarded, cleared)
          guarded(cleared)
        end)
      end)
      unsync.yield()
      error("out", 0)
    end)
    assert.same({ false, "out", 2 }, { ok, err, cleared.n })
  end)

  it("ends with its task's cancellation, and waits for the clean-up of its children", function()
    local cleared = 0
    local task = unsync.spawn(function()
      unsync.scope(function(s)
        s:spawn(function()
          local _ <close> = setmetatable({}, { __close = function()
            unsync.shield(unsync.sleep, 0.002)
            cleared = cleared + 1
          end })
          forever()
        end)
      end)
    end)
    unsync.yield()
    task:cancel()
    pcall(task.await, task)
    assert.same({ true, 1 }, { task:cancelled(), cleared })
  end)

  it("timeout: cancels all, and raises timeout", function()
    for _, where in ipairs({ "block", "child" }) do
      local cleared = { n = 0 }
      local ok, err = pcall(unsync.scope, { timeout = 0.002 }, function(s)
        if where == "child" then s:spawn(guarded, cleared) else guarded(cleared) end
      end)
      assert.same({ false, "timeout", 1 }, { ok, err.code, cleared.n }, where)
    end
    assert.equal(1, unsync.scope({ timeout = 10 }, function() return 1 end))
  end)

  it("of two timeouts the earlier one's owner raises", function()
    local inner
    local ok, err = pcall(unsync.scope, { timeout = 0.002 }, function()
      inner = table.pack(pcall(unsync.scope, { timeout = 10 }, function(s) s:spawn(forever) end))
    end)
    assert.same({ false, "timeout", false, "cancelled" }, { ok, err.code, inner[1], inner[2].code })
  end)

  it("limit: so many children run at once; a cancelled one in line loses no place", function()
    for _, kind in ipairs({ "plain", "io" }) do
      local running, most, ended = 0, 0, 0
      local function child()
        running = running + 1
        most = math.max(most, running)
        unsync.sleep(0.001)
        running = running - 1
        ended = ended + 1
      end
      if kind == "io" then child = unsync.io(child) end
      unsync.scope({ limit = 2 }, function(s)
        local futures = {}
        for i = 1, 8 do futures[i] = s:spawn(child) end
        futures[5]:cancel()
      end)
      assert.same({ 2, 7, 0 }, { most, ended, running }, kind)
    end
  end)

  it("limit: a child that waits for one in line lends it its place, at any depth", function()
    for _, kind in ipairs({ "plain", "io" }) do
      unsync.scope({ limit = 1 }, function(s)
        local second
        local function wait()
          unsync.yield()
          return second:await() + 1
        end
        local first = s:spawn(kind == "io" and unsync.io(wait) or wait)
        second = s:spawn(function() return 1 end)
        assert.equal(2, first:await(), kind)
      end)
      unsync.scope({ limit = 2 }, function(s)
        local function count(n)
          return n == 0 and 0 or s:spawn(count, n - 1):await() + 1
        end
        assert.equal(100, s:spawn(kind == "io" and unsync.io(count) or count, 100):await(), kind)
      end)
    end
  end)

  it("limit: a child in line says what it will be, not that a task stands there for it", function()
    for _, kind in ipairs({ "io", "thread", "cpu" }) do
      local work = unsync[kind](function(n) return n end, { name = "work" })
      local gate = unsync.promise()
      unsync.scope({ limit = 1 }, function(s)
        s:spawn(function() gate:await() end)
        local f = s:spawn(work, 7)
        assert.matches("^future: " .. kind .. " work ", tostring(f))
        assert.matches("^" .. kind .. " work", tostring(unsync.why(f)))
        local listed
        for _, task in ipairs(unsync.tasks()) do
          if task.future == f then listed = task end
        end
        assert.same({ kind, "work" }, { listed.kind, listed.name })
        gate:resolve()
        assert.equal(7, f:await())
      end)
    end
  end)

  it("a scope that has ended takes no children", function()
    local kept
    unsync.scope(function(s) kept = s end)
    local ok, err = pcall(kept.spawn, kept, print)
    assert.same({ false, "closed" }, { ok, err.code })
  end)

  it("children may start siblings", function()
    local seen = 0
    unsync.scope(function(s)
      local function grow(n)
        seen = seen + 1
        unsync.yield()
        if n > 0 then
          s:spawn(grow, n - 1)
          s:spawn(grow, n - 1)
        end
      end
      s:spawn(grow, 5)
    end)
    assert.equal(63, seen)
  end)

  it("refuses bad arguments at the call", function()
    assert.error_matches(function() unsync.scope() end, "argument #1 to 'scope' %(function expected, got nil")
    assert.error_matches(function() unsync.scope(42) end, "argument #1 to 'scope' %(function expected, got number")
    assert.error_matches(function() unsync.scope({}) end, "argument #1 to 'scope' %(function expected, got table")
    assert.error_matches(function() unsync.scope({}, 1) end, "argument #2 to 'scope' %(function expected, got number")
    assert.error_matches(function() unsync.scope(3, print) end, "table expected")
    assert.error_matches(function() unsync.scope({ time = 1 }, print) end, "unknown option 'time'")
    for _, value in ipairs({ -1, 0 / 0, "1" }) do
      assert.error_matches(function() unsync.scope({ timeout = value }, print) end, "bad option 'timeout'")
    end
    for _, value in ipairs({ 0, -1, 1.5, "1" }) do
      assert.error_matches(function() unsync.scope({ limit = value }, print) end, "bad option 'limit'")
    end
    unsync.scope(function(s)
      assert.error_matches(function() s:spawn(7) end, "bad argument #1 to 'spawn'")
      assert.is_false(pcall(s.spawn, s, unsync.thread(function() end), coroutine.create(print)))
    end)
  end)

  it("a deadlock among its children is raised, and nothing hangs", function()
    local ok, err = pcall(unsync.scope, function(s)
      local a, b
      a = s:spawn(function() unsync.yield() b:await() end)
      b = s:spawn(function() unsync.yield() a:await() end)
    end)
    assert.same({ false, "deadlock" }, { ok, err.code })
    ok, err = pcall(unsync.scope, function() forever() end)
    assert.same({ false, "deadlock" }, { ok, err.code })
  end)
end)

describe("ambient ownership", function()
  it("a plain call belongs to the scope: at any depth it is waited for", function()
    local ended = 0
    local work = unsync.io(function()
      unsync.sleep(0.001)
      ended = ended + 1
    end)
    local function deeper()
      work()
      unsync.spawn(function()
        work()
        unsync.spawn(function() work() end)
      end)
    end
    unsync.scope(function(s)
      deeper()
      s:spawn(deeper)
    end)
    assert.equal(6, ended)
  end)

  it("is cancelled if the scope fails", function()
    local cleared = { n = 0 }
    assert.has_error(function()
      unsync.scope(function()
        unsync.spawn(function()
          unsync.spawn(guarded, cleared)
          guarded(cleared)
        end)
        error("out", 0)
      end)
    end, "out")
    assert.equal(2, cleared.n)
  end)

  it("its failure is raised at the end, unless somebody looked at it", function()
    local ended = false
    assert.has_error(function()
      unsync.scope(function()
        unsync.spawn(error, "lost", 0)
        unsync.sleep(0.001)
        ended = true
      end)
    end, "lost")
    assert.is_true(ended)
    assert.equal("fine", unsync.scope(function()
      local future = unsync.spawn(error, "seen", 0)
      pcall(future.await, future)
      local later = unsync.spawn(function()
        unsync.yield()
        error("seen", 0)
      end)
      pcall(later.await, later)
      return "fine"
    end))
  end)

  it("does not keep a cancelled task from cancelling what it awaits", function()
    local inner
    unsync.scope(function()
      local task = unsync.spawn(function()
        inner = unsync.spawn(forever)
        inner:await()
      end)
      task:cancel()
    end)
    assert.is_true(inner:cancelled())
  end)

  it("detach hands it to the script", function()
    local gate = unsync.promise()
    local future, below
    unsync.scope(function()
      future = unsync.spawn(function()
        unsync.yield()
        below = unsync.spawn(function() return gate:await() end)
        return below:await()
      end):detach()
    end)
    assert.is_false(future:done())
    gate:resolve("later")
    assert.same({ "later", "later" }, { future:await(), below:await() })
    assert.equal(1, unsync.resolved(1):detach():await())
  end)

  it("detach raises in a worker, whose root is the call", function()
    for _, kind in ipairs({ "thread", "cpu" }) do
      assert.error_matches(function()
        unsync[kind](function()
          local here = require("unsync")
          return here.scope(function() here.spawn(print):detach() end)
        end)():await()
      end, "cannot detach in a worker", nil, nil, kind)
    end
  end)

  it("scopes work in workers as they do here", function()
    for _, kind in ipairs({ "thread", "cpu" }) do
      assert.same({ "sum", 6, false, "x" }, { unsync[kind](function()
        local here = require("unsync")
        local sum = 0
        here.scope(function(s)
          for i = 1, 3 do s:spawn(function() here.yield() sum = sum + i end) end
        end)
        return "sum", sum, pcall(here.scope, function(s) s:spawn(error, "x", 0) end)
      end)():await() })
    end
  end)

  it("unsync.once is nobody's: what it makes outlives the scope", function()
    local gate = unsync.promise()
    local make = unsync.once(function() return gate:await() end)
    pcall(unsync.scope, function()
      unsync.spawn(make)
      unsync.yield()
      error("out")
    end)
    gate:resolve("made")
    assert.equal("made", make())
  end)

  it("leaves no more behind than calls without a scope", function()
    local function round()
      unsync.scope(function(s)
        for _ = 1, 10 do s:spawn(unsync.yield) end
        unsync.spawn(unsync.yield)
      end)
    end
    for _ = 1, 200 do round() end
    collectgarbage() collectgarbage()
    local before = collectgarbage("count")
    for _ = 1, 2000 do round() end
    collectgarbage() collectgarbage()
    assert.is_true(collectgarbage("count") - before < 50, collectgarbage("count") - before)
  end)
end)

describe("requests in a scope", function()
  it("are calls like any other: cancelled where it fails", function()
    local http = require("unsync.http")
    local uv = require("luv")
    local server = uv.new_tcp()
    server:bind("127.0.0.1", 0)
    server:listen(8, function() end) -- nobody ever answers
    local request
    assert.has_error(function()
      unsync.scope(function()
        request = http.get("http://127.0.0.1:" .. server:getsockname().port .. "/")
        unsync.sleep(0.001)
        error("out", 0)
      end)
    end, "out")
    assert.is_true(request:cancelled())
    server:close()
  end)
end)
