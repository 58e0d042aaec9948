-- io functions: coroutines on the ambient loop. What a call does at once, in which order the rest runs, and where it
-- may wait.
local unsync = require("unsync")
local script = require("spec.support.script")

describe("unsync.io", function()
  it("runs at once until it first waits", function()
    local seen = {}
    local gate = unsync.promise()
    local future = unsync.io(function()
      seen[#seen + 1] = "started"
      gate:await()
      seen[#seen + 1] = "went on"
    end)()
    seen[#seen + 1] = "called"
    gate:resolve()
    seen[#seen + 1] = "opened"
    future:await()
    assert.same({"started", "called", "opened", "went on"}, seen)
  end)

  it("is done when its call returns, if it never waits", function()
    local future = unsync.io(function(a) return a + 1 end)(1)
    assert.is_true(future:done())
    assert.equal("done", future:status())
    assert.equal(2, future:await())
  end)

  it("hands over every argument and every result, nils included", function()
    local same = unsync.io(function(...)
      unsync.yield()
      return ...
    end)
    assert.same(table.pack(nil, 1, nil, nil), table.pack(same(nil, 1, nil, nil):await()))
    assert.same(table.pack(), table.pack(same():await()))
    assert.same(table.pack(nil), table.pack(same(nil):await()))
    assert.same(table.pack(false, nil), table.pack(same(false, nil):await()))
    local many = {}
    for i = 1, 250 do many[i] = i end
    assert.same(table.pack(table.unpack(many)), table.pack(same(table.unpack(many)):await()))
  end)

  it("can be called again and again, and share its upvalues with the caller", function()
    local count = 0
    local add = unsync.io(function(n)
      unsync.yield()
      count = count + n
      return count
    end)
    local first, second = add(1), add(10)
    assert.equal(1, first:await())
    assert.equal(11, second:await())
    assert.equal(11, count)
  end)

  it("makes methods", function()
    local Account = {}
    Account.__index = Account
    Account.pay = unsync.io(function(self, amount)
      unsync.yield()
      self.balance = self.balance - amount
      return self.balance
    end)
    local account = setmetatable({balance = 10}, Account)
    assert.equal(7, account:pay(3):await())
  end)

  it("wraps C functions too", function()
    assert.equal("AB", unsync.io(string.upper)("ab"):await())
    assert.equal(6, unsync.io(math.max)(1, 6, 3):await())
  end)

  it("raises at once for what is not a function", function()
    for _, value in ipairs({1, "os.time", {}, true, io.stdout}) do
      assert.error_matches(function() unsync.io(value) end, "function expected")
    end
    assert.error_matches(function() unsync.io(nil) end, "function expected")
    assert.error_matches(function() unsync.io() end, "function expected")
  end)

  it("raises at once for an option that does not exist, or that makes no sense", function()
    local function noop() end
    assert.error_matches(function() unsync.io(noop, {nmae = "x"}) end, "nmae")
    assert.error_matches(function() unsync.io(noop, {timeout = "soon"}) end, "timeout")
    assert.error_matches(function() unsync.io(noop, {timeout = -1}) end, "timeout")
    assert.error_matches(function() unsync.io(noop, {timeout = 0 / 0}) end, "timeout")
    assert.error_matches(function() unsync.io(noop, {limit = 0}) end, "limit")
    assert.error_matches(function() unsync.io(noop, {limit = 1.5}) end, "limit")
    assert.error_matches(function() unsync.io(noop, {name = 12}) end, "name")
    assert.error_matches(function() unsync.io(noop, 12) end, "table expected")
    assert.error_matches(function() unsync.io(noop, {12}) end, "option")
  end)

  it("keeps the kind and the identity of an error", function()
    local object = setmetatable({}, {__tostring = function() return "an object" end})
    for _, value in ipairs({"text", 12, 1.5, false, object, print}) do
      local future = unsync.io(function()
        unsync.yield()
        error(value, 0)
      end)()
      local ok, err = pcall(future.await, future)
      assert.is_false(ok)
      assert.equal(value, err)
      assert.equal("failed", future:status())
    end
    local future = unsync.io(function() error() end)()
    local outcome = table.pack(pcall(future.await, future))
    assert.same(table.pack(false, nil), outcome)
  end)
end)

describe("a recursive io function", function()
  it("may be 100,000 calls deep #slow", function()
    local down
    down = unsync.io(function(n)
      if n == 0 then return 0 end
      return down(n - 1):await() + 1
    end)
    assert.equal(100000, down(100000):await())
  end)

  it("may be deep where every level catches errors and waits #slow", function()
    local down
    down = unsync.io(function(n)
      if n == 0 then
        unsync.yield()
        error("bottom", 0)
      end
      local ok, err = pcall(function() return down(n - 1):await() end)
      assert(not ok)
      error(err, 0)
    end)
    local future = down(10000)
    assert.has_error(function() future:await() end, "bottom")
  end)

  it("starts 16 at once, and queues the next", function()
    local depth, reached = 0, nil
    local down
    down = unsync.io(function(n)
      depth = math.max(depth, n)
      if n < 40 then return down(n + 1) end
    end)
    unsync.io(function()
      unsync.yield() -- a fresh turn, so nothing nests but what is below
      down(1)
      reached = depth
    end)():await()
    assert.equal(16, reached)
    for _ = 1, 5 do unsync.yield() end
    assert.equal(40, depth)
  end)

  it("calls the queued one pending, then running", function()
    local statuses = {}
    local down
    down = unsync.io(function(n)
      if n == 0 then
        unsync.yield()
        return
      end
      local future = down(n - 1)
      statuses[n] = future:status()
      future:await()
    end)
    down(20):await()
    local pending = 0
    for _, status in pairs(statuses) do
      assert.is_true(status == "pending" or status == "running" or status == "done")
      if status == "pending" then pending = pending + 1 end
    end
    assert.is_true(pending >= 1)
  end)

  it("leaves the user's own nesting the ordinary error", function()
    local function nest(n) return n == 0 and 0 or 1 + select(2, pcall(nest, n - 1)) end
    assert.equal(100, nest(100))
    local ok, err = pcall(string.rep, "x", -1)
    assert.is_true(ok, err)
    local function overflow() return (string.gsub("x", "x", overflow)) end
    local fine, message = pcall(overflow)
    assert.is_false(fine)
    assert.matches("overflow", tostring(message))
    assert.equal(1, unsync.io(function() return 1 end)():await())
  end)

  it("queues a start where pcalls, gsubs and metamethods nest between the starts", function()
    local meta = {}
    local down
    meta.__index = function(_, n) return down(n) end
    local object = setmetatable({}, meta)
    down = unsync.io(function(n)
      if n == 0 then return 0 end
      local _, text = pcall(string.gsub, "x", "x", function()
        return tostring(object[n - 1]:await() + 1)
      end)
      return tonumber(text)
    end)
    assert.equal(2000, down(2000):await())
  end)
end)

describe("the order of tasks", function()
  it("is first in, first out", function()
    local seen = {}
    local tasks = {}
    for i = 1, 10 do
      tasks[i] = unsync.spawn(function()
        for round = 1, 3 do
          unsync.yield()
          seen[#seen + 1] = ("%d.%d"):format(round, i)
        end
      end)
    end
    for _, task in ipairs(tasks) do task:await() end
    local expected = {}
    for round = 1, 3 do
      for i = 1, 10 do expected[#expected + 1] = ("%d.%d"):format(round, i) end
    end
    assert.same(expected, seen)
  end)

  it("lets others run where one awaits nothing but settled futures", function()
    local settled = unsync.resolved(1)
    local others = 0
    local stop = false
    local other = unsync.spawn(function()
      while not stop do
        unsync.yield()
        others = others + 1
      end
    end)
    for _ = 1, 100000 do settled:await() end
    stop = true
    other:await()
    assert.is_true(others >= 50, "the other task ran " .. others .. " times")
  end)

  it("lets a timer fire while tasks only yield to each other", function()
    local stop = false
    local function spin()
      while not stop do unsync.yield() end
    end
    local a, b = unsync.spawn(spin), unsync.spawn(spin)
    unsync.sleep(0.01)
    stop = true
    a:await()
    b:await()
  end)

  it("yields to whoever is ready, and only once", function()
    local seen = {}
    local gate = unsync.promise()
    local waiter = unsync.spawn(function()
      gate:await()
      seen[#seen + 1] = "waiter"
    end)
    gate:resolve()
    assert.same({}, seen)
    unsync.yield()
    assert.same({"waiter"}, seen)
    waiter:await()
  end)
end)

describe("unsync.spawn", function()
  it("is unsync.io of a function, with its arguments", function()
    assert.same(table.pack(1, nil, 3), table.pack(unsync.spawn(function(...) return ... end, 1, nil, 3):await()))
  end)

  it("simply calls a wrapped function", function()
    local add = unsync.io(function(a, b) return a + b end)
    local future = unsync.spawn(add, 1, 2)
    assert.equal(3, future:await())
    assert.equal(3, unsync.spawn(unsync.thread(function(a, b) return a + b end), 1, 2):await())
  end)

  it("raises for what is not a function", function()
    assert.error_matches(function() unsync.spawn(1) end, "function expected")
    assert.error_matches(function() unsync.spawn() end, "function expected")
  end)
end)

describe("time", function()
  it("is monotonic, and in seconds", function()
    local before = unsync.now()
    local last = before
    for _ = 1, 1000 do
      local now = unsync.now()
      assert.is_true(now >= last)
      last = now
    end
    assert.equal("float", math.type(before))
  end)

  it("never lets a sleep end early", function()
    for _, seconds in ipairs({0.0001, 0.0004, 0.001, 0.0015, 0.0099, 0.02}) do
      local before = unsync.now()
      unsync.sleep(seconds)
      assert.is_true(unsync.now() - before >= seconds, seconds)
    end
  end)

  it("never lets a sleep end early, whatever is going on meanwhile", function()
    local sleepers = {}
    for i = 1, 300 do
      sleepers[i] = unsync.spawn(function()
        local seconds = (i * 7919 % 300) / 10000
        local before = unsync.now()
        unsync.sleep(seconds)
        return unsync.now() - before >= seconds
      end)
    end
    for _, sleeper in ipairs(sleepers) do assert.is_true(sleeper:await()) end
  end)

  it("wakes sleepers in the order of their deadlines, equals in the order they came", function()
    local seen, tasks = {}, {}
    local start = unsync.now()
    for _, ms in ipairs({30, 10, 20, 10, 0, 30}) do
      tasks[#tasks + 1] = unsync.spawn(function()
        unsync.sleep(start + ms / 1000 - unsync.now() > 0 and start + ms / 1000 - unsync.now() or 0)
        seen[#seen + 1] = ms
      end)
    end
    for _, task in ipairs(tasks) do task:await() end
    assert.same({0, 10, 10, 20, 30, 30}, seen)
  end)

  it("passes for all sleepers at once #plain", function()
    local before = unsync.now()
    local tasks = {}
    for i = 1, 1000 do tasks[i] = unsync.spawn(unsync.sleep, 0.05) end
    for _, task in ipairs(tasks) do task:await() end
    assert.is_true(unsync.now() - before < 0.5 * script.slowness)
  end)

  it("returns nothing from sleep and yield", function()
    assert.equal(0, select("#", unsync.sleep(0)))
    assert.equal(0, select("#", unsync.sleep(0.001)))
    assert.equal(0, select("#", unsync.yield()))
  end)

  it("sleeps no time and gives up the turn for 0", function()
    local ran = false
    local other = unsync.spawn(function()
      unsync.yield()
      ran = true
    end)
    unsync.sleep(0)
    unsync.sleep(0)
    assert.is_true(ran)
    other:await()
  end)

  it("refuses what is no time", function()
    assert.error_matches(function() unsync.sleep(-1) end, "negative")
    assert.error_matches(function() unsync.sleep(0 / 0) end, "NaN")
    assert.error_matches(function() unsync.sleep("soon") end, "number expected")
    assert.error_matches(function() unsync.sleep() end, "number expected")
  end)

  it("can be as long as anybody wants", function()
    assert.equal("ok\n", script.run([[
      local unsync = require "unsync"
      unsync.spawn(unsync.sleep, math.huge)
      unsync.spawn(unsync.sleep, 1e300)
      unsync.spawn(unsync.sleep, math.maxinteger)
      unsync.sleep(0.01)
      print("ok")
      io.stdout:flush()
      os.exit(0)
    ]]).out)
  end)
end)

describe("a wait", function()
  local function later(...)
    local promise = unsync.promise()
    local values = table.pack(...)
    unsync.spawn(function()
      unsync.yield()
      promise:resolve(table.unpack(values, 1, values.n))
    end)
    return promise
  end

  it("goes through pcall, xpcall, metamethods, iterators and close handlers", function()
    assert.same({true, 1}, {pcall(function() return later(1):await() end)})
    assert.same({true, 1}, {xpcall(function() return later(1):await() end, debug.traceback)})
    local object = setmetatable({}, {
      __index = function(_, key) return later(key):await() end,
      __add = function() return later("sum"):await() end,
      __eq = function() return later(true):await() end,
      __lt = function() return later(true):await() end,
      __le = function() return later(false):await() end,
      __concat = function() return later("joined"):await() end,
      __len = function() return later(7):await() end,
      __call = function(_, a) return later(a):await() end,
      __unm = function() return later("minus"):await() end,
      __newindex = function(self, key, value) rawset(self, key, later(value):await()) end,
      __close = function() later():await() end,
    })
    assert.equal("key", object.key)
    assert.equal("sum", object + 1)
    assert.is_true(object == setmetatable({}, getmetatable(object)))
    assert.is_true(object < setmetatable({}, getmetatable(object)))
    assert.is_false(object <= setmetatable({}, getmetatable(object)))
    assert.equal("joined", object .. "x")
    assert.equal(7, #object)
    assert.equal("called", object("called"))
    assert.equal("minus", -object)
    object.set = 12
    assert.equal(12, rawget(object, "set"))
    local items = {}
    local function next_item(last, item)
      if item < last then return later(item + 1):await() end
    end
    for item in next_item, 3, 0 do items[#items + 1] = item end
    assert.same({1, 2, 3}, items)
    do
      local closed <close> = object
      assert.is_table(closed)
    end
  end)

  it("goes past the consumer of a generator to the task", function()
    local function numbers()
      return coroutine.wrap(function()
        for i = 1, 3 do coroutine.yield(later(i):await()) end
      end)
    end
    local seen = {}
    for number in numbers() do seen[#seen + 1] = number end
    assert.same({1, 2, 3}, seen)
  end)

  it("goes through generators in generators", function()
    local function level(n)
      return coroutine.wrap(function()
        if n == 0 then
          coroutine.yield(later("bottom"):await())
          return
        end
        for item in level(n - 1) do coroutine.yield(item .. n) end
      end)
    end
    assert.equal("bottom123", level(3)())
  end)

  it("may be in several tasks' own coroutines at once", function()
    local tasks = {}
    for i = 1, 20 do
      tasks[i] = unsync.spawn(function()
        local sum = 0
        for item in coroutine.wrap(function()
          for k = 1, 5 do coroutine.yield(later(k * i):await()) end
        end) do
          sum = sum + item
        end
        return sum
      end)
    end
    for i, task in ipairs(tasks) do assert.equal(15 * i, task:await()) end
  end)

  it("works in a module's body while it is required", function()
    script.file("waiting_module.lua", [[
      local unsync = require "unsync"
      unsync.sleep(0.001)
      return {value = unsync.spawn(function() unsync.yield() return 42 end):await()}
    ]])
    local path = package.path
    package.path = script.path("?.lua") .. ";" .. path
    local first, second = unsync.spawn(require, "waiting_module"), unsync.spawn(require, "waiting_module")
    local module = first:await()
    assert.equal(42, module.value)
    assert.equal(module, (second:await()))
    assert.equal(module, package.loaded.waiting_module)
    package.path = path
  end)

  it("works in the comparator of table.sort and in the function of string.gsub", function()
    local list = {3, 1, 2}
    table.sort(list, function(a, b) return later(a < b):await() end)
    assert.same({1, 2, 3}, list)
    assert.equal("<a><b>", (string.gsub("ab", ".", function(c) return later("<" .. c .. ">"):await() end)))
  end)

  it("works at the top level of a script, and of a chunk that it loads", function()
    assert.equal("1\n2\n3\n", script.output([[
      local unsync = require "unsync"
      unsync.sleep(0.001)
      print(unsync.spawn(function() unsync.sleep(0.001) return 1 end):await())
      load("local unsync = require 'unsync'; unsync.sleep(0.001); print(2)")()
      local file = os.tmpname()
      local f = io.open(file, "w")
      f:write("local unsync = require 'unsync'; unsync.sleep(0.001); print(3)")
      f:close()
      dofile(file)
      os.remove(file)
    ]]))
  end)
end)

describe("where C stands in the way, the error unyieldable", function()
  local function unyieldable(fn)
    local ok, err = pcall(fn)
    assert.is_false(ok)
    assert.equal("table", type(err), tostring(err))
    assert.equal("unyieldable", err.code)
    return tostring(err)
  end
  local function wait() unsync.yield() end

  it("names table.sort, for a metamethod of what it compares", function()
    local meta = {__lt = function() wait() return true end}
    local a, b = setmetatable({}, meta), setmetatable({}, meta)
    assert.matches("table.sort", unyieldable(function() table.sort({a, b}) end))
  end)

  it("names string.gsub, for a table that looks up", function()
    local lookup = setmetatable({}, {__index = function() wait() return "x" end})
    assert.matches("gsub", unyieldable(function() string.gsub("a", "a", lookup) end))
  end)

  it("names load, for a reader", function()
    -- In a task of its own: load calls the message handler around it, here busted's, which makes a nil of the error.
    local outcome = table.pack(unsync.spawn(load, function() wait() end):await())
    assert.is_nil(outcome[1])
    assert.matches("'load'", tostring(outcome[2]))
  end)

  it("names table.concat, table.insert and others, for metamethods", function()
    local list = setmetatable({}, {__index = function() wait() return "x" end, __len = function() return 2 end})
    assert.matches("table.concat", unyieldable(function() table.concat(list) end))
    assert.matches("table.unpack", unyieldable(function() table.unpack(list) end))
    assert.matches("tostring", unyieldable(function() tostring(setmetatable({}, {__tostring = wait})) end))
  end)

  it("names the function of a C library that calls back", function()
    local lpeg = require("lpeg")
    local pattern = lpeg.Cmt(lpeg.P("a"), function() wait() return true end)
    assert.matches("match", unyieldable(function() pattern:match("a") end))
  end)

  it("leaves the task as it was: it can wait afterwards, elsewhere", function()
    local meta = {__lt = function() wait() return true end}
    unyieldable(function() table.sort({setmetatable({}, meta), setmetatable({}, meta)}) end)
    assert.equal(1, unsync.spawn(function() wait() return 1 end):await())
  end)

  it("is raised for sleep, await and yield alike", function()
    local pending = unsync.promise()
    for _, verb in ipairs({
      function() unsync.sleep(0.001) end, function() unsync.yield() end, function() pending:await() end,
      function() pending:await(1) end,
    }) do
      unyieldable(function() return tostring(setmetatable({}, {__tostring = verb})) end)
    end
  end)

  it("is not raised for a future that has settled", function()
    local settled = unsync.resolved("text")
    assert.equal("text", tostring(setmetatable({}, {__tostring = function() return settled:await() end})))
  end)
end)

describe("tasks that are always ready", function()
  local uv = require("luv")

  -- Runs `wait` beside tasks that do nothing but give way, and returns what it returns.
  local function beside_the_busy(wait, ...)
    local over = false
    local busy = {}
    for i = 1, 3 do
      busy[i] = unsync.spawn(function()
        while not over do unsync.yield() end
      end)
    end
    local result = unsync.spawn(wait, ...):await()
    over = true
    for i = 1, 3 do busy[i]:await() end
    return result
  end

  it("starve no timer", function()
    assert.is_true(beside_the_busy(function()
      for _ = 1, 5 do unsync.sleep(0.001) end
      return true
    end))
  end)

  it("starve no call on a thread", function()
    assert.equal(5, beside_the_busy(unsync.thread(function(x) return x end), 5))
  end)

  it("starve no input", function()
    local fds, promise = uv.pipe({nonblock = true}, {nonblock = true}), unsync.promise()
    local input, output = uv.new_pipe(), uv.new_pipe()
    input:open(fds.read)
    output:open(fds.write)
    input:read_start(function(_, text) promise:resolve(text) end)
    assert.equal("text", beside_the_busy(function()
      output:write("text")
      return promise:await()
    end))
    input:close()
    output:close()
  end)

  it("starve no task that was ready before them", function()
    local turns = 0
    local other = unsync.spawn(function()
      while turns < 100 do
        turns = turns + 1
        unsync.yield()
      end
    end)
    assert.equal(100, beside_the_busy(function()
      other:await()
      return turns
    end))
  end)
end)
