-- Many futures at once: bad input of all, settled, any, race; as_completed, map, retry; futures that end with a block.
local script = require("spec.support.script")
local unsync = require("unsync")

local function later(seconds, ...)
  return unsync.spawn(function(...)
    unsync.sleep(seconds)
    return ...
  end, ...)
end

local function collect(...)
  local found = {}
  for value in ... do found[#found + 1] = value end
  return found
end

describe("all, settled, any and race", function()
  it("raise at the call for what is no list of futures", function()
    for _, name in ipairs({ "all", "settled", "any", "race", "as_completed" }) do
      local combine = unsync[name]
      assert.error_matches(function() combine() end, "table expected, got n")
      assert.error_matches(function() combine(7) end, "table expected, got number")
      assert.error_matches(function() combine(unsync.resolved(1)) end, "table expected, got ")
      assert.error_matches(function() combine({ unsync.resolved(1), 2 }) end, "item 2 is a number, not a future")
      assert.error_matches(function() combine({ function() end }) end, "item 1 is a function, not a future")
    end
  end)

  it("of nothing: any and race raise, the others have nothing", function()
    assert.error_matches(function() unsync.any({}) end, "can never settle")
    assert.error_matches(function() unsync.race({}) end, "can never settle")
    assert.same({}, unsync.all({}):await())
    assert.same({}, unsync.settled({}):await())
    assert.same({}, collect(unsync.as_completed({})))
  end)

  it("takes with it what nobody else wants, if it is cancelled", function()
    for _, combine in ipairs({ "all", "any", "race", "settled" }) do
      local one, two, awaited = unsync.spawn(unsync.sleep, 3600), unsync.spawn(unsync.sleep, 3600), unsync.promise()
      local three = unsync.spawn(function() return awaited:await() end)
      local whoever = unsync.spawn(function() return three:await() end)
      local future = unsync[combine]({ one, unsync.all({ two }), three })
      assert.is_true(future:cancel("enough"))
      assert.is_true(future:cancelled())
      assert.equal("enough", future:error().reason)
      assert.is_false(future:cancel())
      for _, member in ipairs({ one, two }) do
        pcall(member.await, member)
        assert.is_true(member:cancelled(), combine)
      end
      awaited:resolve("given")
      assert.equal("given", whoever:await())
    end
  end)

  it("takes nested ones with it, to any depth, on a stack of one megabyte", function()
    assert.equal("cancelled\n", script.output([[
      local unsync = require "unsync"
      local leaf = unsync.spawn(unsync.sleep, 3600)
      local future = leaf
      for _ = 1, 20000 do
        local inner = unsync.all({ future })
        future = unsync.spawn(function() return inner:await() end)
      end
      future:cancel()
      pcall(leaf.await, leaf)
      print(leaf:status())
    ]], { before = "ulimit -s 1024" }))
  end)
end)

-- Two that never end by themselves (a call of C in the loop: there ThreadSanitizer lets signals in), and a promise.
local function endless()
  local busy = unsync.thread(function() while true do tostring(0.5) end end)
  return { unsync.spawn(unsync.sleep, 3600), busy(), unsync.promise() }
end

local function statuses(list)
  local found = {}
  for i, future in ipairs(list) do
    if not future:done() and i ~= 3 then pcall(future.await, future) end
    found[i] = future:status()
  end
  return found
end

for _, name in ipairs({ "all", "settled", "any", "race" }) do
  describe(name .. " that is cancelled", function()
    local combine, ended = unsync[name], { "cancelled", "cancelled", "pending" }

    it("cancels what it waits for, but promises", function()
      local list = endless()
      local whole = combine(list)
      assert.is_true(whole:cancel("enough"))
      assert.same({ "cancelled", "enough" }, { whole:status(), whole:error().reason })
      assert.same(ended, statuses(list))
    end)

    it("does so with the task that awaits it, whose own cancellation that is", function()
      local list = endless()
      local task = unsync.io(function() return combine(list):await() end, { name = "waiter" })()
      unsync.yield()
      task:cancel()
      local _, err = pcall(task.await, task)
      assert.same({ "cancelled", "waiter" }, { err.code, err.task })
      assert.same(ended, statuses(list))
    end)

    it("does so when the time for it is over", function()
      local list = endless()
      local _, err = pcall(unsync.timeout, 0.001, function() return combine(list):await() end)
      assert.equal("timeout", err.code)
      assert.same(ended, statuses(list))
    end)

    it("leaves what somebody else awaits", function()
      local list, gate = endless(), unsync.promise()
      local shared = unsync.spawn(function() return gate:await() end)
      list[4] = shared
      local other = unsync.spawn(function() return shared:await() end)
      unsync.yield()
      combine(list):cancel()
      gate:resolve("still there")
      assert.equal("still there", other:await())
    end)

    it("does so through others of its kind", function()
      local list = endless()
      unsync.race({ combine(list) }):cancel()
      assert.same(ended, statuses(list))
    end)
  end)
end

describe("as_completed", function()
  it("gives the futures in the order in which they settle, failed ones too", function()
    local a, b, c = unsync.promise(), unsync.promise(), unsync.promise()
    local order = {}
    local task = unsync.spawn(function()
      for future in unsync.as_completed({ a, b, c }) do order[#order + 1] = future end
    end)
    c:resolve()
    unsync.yield()
    a:reject("no")
    b:cancel()
    task:await()
    assert.same({ true, true, true, 3 }, { order[1] == c, order[2] == a, order[3] == b, #order })
    assert.equal("no", a:error())
  end)

  it("begins with those that have settled, in the order of the list", function()
    local p = unsync.promise()
    local one, two = unsync.resolved(1), unsync.resolved(2)
    local next_one = unsync.as_completed({ p, two, one, two })
    assert.equal(two, next_one())
    assert.equal(one, next_one())
    assert.equal(two, next_one())
    p:resolve(3)
    assert.equal(p, next_one())
    assert.is_nil(next_one())
    assert.is_nil(next_one())
  end)

  it("takes any mixture of kinds", function()
    local sum = 0
    local futures = {
      unsync.io(function() return 1 end)(), unsync.thread(function() return 2 end)(),
      unsync.cpu(function() return 4 end)(), unsync.resolved(8), later(0.001, 16),
    }
    for future in unsync.as_completed(futures) do sum = sum + future:await() end
    assert.equal(31, sum)
  end)

  it("leaves what runs alone when the loop is left", function()
    local slow = later(0.005, "slow")
    for future in unsync.as_completed({ slow, unsync.resolved(1) }) do
      if future:await() == 1 then break end
    end
    assert.equal("slow", slow:await())
  end)

  it("is a wait like any other: it can be cancelled, and it can be a deadlock", function()
    local task = unsync.spawn(function() return unsync.as_completed({ unsync.promise() })() end)
    task:cancel()
    assert.is_false(pcall(task.await, task))
    assert.is_true(task:cancelled())
    local ok, err = pcall(unsync.timeout, 0.001, unsync.as_completed({ unsync.promise() }))
    assert.same({ false, "timeout" }, { ok, err.code })
  end)
end)

describe("map", function()
  it("gives first results in the order of the items, with their numbers", function()
    local found = {}
    for value, number in unsync.map(function(n)
      unsync.sleep(n % 3 / 1000)
      return n * n, "more"
    end, { 1, 2, 3, 4, 5, 6, 7 }, { concurrency = 3 }) do
      found[number] = value
    end
    assert.same({ 1, 4, 9, 16, 25, 36, 49 }, found)
  end)

  it("gives them as they come with ordered = false", function()
    local gates = { unsync.promise(), unsync.promise(), unsync.promise() }
    local found = {}
    local task = unsync.spawn(function()
      for value in unsync.map(function(gate) return gate:await() end, gates, { ordered = false }) do
        found[#found + 1] = value
      end
    end)
    for _, i in ipairs({ 2, 3, 1 }) do
      gates[i]:resolve(i)
      unsync.sleep(0.001)
    end
    task:await()
    assert.same({ 2, 3, 1 }, found)
  end)

  it("keeps those that come early until their turn, and starts no more meanwhile", function()
    local gates, started, found = {}, 0, {}
    for i = 1, 6 do gates[i] = unsync.promise() end
    local task = unsync.spawn(function()
      for value, number in unsync.map(function(gate)
        started = started + 1
        return gate:await()
      end, gates, { concurrency = 3 }) do
        found[#found + 1] = value == number and value
      end
    end)
    for i = 6, 1, -1 do
      gates[i]:resolve(i)
      for _ = 1, 3 do unsync.yield() end
      if i > 1 then assert.same({ 3, {} }, { started, found }) end
    end
    task:await()
    assert.same({ 6, { 1, 2, 3, 4, 5, 6 } }, { started, found })
  end)

  it("has ended for a task that waits for its next result when another leaves it", function()
    local results <const> = unsync.map(function() unsync.promise():await() end, { 1, 2 }, { concurrency = 2 })
    local task = unsync.spawn(function() return results() end)
    unsync.yield()
    getmetatable(results).__close(results)
    assert.is_nil(task:await(10))
    assert.is_nil(results())
  end)

  it("takes items from an iterator, no sooner than their turn, and never holds more than concurrency", function()
    for _, ordered in ipairs({ true, false }) do
      local taken, running, most, given = 0, 0, 0, 0
      local function items()
        if taken == 50 then return nil end
        taken = taken + 1
        return taken
      end
      for _ in unsync.map(function(n)
        running = running + 1
        most = math.max(most, running)
        unsync.sleep(n % 2 / 1000)
        running = running - 1
        return n
      end, items, { concurrency = 4, ordered = ordered }) do
        given = given + 1
        assert.is_true(taken - given <= 4, taken - given)
      end
      assert.same({ 50, 50, 4, 0 }, { taken, given, most, running })
    end
  end)

  it("passes all that an iterator returns", function()
    local function join(k, v) return k .. "=" .. v end
    assert.same({ "a=1", "b=2" }, collect(unsync.map(join, ("a=1,b=2"):gmatch("(%w)=(%w)"))))
  end)

  it("gives results while the iterator waits for its next item", function()
    local gate = unsync.promise()
    local n = 0
    local found = {}
    for value in unsync.map(function(x) return x end, function()
      n = n + 1
      if n == 3 then gate:await() end
      return n <= 4 and n or nil
    end) do
      found[#found + 1] = value
      if value == 2 then gate:resolve() end
    end
    assert.same({ 1, 2, 3, 4 }, found)
  end)

  it("runs calls of every kind", function()
    for _, kind in ipairs({ "io", "thread", "cpu" }) do
      local double = unsync[kind](function(n) return 2 * n end)
      assert.same({ 2, 4, 6, 8, 10 }, collect(unsync.map(double, { 1, 2, 3, 4, 5 })), kind)
    end
    assert.same({ 2 }, collect(unsync.map(function(n) return unsync.resolved(2 * n) end, { 1 })))
    assert.same({}, collect(unsync.map(function() end, {})))
  end)

  it("cancels what runs when the loop is left, by break or by an error", function()
    for _, leave in ipairs({ "break", "error" }) do
      local cancelled = 0
      local function call(n)
        if n == 1 then return n end
        local _ <close> = setmetatable({}, { __close = function() cancelled = cancelled + 1 end })
        unsync.promise():await()
      end
      local ok, err = pcall(function()
        for _ in unsync.map(call, { 1, 2, 3, 4 }, { concurrency = 4 }) do
          if leave == "break" then break end
          error("left", 0)
        end
      end)
      assert.same(leave == "break" and { true } or { false, "left" }, { ok, err })
      unsync.yield()
      unsync.yield()
      assert.equal(3, cancelled, leave)
    end
  end)

  it("raises the failure of a call when its turn has come, and that of the iterator behind its last item", function()
    local found = {}
    local ok, err = pcall(function()
      for value in unsync.map(function(n)
        if n == 3 then error("three", 0) end
        return n
      end, { 1, 2, 3, 4 }) do
        found[#found + 1] = value
      end
    end)
    assert.same({ false, "three", { 1, 2 } }, { ok, err, found })
    found = {}
    local n = 0
    ok, err = pcall(function()
      for value in unsync.map(function(x) return x end, function()
        n = n + 1
        if n == 3 then error("broken", 0) end
        return n
      end) do
        found[#found + 1] = value
      end
    end)
    assert.same({ false, "broken", { 1, 2 } }, { ok, err, found })
  end)

  it("says so where a call returns nil, which would end the loop", function()
    assert.error_matches(function()
      for _ in unsync.map(function() end, { 1 }) do error("never") end
    end, "the call for item 1 returned nil")
  end)

  it("keeps nothing of what it has handed out", function()
    local n = 0
    collectgarbage()
    local before
    for value in unsync.map(function(x) return x end, function()
      n = n + 1
      return n <= 20000 and n or nil
    end, { concurrency = 2 }) do
      if value == 5000 then
        collectgarbage()
        before = collectgarbage("count")
      end
    end
    collectgarbage()
    assert.is_true(collectgarbage("count") - before < 200, collectgarbage("count") - before)
  end)

  it("refuses bad arguments at the call", function()
    local function id(...) return ... end
    assert.error_matches(function() unsync.map(7, {}) end, "bad argument #1 to 'map'")
    assert.error_matches(function() unsync.map(id, 7) end, "bad argument #2 to 'map'")
    assert.error_matches(function() unsync.map(id) end, "bad argument #2 to 'map'")
    assert.error_matches(function() unsync.map(id, {}, 7) end, "bad argument #3 to 'map'")
    assert.error_matches(function() unsync.map(id, {}, { order = true }) end, "unknown option 'order'")
    for _, many in ipairs({ 0, -1, 1.5, "2", 0 / 0, math.huge }) do
      assert.error_matches(function() unsync.map(id, {}, { concurrency = many }) end, "positive integer expected")
    end
  end)
end)

describe("retry", function()
  local function failing(times, err)
    local calls = 0
    return function(attempt)
      calls = calls + 1
      assert(attempt == calls)
      if calls <= times then error(err, 0) end
      return calls, nil, "done"
    end, function() return calls end
  end

  it("returns all results of the first call that succeeds", function()
    for _, kind in ipairs({ "plain", "io" }) do
      local fn = failing(2, "no")
      if kind == "io" then fn = unsync.io(fn) end
      assert.same(table.pack(3, nil, "done"), table.pack(unsync.retry(fn, { backoff = 0 })))
    end
  end)

  it("raises the last error, unchanged, after so many attempts", function()
    local problem = { code = "EAGAIN" }
    local fn, calls = failing(9, problem)
    local ok, err = pcall(unsync.retry, fn, { attempts = 4, backoff = 0 })
    assert.same({ false, true, 4 }, { ok, rawequal(err, problem), calls() })
  end)

  it("doubles the wait each time; jitter only shortens it", function()
    local began = unsync.now()
    pcall(unsync.retry, failing(9, "no"), { attempts = 4, backoff = 0.004 })
    assert.is_true(unsync.now() - began >= 0.028)
    began = unsync.now()
    pcall(unsync.retry, failing(9, "no"), { attempts = 4, backoff = 0.004, jitter = 1 })
    assert.is_true(unsync.now() - began < 2)
  end)

  it("tries again only after the errors it is told of", function()
    local fn, calls = failing(9, { code = "ENOENT" })
    pcall(unsync.retry, fn, { backoff = 0, on = { "EAGAIN", "timeout" } })
    assert.equal(1, calls())
    fn = failing(1, { code = "timeout" })
    assert.equal(2, (unsync.retry(fn, { backoff = 0, on = { "EAGAIN", "timeout" } })))
    local seen = {}
    fn, calls = failing(9, "text")
    pcall(unsync.retry, fn, { attempts = 9, backoff = 0, on = function(err, attempt)
      seen[#seen + 1] = err .. attempt
      return attempt < 3
    end })
    assert.same({ { "text1", "text2", "text3" }, 3 }, { seen, calls() })
  end)

  it("never tries again after a cancellation", function()
    local calls = 0
    local task = unsync.spawn(unsync.retry, function()
      calls = calls + 1
      unsync.promise():await()
    end, { attempts = 5, backoff = 0, on = function() return true end })
    task:cancel()
    pcall(task.await, task)
    assert.same({ true, 1 }, { task:cancelled(), calls })
  end)

  it("refuses bad arguments at the call", function()
    assert.error_matches(function() unsync.retry() end, "bad argument #1 to 'retry'")
    assert.error_matches(function() unsync.retry(print, 3) end, "bad argument #2 to 'retry'")
    assert.error_matches(function() unsync.retry(print, { tries = 3 }) end, "unknown option 'tries'")
    for name, value in pairs({ attempts = 0, backoff = -1, jitter = 2, on = "timeout" }) do
      assert.error_matches(function() unsync.retry(print, { [name] = value }) end, "bad option '" .. name .. "'")
    end
  end)
end)

describe("local future <close>", function()
  it("cancels it where it is pending, and waits until it has ended", function()
    local steps = {}
    do
      local task <close> = unsync.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            unsync.shield(unsync.sleep, 0.002)
            steps[#steps + 1] = "cleared away"
          end,
        })
        unsync.promise():await()
      end)
      steps[#steps + 1] = task:status()
    end
    assert.same({ "running", "cleared away" }, steps)
  end)

  it("does so for every kind, and leaves the results of one that has settled", function()
    for _, kind in ipairs({ "thread", "cpu" }) do
      local kept
      do
        local call <close> = unsync[kind](function() while true do end end)()
        kept = call
      end
      assert.is_true(kept:cancelled(), kind)
    end
    local kept, promise
    do
      local done <close> = unsync.resolved(7)
      local owed <close> = unsync.promise()
      kept, promise = done, owed
    end
    assert.same({ 7, true }, { kept:await(), promise:cancelled() })
  end)

  it("waits although its own task is cancelled, and leaves the error of the block as it is", function()
    local ended = false
    local task = unsync.spawn(function()
      local _ <close> = unsync.spawn(function()
        pcall(unsync.sleep, 10)
        unsync.shield(unsync.sleep, 0.002)
        ended = true
      end)
      unsync.promise():await()
    end)
    task:cancel()
    pcall(task.await, task)
    assert.same({ true, true }, { task:cancelled(), ended })
    assert.has_error(function()
      local _ <close> = unsync.spawn(unsync.sleep, 10)
      error("of the block", 0)
    end, "of the block")
  end)
end)
