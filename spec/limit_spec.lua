-- The limit of a function: so many calls at once, the others in line, and nobody who waits for himself.
local unsync = require("unsync")
local script = require("spec.support.script")

--- An io function with a limit, and how many of its calls have worked at once.
local function counted(limit)
  local counts = {inside = 0, most = 0}
  function counts.work(times)
    counts.inside = counts.inside + 1
    counts.most = math.max(counts.most, counts.inside)
    local _ <close> = setmetatable({}, {__close = function() counts.inside = counts.inside - 1 end})
    for _ = 1, times or 2 do unsync.yield() end
  end
  counts.call = unsync.io(function(fn, ...)
    counts.work()
    if fn then return fn(...) end
  end, {limit = limit})
  return counts
end

--- As many run at once as may, and no more: none has lost its place, none has kept two.
local function assert_conserved(counts, limit)
  counts.most = 0
  local calls = {}
  for i = 1, 3 * limit do calls[i] = counts.call() end
  unsync.all(calls):await()
  assert.equal(limit, counts.most)
  assert.equal(0, counts.inside)
end

for _, kind in ipairs({"io", "thread", "cpu"}) do
  describe("a function of unsync." .. kind .. " with a limit of 1", function()
    it("may call itself, and wait for that", function()
      local down
      down = unsync[kind](function(n) return n == 0 and 0 or down(n - 1):await() + 1 end, {limit = 1})
      assert.equal(5, down(5):await())
    end)

    it("may call another one that calls it", function()
      local ping, pong
      ping = unsync[kind](function(n) return n == 0 and "end" or pong(n - 1):await() end, {limit = 1})
      pong = unsync[kind](function(n) return n == 0 and "end" or ping(n - 1):await() end, {limit = 1})
      assert.equal("end", ping(6):await())
    end)
  end)
end

describe("an io function with a limit", function()
  local ways = {
    all = function(f) return unsync.all({unsync.resolved(), f}):await()[2] end,
    ["all, behind others"] = function(f) return unsync.all({unsync.all({f})}):await()[1][1] end,
    race = function(f) return unsync.race({unsync.promise(), f}):await() end,
    select = function(f) return (select(2, unsync.select({unsync.promise(), unsync.channel(), f}))) end,
    as_completed = function(f) return unsync.as_completed({f})():await() end,
    ["and_then"] = function(f) return f:and_then(function(v) return v end):await() end,
    ["a task"] = function(f) return unsync.spawn(function() return f:await() end):await() end,
    ["the end of a scope"] = function(f)
      local value
      unsync.scope(function(s) s:spawn(function() value = f:await() end) end)
      return value
    end,
    ["a timeout"] = function(f) return unsync.timeout(1000, f.await, f) end,
    ["a shield"] = function(f) return unsync.shield(f.await, f) end,
    ["a mutex"] = function(f)
      local m, value = unsync.mutex(), nil
      unsync.spawn(function()
        local _ <close> = m:lock()
        value = f:await()
      end)
      local _ <close> = m:lock()
      return value
    end,
  }
  for name, way in pairs(ways) do
    it("may wait for itself by " .. name, function()
      local down
      down = unsync.io(function(n)
        unsync.yield()
        if n == 0 then return 0 end
        return way(down(n - 1)) + 1
      end, {limit = 1})
      local other <close> = unsync.spawn(unsync.sleep, 1000 * script.slowness) -- what else goes on does not matter
      assert.equal(4, down(4):await())
      assert.is_false(other:done())
    end)
  end

  it("may wait for a channel that only a call in line will fill", function()
    local items = unsync.channel()
    local one = unsync.io(function(what)
      if what == "send" then return items:send("item") end
      return items:recv()
    end, {limit = 1})
    local received, sent = one("receive"), one("send")
    assert.equal("item", received:await())
    sent:await()
  end)

  it("is no wait for itself where a call does not wait for the one that it makes: that stands in line", function()
    local counts = counted(2)
    local made = {}
    local function crawl(depth)
      if depth == 0 then return end
      for _ = 1, 3 do made[#made + 1] = counts.call(crawl, depth - 1) end
      counts.work()
    end
    counts.call(crawl, 4):await()
    for i = 1, 1 + 3 + 9 + 27 + 81 - 1 do made[i]:await() end
    assert.equal(2, counts.most)
    assert_conserved(counts, 2)
  end)

  it("lends one place to one call at a time", function()
    local counts = counted(1)
    local function many()
      local calls = {}
      for i = 1, 5 do calls[i] = counts.call() end
      unsync.all(calls):await()
    end
    counts.call(many):await()
    assert.equal(1, counts.most)
    assert_conserved(counts, 1)
  end)

  it("gives back what was lent, whatever the end of the lender and of the borrower", function()
    local counts = counted(3)
    for round = 1, 200 do
      local inner, held = nil, unsync.promise()
      local outer = counts.call(function()
        inner = counts.call(function()
          held:resolve()
          for _ = 1, round % 7 do unsync.yield() end
          if round % 5 == 0 then error("of the inner", 0) end
          return counts.call(counts.work):await()
        end)
        if round % 3 == 0 then inner:detach() end
        return inner:await()
      end)
      local others = {counts.call(), counts.call(), counts.call(), counts.call()}
      if round % 2 == 0 then
        held:await()
        if round % 4 == 0 then outer:cancel() else inner:cancel() end
      end
      pcall(outer.await, outer)
      if inner then pcall(inner.await, inner) end
      for _, other in ipairs(others) do other:await() end
    end
    assert.is_true(counts.most <= 3, "most at once: " .. counts.most)
    assert_conserved(counts, 3)
  end)

  it("may call itself 20,000 deep", function()
    local down
    down = unsync.io(function(n) return n == 0 and 0 or down(n - 1):await() + 1 end, {limit = 1})
    assert.equal(20000, down(20000):await())
  end)

  it("still finds what can never end, in whoever waits, and the others get their turn", function()
    local one = unsync.io(function(p) return p:await() end, {limit = 1})
    local first, second, third = one(unsync.promise()), one(unsync.promise()), one(unsync.resolved("third"))
    for _, future in ipairs({first, second}) do
      local ok, err = pcall(future.await, future)
      assert.is_false(ok)
      assert.equal("deadlock", err.code)
    end
    assert.equal("third", third:await())
  end)
end)
