-- Waits across threads and processes: one that can never end is told so wherever it stands, and no other is.
local script = require("spec.support.script")

local function run(code, arguments)
  return script.run(code, {args = arguments, limit_s = 60})
end

--- Runs a script that says what came of it.
local function output(code, ...)
  local ran = run('local unsync = require "unsync"\n' .. code, {...})
  assert.same({"", 0}, {ran.err, ran.code})
  return ran.out
end

--- The message of the error that `code` ends in, `kind` being "thread" or "cpu".
local function message(kind, code)
  return output([[
    local kind = ...
    local function attempt() ]] .. code .. [[ end
    local ok, err = pcall(attempt)
    print(ok, err.code)
    print(tostring(err))
  ]], kind)
end

for _, kind in ipairs({"thread", "cpu"}) do
  describe("deadlock across " .. kind .. " calls", function()
    it("is raised for a promise of the script's that nobody settles", function()
      local text = message(kind, [[
        local p = unsync.promise()
        return unsync[kind](function() return p:await() end, {name = "worker"})():await()
      ]])
      assert.matches("^false\tdeadlock\n", text)
      assert.matches(kind .. " worker at [^\n]*%.lua:%d+ waits for promise, which nobody will settle", text)
    end)

    it("is raised in a circle of the script, a task of its, and a worker", function()
      local text = message(kind, [[
        local f
        local task = unsync.io(function() while not f do unsync.yield() end return f:await() end, {name = "task"})()
        f = unsync[kind](function() return task:await() end, {name = "worker"})()
        return f:await()
      ]])
      assert.matches("^false\tdeadlock\n", text)
      assert.matches("io task at [^\n]*%.lua:%d+ waits for " .. kind .. " worker", text)
      assert.matches(kind .. " worker at [^\n]*%.lua:%d+ waits for io task", text)
      assert.matches("a cycle", text)
    end)

    it("is raised in two workers that wait for each other", function()
      assert.equal("false\tdeadlock\nfalse\tdeadlock\n", output([[
        local kind = ...
        local gate = unsync.promise()
        local first = unsync[kind](function() return gate:await()[1]:await() end, {name = "first"})()
        local second = unsync[kind](function() return first:await() end, {name = "second"})()
        gate:resolve({second})
        for _, f in ipairs({first, second}) do
          local ok, err = pcall(f.await, f)
          print(ok, err.code)
        end
      ]], kind))
    end)

    it("can be caught there, and the call goes on", function()
      assert.equal("caught deadlock, then later\n", output([[
        local kind = ...
        local p = unsync.promise()
        local f = unsync[kind](function()
          local ok, err = pcall(p.await, p)
          p:resolve("later")
          return "caught " .. err.code .. ", then " .. p:await()
        end)()
        print(f:await())
      ]], kind))
    end)

    it("reaches calls that were made in calls", function()
      assert.equal("false\tdeadlock\n", output([[
        local kind = ...
        local p = unsync.promise()
        local inner = unsync[kind](function() return p:await() end)
        local middle = unsync[kind](function() return inner():await() end)
        local outer = unsync[kind](function() return middle():await() end)
        local ok, err = pcall(function() return outer():await() end)
        print(ok, err.code)
      ]], kind))
    end)

    it("is raised in what a call has left waiting when its function has returned", function()
      local text = message(kind, [[
        local p = unsync.promise()
        return unsync[kind](function()
          local unsync = require "unsync"
          unsync.io(function() p:await() end, {name = "left"})()
          return "done"
        end, {fresh = true})():await()
      ]])
      assert.matches("^false\tdeadlock\n", text)
      assert.matches("io left at [^\n]* waits for promise", text)
    end)

    it("is none while the function only computes, sleeps or stands in C", function()
      assert.equal("1\t2\t3\n", output([[
        local kind = ...
        local p, q, r = unsync.promise(), unsync.promise(), unsync.promise()
        local calls = {
          unsync[kind](function() local t = os.clock() + 0.05 while os.clock() < t do end p:resolve(1) end)(),
          unsync[kind](function() require "unsync".sleep(0.05) q:resolve(2) end)(),
          unsync[kind](function() io.popen("sleep 0.05"):read("a") r:resolve(3) end)(),
        }
        local waiter = unsync[kind](function() return p:await(), q:await(), r:await() end)
        print(waiter():await())
        unsync.all(calls):await()
      ]], kind))
    end)

    it("is none where a worker's own promise has been handed out", function()
      assert.equal("7\n", output([[
        local kind = ...
        local box = unsync.promise()
        local f = unsync[kind](function()
          local own = require "unsync".promise()
          box:resolve(own)
          return own:await()
        end)()
        local own = box:await()
        unsync.sleep(0.03)
        own:resolve(7)
        print(f:await())
      ]], kind))
    end)
  end)
end

for _, kind in ipairs({"thread", "cpu"}) do
  describe("deadlock at a channel between the script and a " .. kind, function()
    it("is raised where nobody is left to send", function()
      assert.equal("false\tdeadlock\n", output([[
        local channel = unsync.channel()
        local f = unsync[...](function() return channel:recv() end)()
        local ok, err = pcall(f.await, f)
        print(ok, err.code)
      ]], kind))
    end)

    it("is none where items are under way", function()
      assert.equal("20100\tsent\n", output([[
        local channel = unsync.channel()
        local f = unsync[...](function()
          for i = 1, 200 do channel:send(i) end
          channel:close()
          return "sent"
        end)()
        local sum = 0
        for value in channel do sum = sum + value end
        print(sum, f:await())
      ]], kind))
    end)
  end)
end

describe("a worker process that dies", function()
  it("fails the futures of tasks in it that others wait for", function()
    local text = output([[
      local box = unsync.promise()
      local f = unsync.cpu(function()
        local unsync = require "unsync"
        local task = unsync.spawn(function() unsync.sleep(1000) end)
        box:resolve({task})
        task:await()
      end)()
      local task = box:await()[1]
      f:cancel("enough")
      local ok, err = pcall(task.await, task)
      print(ok, err.code == "cancelled" or err.code == "crashed")
      print(pcall(f.await, f))
    ]])
    assert.matches("^false\ttrue\n", text)
  end)
end)

describe("waits drawn at random", function()
  local graphs = [==[
local unsync = require "unsync"
local first, last, size = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3] or 7)

-- Who waits for whom, drawn from the seed. Each node waits for one other, for a promise that nobody settles, for
-- nothing, or for a while only.
local function draw(seed)
  math.randomseed(seed)
  local nodes = {}
  for i = 1, math.random(2, size) do
    local dice = math.random(10)
    local node = {kind = ({"io", "thread", "cpu"})[math.random(3)]}
    if dice <= 6 then node.target = math.random(size)
    elseif dice <= 7 then node.does = "never"
    elseif dice <= 8 then node.does = "return"
    elseif dice <= 9 then node.does = "sleep"
    else node.does = "rescue" end
    node.through = node.target and ({"await", "all", "scope", "timeout", "spawn", "nested"})[math.random(12)] or "await"
    nodes[i] = node
  end
  for _, node in ipairs(nodes) do
    if node.target then node.target = (node.target - 1) % #nodes + 1 end
  end
  return nodes
end

-- What must come out: follow the chain to its end.
local function answer(nodes, i)
  local seen = {}
  while nodes[i].target do
    if seen[i] then return "deadlock" end
    seen[i] = true
    i = nodes[i].target
  end
  local does = nodes[i].does
  return does == "never" and "deadlock" or does == "rescue" and "rescued" or "value"
end

local function body(start, i, node)
  local unsync = require "unsync"
  local list = start:await()
  local never = list.never
  if node.does == "return" then return "value" end
  if node.does == "sleep" then unsync.sleep(0.003) return "value" end
  if node.does == "never" then return never:await() end
  if node.does == "rescue" then
    local ok, err = pcall(never.await, never)
    return not ok and err.code == "deadlock" and "rescued" or "?"
  end
  local target = list[node.target]
  if node.through == "all" then return unsync.all({target, unsync.resolved(1)}):await()[1] end
  if node.through == "timeout" then
    local ok, err = pcall(target.await, target, 0.001)
    if ok then return err elseif err.code ~= "timeout" then error(err) end
    return target:await()
  end
  if node.through == "scope" then
    local got
    unsync.scope(function(s) s:spawn(function() got = target:await() end) end)
    return got
  end
  if node.through == "spawn" then return unsync.spawn(function() return target:await() end):await() end
  if node.through == "nested" then return unsync.cpu(function() return target:await() end)():await() end
  return target:await()
end

local bad = 0
for seed = first, last do
  local nodes = draw(seed)
  local start, list = unsync.promise(), {never = unsync.promise()}
  for i, node in ipairs(nodes) do
    list[i] = unsync[node.kind](body, {name = node.kind .. i})(start, i, node)
  end
  start:resolve(list)
  for i in ipairs(nodes) do
    local ok, got = pcall(list[i].await, list[i])
    if not ok then got = type(got) == "table" and got.code or got end
    local expected = answer(nodes, i)
    if got ~= expected then
      bad = bad + 1
      print(("seed %d node %d (%s): %s, not %s"):format(seed, i, nodes[i].kind, tostring(got), expected))
    end
  end
end
print(last - first + 1, "graphs", bad, "wrong")
  ]==]

  local function sure(first, last, size)
    local ran = run(graphs, {tostring(first), tostring(last), tostring(size)})
    assert.same({"", 0}, {ran.err, ran.code})
    assert.equal(("%d\tgraphs\t0\twrong\n"):format(last - first + 1), ran.out)
  end

  it("all come to what is behind them, over tasks, threads and processes", function()
    sure(1, 60, 7)
  end)

  it("do so in larger graphs too #slow", function()
    sure(1001, 1200, 7)
    sure(2001, 2100, 20)
  end)
end)

describe("no false alarm", function()
  local stress = [==[
local unsync = require "unsync"
local uv = require "luv"
math.randomseed(tonumber(arg[1]))
local rounds = tonumber(arg[2])

-- Each wait here is ended in the end, by whoever is behind it: no deadlock may be seen.
local function spin(n) local x = 0 for i = 1, n do x = x + i end return x end
local kinds = {"io", "thread", "cpu"}
local function any() return unsync[kinds[math.random(3)]] end

local patterns = {
  function() -- a promise settled by another worker, which computes first
    local p = unsync.promise()
    local waiter = any()(function() return p:await() end)()
    local settler = any()(function(n)
      local x = 0
      for i = 1, n do x = x + i end
      return p:resolve(x)
    end)(math.random(50000))
    waiter:await() settler:await()
  end,
  function() -- ping and pong over promises
    local pings, pongs = {}, {}
    for i = 1, 5 do pings[i], pongs[i] = unsync.promise(), unsync.promise() end
    local a = any()(function() for i = 1, 5 do pings[i]:resolve(i) pongs[i]:await() end return "a" end)()
    local b = any()(function() for i = 1, 5 do pings[i]:await() pongs[i]:resolve(i) end return "b" end)()
    assert(a:await() == "a" and b:await() == "b")
  end,
  function() -- calls in calls
    local leaf = any()(function(n) return n + 1 end)
    local middle = any()(function(n) return leaf(leaf(n):await()):await() end)
    local top = any()(function(n) return middle(middle(n):await()):await() end)
    assert(top(1):await() == 5)
  end,
  function() -- a sleep at the end of the chain, here or there
    local slow = any()(function() require "unsync".sleep(0.002) return 1 end)()
    local f = any()(function() return slow:await() end)()
    assert(any()(function() return f:await() end)():await() == 1)
  end,
  function() -- one of luv's handles
    local p = unsync.promise()
    local timer = uv.new_timer()
    timer:start(2, 0, function() timer:close() p:resolve("luv") end)
    assert(any()(function() return p:await() end)():await() == "luv")
  end,
  function() -- a worker's own promise, which it hands out and the script settles
    local box = unsync.promise()
    local f = any()(function()
      local unsync = require "unsync"
      local own = unsync.promise()
      box:resolve(own)
      return own:await()
    end)()
    box:await():resolve(7)
    assert(f:await() == 7)
  end,
  function() -- a task in a worker whose future is handed out
    local box = unsync.promise()
    local f = any()(function()
      local unsync = require "unsync"
      local inner = unsync.spawn(function() unsync.sleep(0.001) return 8 end)
      box:resolve({inner})
      return inner:await()
    end)()
    local g = any()(function() return box:await()[1]:await() end)()
    assert(f:await() == 8 and g:await() == 8)
  end,
  function() -- cancelled in the middle of it
    local p = unsync.promise()
    local f = any()(function() return p:await() end)()
    if math.random(2) == 1 then unsync.sleep(0.001) end
    f:cancel()
    local ok, err = pcall(f.await, f)
    assert(not ok and err.code == "cancelled", tostring(err))
    p:resolve()
  end,
  function() -- a limit in time is hope
    local p = unsync.promise()
    local f = any()(function()
      local ok, err = pcall(p.await, p, 0.002)
      return err.code
    end)()
    assert(f:await() == "timeout")
  end,
  function() -- blocked in C
    assert(any()(function() return os.execute("sleep 0.002") end)():await())
  end,
  function() -- combinators over futures of elsewhere
    local p, q = unsync.promise(), unsync.promise()
    local f = any()(function() local unsync = require "unsync" return unsync.all({p, q}):await() end)()
    local g = any()(function() local unsync = require "unsync" return (unsync.select({p})) == p end)()
    unsync.yield()
    p:resolve(1)
    any()(function() q:resolve(2) end)():await()
    assert(f:await()[2] == 2 and g:await())
  end,
}

local running, count = {}, 0
for round = 1, rounds do
  local pattern = math.random(#patterns)
  running[#running + 1] = unsync.spawn(patterns[pattern])
  count = count + 1
  if #running >= 6 then
    local task = table.remove(running, math.random(#running))
    task:await()
  end
  if round % 7 == 0 then spin(10000) end
end
for _, task in ipairs(running) do task:await() end
print(count)
  ]==]

  it("is raised in calls, promises, timers and handles that all come to an end", function()
    for seed = 1, 2 do
      local ran = run(stress, {tostring(seed), "150"})
      assert.same({"", 0, "150\n"}, {ran.err, ran.code, ran.out})
    end
  end)

  it("is raised in many more of them #slow", function()
    for seed = 11, 20 do
      local ran = run(stress, {tostring(seed), "600"})
      assert.same({"", 0, "600\n"}, {ran.err, ran.code, ran.out})
    end
  end)
end)

describe("a long chain", function()
  it("of 20,000 tasks is told soon #plain", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local p = unsync.promise()
      local last = unsync.thread(function() return p:await() end)()
      for _ = 1, 20000 do
        local before = last
        last = unsync.spawn(function() return before:await() end)
      end
      local ok, err = pcall(last.await, last)
      print(ok, err.code)
    ]], {limit_s = 60})
    assert.same({"", "false\tdeadlock\n"}, {ran.err, ran.out})
  end)
end)
