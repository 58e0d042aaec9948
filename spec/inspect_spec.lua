-- Seeing: the tree of tasks, why a future does not settle, and SIGUSR1, which asks for the tree from outside.
local script = require("spec.support.script")
local unsync = require("unsync")
local inspect = require("unsync.inspect")

local function run(code, arguments)
  return script.run('local unsync = require "unsync"\n' .. code, {args = arguments, limit_s = 60})
end

local function output(code, ...)
  local ran = run(code, {...})
  assert.same({"", 0}, {ran.err, ran.code})
  return ran.out
end

describe("inspect.tree", function()
  it("names each task with its state, where it waits, and where it was started", function()
    local text = output([[
      local inspect = require "unsync.inspect"
      local p = unsync.promise()
      local inner = unsync.io(function() p:await() end, {name = "inner"})
      local outer = unsync.io(function()
        inner():await()
      end, {name = "outer"})
      local f = outer()
      io.write(inspect.tree())
      p:resolve()
      f:await()
    ]])
    assert.matches("^3 tasks, 0 ready; 0 timers; ", text)
    assert.matches("\n  io main running %d+%.%d%d s at [^\n]*%.lua:9\n", text)
    assert.matches("\n    io outer waiting %d+%.%d%d s, for future at [^\n]*%.lua:6, started at [^\n]*%.lua:8\n", text)
    assert.matches("\n      io inner waiting [%d.]+ s, for future at [^\n]*%.lua:4, started at [^\n]*%.lua:6\n", text)
  end)

  it("knows how long each has lived, those of the script's first lines too", function()
    assert.equal("true\ntrue\ntrue\n", output([[
      local f = unsync.spawn(unsync.sleep, 60)
      unsync.sleep(0.05)
      for _, task in ipairs(unsync.tasks()) do print(task.age >= 0.05) end
      print(tostring(f):match("^future: io running %d+%.%d%d s$") ~= nil)
      f:cancel()
    ]]))
  end)

  it("shows calls under way and the workers that run them", function()
    local text = output([[
      local inspect = require "unsync.inspect"
      local started = unsync.promise()
      local ends = unsync.promise()
      local f = unsync.cpu(function() started:resolve() ends:await() end, {name = "far"})()
      started:await()
      local t = unsync.thread(function() ends:await() end, {name = "near"})()
      io.write(inspect.tree())
      ends:resolve()
      unsync.all{f, t}:await()
    ]])
    assert.matches("\n    cpu far running", text)
    assert.matches("\n    thread near ", text)
    assert.matches("\nworkers:\n.*  process %d+ %l+, far for ", text)
  end)

  it("has the whole stack of each task where that is asked for", function()
    local text = output([[
      local inspect = require "unsync.inspect"
      local p = unsync.promise()
      local function deep() p:await() end
      local f = unsync.spawn(function() deep() end)
      io.write(inspect.tree{stacks = true})
      p:resolve()
      f:await()
    ]])
    assert.matches("stack traceback:%s+%[C%]: in method 'await'%s+[^\n]*%.lua:4: in upvalue 'deep'", text)
  end)

  it("says how much is queued", function()
    local text = inspect.tree()
    assert.matches("queued: %d+ for threads, %d+ for processes\n", text)
  end)
end)

describe("unsync.why", function()
  it("follows the chain of waits down to the reason, as a list and as lines", function()
    local p = unsync.promise()
    local inner = unsync.io(function() return p:await() end, {name = "inner"})
    local outer = unsync.io(function() return inner():await() end, {name = "outer"})
    local f = outer()
    local why = unsync.why(f)
    assert.equal(3, #why)
    assert.same({"io", "outer", "waiting"}, {why[1].kind, why[1].name, why[1].state})
    assert.same({"io", "inner", "waiting"}, {why[2].kind, why[2].name, why[2].state})
    assert.same({"promise", "pending"}, {why[3].kind, why[3].state})
    assert.matches("inspect_spec%.lua:%d+$", why[1].where)
    local lines = "^io outer waiting.*\n  io inner waiting.*\n  promise pending, for somebody to settle it\n$"
    assert.matches(lines, tostring(why))
    p:resolve()
    f:await()
  end)

  it("says of a settled future how it has ended", function()
    assert.equal("done", unsync.why(unsync.resolved(1))[1].state)
    local failed = unsync.rejected("no")
    assert.equal("failed", unsync.why(failed)[1].state)
    assert.equal("no", failed:error())
  end)

  it("sees circles", function()
    local a, b
    a = unsync.io(function() unsync.yield() return b:await() end, {name = "a"})()
    b = unsync.io(function() unsync.yield() return a:await() end, {name = "b"})()
    unsync.yield()
    unsync.yield()
    local why = unsync.why(a)
    assert.equal(2, #why)
    assert.is_true(why[2].cycle)
    assert.matches("it waits for itself in the end", tostring(why))
    a:cancel()
    pcall(a.await, a)
    pcall(b.await, b)
  end)

  it("lists each call once, although finalizers start more of them meanwhile", function()
    local gate = unsync.promise()
    local wait = unsync.thread(function() gate:await() end, {name = "kept", limit = 1})
    local other = unsync.thread(function() gate:await() end, {name = "late", limit = 1})
    local kept, late = {}, {}
    for i = 1, 100 do kept[i] = wait() end
    local function call_later()
      setmetatable({}, {__gc = function()
        if #late < 1000 then
          for _ = 1, 50 do late[#late + 1] = other() end
        end
      end})
    end
    while #late < 1000 do
      call_later()
      local seen = {}
      for _, task in ipairs(unsync.tasks()) do
        if task.name == "kept" then seen[task.future] = (seen[task.future] or 0) + 1 end
      end
      for _, future in ipairs(kept) do assert.equal(1, seen[future]) end
    end
    gate:resolve()
    unsync.all(kept):await()
    unsync.all(late):await()
  end)

  it("looks through combinators, scopes and limits", function()
    local p = unsync.promise()
    local f = unsync.io(function() return p:await() end, {name = "behind"})()
    assert.matches("promise all waiting[^\n]*\n  io behind waiting", tostring(unsync.why(unsync.all({f}))))
    local scoped = unsync.io(function()
      unsync.scope(function(s) s:spawn(function() p:await() end) end)
    end, {name = "scoped"})()
    assert.matches("io scoped waiting[^\n]*, for the end of its scope[^\n]*\n  io", tostring(unsync.why(scoped)))
    local one = unsync.io(function() p:await() end, {name = "one", limit = 1})
    local first, second = one(), one()
    assert.matches("io one queued[^\n]*, for its turn", tostring(unsync.why(second)))
    p:resolve()
    unsync.all({f, scoped, first, second}):await()
  end)

  it("goes on in the threads that have to do with it", function()
    local p, there = unsync.promise(), unsync.promise()
    local f = unsync.thread(function() there:resolve() return p:await() end, {name = "far"})()
    local g = unsync.thread(function() return f:await() end, {name = "further"})()
    there:await()
    assert.is_true(script.eventually(function()
      local text = tostring(unsync.why(g))
      return text:find("thread further at [^\n]* waits for thread far")
        and text:find("thread far at [^\n]* waits for promise")
    end))
    assert.matches("^thread further %l+ [%d.]+ s in thread %d+\n", tostring(unsync.why(g)))
    p:resolve()
    g:await()
  end)

  it("names the process that a call runs in", function()
    local p, there = unsync.promise(), unsync.promise()
    local f = unsync.cpu(function() there:resolve() return p:await() end, {name = "far"})()
    there:await()
    local why = unsync.why(f)
    assert.equal("process", why[1].worker)
    assert.equal("integer", math.type(why[1].worker_id))
    p:resolve()
    f:await()
  end)

  it("goes on in the processes that have to do with it, and comes back from there", function()
    local p, there = unsync.promise(), unsync.promise()
    local home = unsync.io(function() return p:await() end, {name = "home"})()
    local f = unsync.cpu(function() there:resolve() return home:await() end, {name = "far"})()
    local g = unsync.cpu(function() return f:await() end, {name = "further"})()
    local h = unsync.thread(function() return g:await() end, {name = "beside"})()
    there:await()
    assert.is_true(script.eventually(function()
      return tostring(unsync.why(h)):find("\n  thread beside at [^\n]* waits for cpu further\n"
        .. "  cpu further at [^\n]* waits for cpu far\n  cpu far at [^\n]* waits for io home\n"
        .. "  io home at [^\n]* waits for promise\n$")
    end))
    p:resolve("well")
    assert.equal("well", h:await())
  end)

  it("asks a process for the calls that it has made, and for the tasks whose futures it has given away", function()
    local p, given = unsync.promise(), unsync.promise()
    local nested = unsync.cpu(function() return p:await() end, {name = "nested"})
    local f = unsync.cpu(function()
      local here = require("unsync")
      local task = here.io(function() return p:await() end, {name = "made there"})()
      given:resolve({task = task})
      return nested():await(), task:await()
    end, {name = "far"})()
    local task = given:await().task
    assert.is_true(script.eventually(function()
      return tostring(unsync.why(f)):find("\n  cpu far at [^\n]* waits for cpu nested\n"
        .. "  cpu nested at [^\n]* waits for promise\n$")
    end))
    assert.is_true(script.eventually(function()
      return tostring(unsync.why(task)):find("\n  io made there at [^\n]* waits for promise\n$")
    end))
    p:resolve("well")
    assert.same({"well", "well"}, {f:await()})
  end)

  for _, kind in ipairs({"thread", "cpu"}) do
    it("says so where nobody answers: a " .. kind .. " that computes", function()
      local there = unsync.promise()
      local f = unsync[kind](function()
        there:resolve()
        while true do tostring(0.5) end
      end)()
      there:await()
      assert.matches("\n  no answer from there: it computes, or stands in C\n$", tostring(unsync.why(f)))
      f:cancel()
      pcall(f.await, f)
      assert.equal(1, #unsync.why(f))
    end)
  end

  it("raises for what is no future", function()
    local ok, problem = pcall(function() unsync.why(7) end)
    assert.is_false(ok)
    assert.matches("^spec/inspect_spec.lua:%d+: bad argument #1 to 'why' %(unsync.Future expected, got number%)$",
      problem)
  end)
end)

describe("SIGUSR1", function()
  local ask = [[
    local uv = require "luv"
    local function ask() uv.kill(uv.os_getpid(), "sigusr1") end
  ]]

  it("prints the tasks of a program that waits", function()
    local ran = run(ask .. [[
      local p = unsync.promise()
      unsync.io(function() p:await() end, {name = "waiter"})()
      unsync.thread(function(pid) require("luv").kill(pid, "sigusr1") end)(uv.os_getpid()):await()
      unsync.sleep(0.02)
      p:resolve()
      print("end")
    ]])
    assert.same({0, "end\n"}, {ran.code, ran.out})
    assert.matches("unsync: the tasks of process %d+\n2 tasks", ran.err)
    assert.matches("\n    io waiter waiting %d+%.%d%d s, for future at ", ran.err)
  end)

  it("prints them where a script holds the loop, with the line, and leaves its debug hook alone", function()
    local ran = run(ask .. [[
      local lines = 0
      debug.sethook(function() lines = lines + 1 end, "l")
      ask()
      for _ = 1, 1000 do lines = lines + 0
      end
      debug.sethook()
      print(lines > 1000)
    ]])
    assert.same({0, "true\n"}, {ran.code, ran.out})
    assert.matches("\n  io main running %d+%.%d%d s at [^\n]*%.lua:%d+", ran.err)
  end)

  it("prints them in the middle of a collection, and twice in a row", function()
    local ran = run(ask .. [[
      for _ = 1, 20 do setmetatable({}, {__gc = ask}) end
      collectgarbage()
      ask() ask()
      for _ = 1, 1000 do local _ = {} end
      print("end")
    ]])
    assert.same({0, "end\n"}, {ran.code, ran.out})
    assert.matches("the tasks of process", ran.err)
  end)

  it("prints those of a worker process, and kills nobody", function()
    local ran = run([[
      local function asks()
        local uv = require "luv"
        uv.kill(uv.os_getpid(), "sigusr1")
        for _ = 1, 1000 do local _ = {} end
        return "alive"
      end
      print(unsync.cpu(asks, {name = "asker"})():await())
      print(unsync.cpu(asks, {name = "fresh one", fresh = true})():await())
    ]])
    assert.same({0, "alive\nalive\n"}, {ran.code, ran.out})
    assert.matches("cpu asker running %d+%.%d%d s at ", (ran.err:gsub("io asker", "cpu asker")))
    assert.matches("fresh one running %d+%.%d%d s at ", ran.err)
  end)

  it("harms nobody at any time from the first line to the end", function()
    local ran = script.run([[
      local pid = ...
      local count = 0
      for i = 1, 15 do
        local name = os.tmpname()
        local command = ("%s -e 'io.write(1) io.flush()' >%s 2>/dev/null & p=$!; while [ ! -s %s ]; do :; done; " ..
          "while kill -USR1 $p 2>/dev/null; do :; done; wait $p"):format(pid, name, name)
        local _, how, code = os.execute(command)
        if how == "exit" and code == 0 then count = count + 1 end
        os.remove(name)
      end
      print(count)
    ]], {args = {script.program}, limit_s = 60})
    assert.same({"15\n", ""}, {ran.out, ran.err})
  end)
end)
