-- A wait that can never end is an error that says why, not a hang; and a wait that can is none.
local script = require("spec.support.script")

--- Runs a script that is expected to hit a deadlock; its stderr.
local function dead(code, exit_code)
  local ran = script.run('local unsync = require "unsync"\n' .. code, {limit_s = 10})
  assert.equal(exit_code or 1, ran.code, ran.err)
  assert.matches("deadlock", ran.err .. ran.out)
  return ran.err, ran.out
end

local function alive(code)
  local ran = script.run('local unsync = require "unsync"\n' .. code, {limit_s = 20})
  assert.same({"", 0}, {ran.err, ran.code})
  return ran.out
end

describe("the error deadlock", function()
  it("ends a script that awaits a promise nobody will settle, and says where", function()
    local err = dead("local p = unsync.promise()\np:await()")
    assert.matches("nobody will settle", err)
    assert.matches("promise", err)
    assert.matches("%.lua:3", err)
  end)

  it("has a code, and can be caught: the script goes on", function()
    local _, out = dead([[
      local p = unsync.promise()
      local ok, err = pcall(p.await, p)
      print(ok, err.code, tostring(err):match("deadlock"))
      unsync.sleep(0.001)
      p:resolve("later")
      print(p:await())
    ]], 0)
    assert.equal("false\tdeadlock\tdeadlock\nlater\n", out)
  end)

  it("is raised in a task that awaits its own future", function()
    local _, out = dead([[
      local own
      own = unsync.spawn(function()
        unsync.yield()
        return own:await()
      end)
      local ok, err = pcall(own.await, own)
      print(ok, err.code)
    ]], 0)
    assert.equal("false\tdeadlock\n", out)
  end)

  it("is raised in a cycle of tasks, in the youngest, naming the chain", function()
    local err = dead([[
      local a, b, c
      a = unsync.io(function() unsync.yield() return b:await() end, {name = "first"})()
      b = unsync.io(function() unsync.yield() return c:await() end, {name = "second"})()
      c = unsync.io(function() unsync.yield() return a:await() end, {name = "third"})()
      a:await()
    ]])
    for _, name in ipairs({"first", "second", "third", "cycle"}) do assert.matches(name, err) end
    assert.matches("^unsync: [^\n]*deadlock", err)
  end)

  it("is raised first where no task is behind the wait: others get that task's outcome", function()
    local _, out = dead([[
      local p = unsync.promise()
      local inner = unsync.io(function()
        local ok, err = pcall(p.await, p)
        return "inner: " .. err.code
      end)
      local outer = unsync.io(function() return inner():await() end)
      print(outer():await())
    ]], 0)
    assert.equal("inner: deadlock\n", out)
  end)

  it("is raised one at a time: whoever is told may free the others", function()
    local _, out = dead([[
      local p, q = unsync.promise(), unsync.promise()
      local first = unsync.spawn(function() return "first " .. p:await() end)
      local second = unsync.spawn(function()
        local ok, err = pcall(q.await, q)
        p:resolve("freed")
        return "second " .. err.code
      end)
      print(first:await(), second:await())
    ]], 0)
    assert.equal("first freed\tsecond deadlock\n", out)
  end)

  it("ends a task that is left behind, after the script itself has ended", function()
    local err = dead([[
      local p = unsync.promise()
      unsync.io(function() p:await() end, {name = "left"})()
      print("main ends")
    ]])
    assert.matches("left", err)
  end)

  it("lets the clean-up of the task run", function()
    local _, out = dead([[
      local p = unsync.promise()
      local task = unsync.spawn(function()
        local guard <close> = setmetatable({}, {__close = function() unsync.sleep(0.001) print("closed") end})
        p:await()
      end)
      local ok, err = pcall(task.await, task)
      print(ok, err.code)
    ]], 0)
    assert.equal("closed\nfalse\tdeadlock\n", out)
  end)

  it("reaches through combinators and continuations", function()
    for _, wait in ipairs({
      "unsync.all{p}", "unsync.settled{p, unsync.resolved(1)}", "p:and_then(print)", "p:finally(function() end)",
      "unsync.race{p, unsync.promise()}",
    }) do
      dead("local p = unsync.promise() local f = " .. wait .. " f:await()")
    end
  end)

  it("says where the script started what waits in a module of unsync's own", function()
    local err = dead([[
      local p = unsync.promise()
      p:and_then(print)
       :await()
    ]])
    assert.matches("io task at [^\n]*%.lua:[34] waits for promise", err)
    assert.not_matches("unsync/continue", err)
  end)

  it("is raised in a generator's consumer's task, and while a module is required", function()
    dead([[
      local p = unsync.promise()
      for item in coroutine.wrap(function() coroutine.yield(p:await()) end) do print(item) end
    ]])
    dead([[
      package.preload.never = function() unsync.promise():await() end
      require "never"
    ]])
  end)

  it("is raised inside a thread, for what nobody there can settle", function()
    local _, out = dead([[
      local f = unsync.thread(function()
        local unsync = require "unsync"
        unsync.promise():await()
      end)()
      local ok, err = pcall(f.await, f)
      print(ok, err.code)
    ]], 0)
    assert.equal("false\tdeadlock\n", out)
  end)

  it("is raised for a promise that was in a thread whose call has ended", function()
    dead([[
      local p = unsync.promise()
      unsync.thread(function(q) return q:status() end)(p):await()
      p:await()
    ]])
  end)

  it("is raised with 10,000 tasks in a chain too #plain", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local p = unsync.promise()
      local future = p
      for _ = 1, 10000 do
        local awaited = future
        future = unsync.spawn(function() return awaited:await() end)
      end
      local ok, err = pcall(future.await, future)
      print(ok, err.code)
    ]], {limit_s = 20})
    assert.equal("false\tdeadlock\n", ran.out)
  end)

  it("is raised soon in 50,000 tasks that all wait for nothing #plain", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local p = unsync.promise()
      local tasks = {}
      for i = 1, 50000 do tasks[i] = unsync.spawn(function() return select(2, pcall(p.await, p)).code end) end
      local count = 0
      for _, task in ipairs(tasks) do if task:await() == "deadlock" then count = count + 1 end end
      print(count)
    ]], {limit_s = 30})
    assert.equal("50000\n", ran.out)
  end)
end)

describe("no deadlock", function()
  it("is a wait that a timer can end", function()
    assert.equal("timeout\n", alive([[
      local p = unsync.promise()
      local ok, err = pcall(p.await, p, 0.02)
      print(err.code)
    ]]))
    assert.equal("1\n", alive([[
      local p = unsync.promise()
      unsync.spawn(function() unsync.sleep(0.02) p:resolve(1) end)
      print(p:await())
    ]]))
  end)

  it("is a wait that another thread may end", function()
    assert.equal("from there\n", alive([[
      local p = unsync.promise()
      unsync.thread(function()
        local until_then = os.clock() + 0.05
        while os.clock() < until_then do end
        p:resolve("from there")
      end)()
      print(p:await())
    ]]))
  end)

  it("is a wait in a thread that the script may end, although the script does something else", function()
    assert.equal("here\n", alive([[
      local p = unsync.promise()
      local f = unsync.thread(function() return p:await() end)()
      unsync.sleep(0.05)
      p:resolve("here")
      print(f:await())
    ]]))
  end)

  it("is a wait in a thread for a task of the script", function()
    assert.equal("slow\n", alive([[
      local slow = unsync.spawn(function() unsync.sleep(0.05) return "slow" end)
      print(unsync.thread(function() return slow:await() end)():await())
    ]]))
  end)

  it("is a wait that one of luv's handles may end", function()
    assert.equal("luv\n", alive([[
      local uv = require "luv"
      local p = unsync.promise()
      local timer = uv.new_timer()
      timer:start(20, 0, function() timer:close() p:resolve("luv") end)
      print(p:await())
    ]]))
  end)

  it("is a wait for a promise that comes back from a thread as a result", function()
    assert.equal("7\n", alive([[
      local f = unsync.thread(function()
        local unsync = require "unsync"
        return unsync.spawn(function() unsync.sleep(0.02) return 7 end)
      end)()
      print(f:await():await())
    ]]))
  end)
end)
