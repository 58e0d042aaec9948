-- Memory: whatever is done a hundred thousand times leaves nothing behind: in Lua, in the process, among descriptors
-- and threads. Each soak runs in a process of its own.
local script = require("spec.support.script")

--- Runs `body`, which defines a function `round(n)` that does something n times, until everything is warm; then says
--- how much came on top while it was done 100,000 times more. What leaks grows each time; what is still being warmed up
--- (a thread more, or one that has not opened its loop yet; the heap's own pieces) does not: so up to three times,
--- until it stays flat.
local function soak(body, rounds)
  local out = script.output(([[
    local unsync = require "unsync"
    local script = require "spec.support.script"
    local n = %d
    %s
    round(n // 10)
    round(n // 10)
    local more
    for _ = 1, 3 do
      local lua, resident = script.lua_kib(), script.resident_kib()
      local descriptors, threads = script.descriptors(), script.threads()
      round(n)
      more = {math.ceil(script.lua_kib() - lua), math.ceil(script.resident_kib() - resident),
        script.descriptors() - descriptors, script.threads() - threads}
      if more[1] < 300 and more[2] < 6000 and more[3] <= 8 * math.max(0, more[4]) and more[4] <= 4 then break end
    end
    print(more[1], more[2])
    print(more[3], more[4])
  ]]):format(rounds or 100000, body), {env = {LUA_PATH = "./?.lua;;"}, limit_s = 100})
  local lua, resident, descriptors, threads = out:match("^(%-?%d+)\t(%-?%d+)\n(%-?%d+)\t(%-?%d+)\n$")
  assert.truthy(lua, out)
  assert.is_true(tonumber(lua) < 300, lua .. " KiB more in Lua")
  assert.is_true(tonumber(resident) < 6000, resident .. " KiB more in the process")
  -- A thread that the pool added has a loop of its own.
  assert.is_true(tonumber(descriptors) <= 8 * math.max(0, tonumber(threads)), descriptors .. " descriptors more")
  assert.is_true(tonumber(threads) <= 4, threads .. " threads more")
end

describe("memory stays flat #slow #plain", function()
  for _, case in ipairs({
    {"io calls that never wait", "local f = unsync.io(function(x) return x end) " ..
      "function round(n) for i = 1, n do f(i):await() end end"},
    {"io calls that wait", "local f = unsync.io(function(x) unsync.yield() return x end) " ..
      "function round(n) for i = 1, n do f(i):await() end end"},
    {"io calls with many results", "local f = unsync.io(function(x) return x, x, nil, {} end) " ..
      "function round(n) for i = 1, n do f(i):await() end end"},
    {"promises", [[
      function round(n)
        for i = 1, n do local p = unsync.promise() unsync.spawn(p.await, p) p:resolve(i) p:await() end
      end]]},
    {"failures that were looked at", [[
      local f = unsync.io(function() unsync.yield() error("x") end)
      function round(n) for i = 1, n do local g = f() pcall(g.await, g) end end]], 20000},
    {"continuations",
      "function round(n) for i = 1, n do unsync.resolved(i):and_then(print and math.abs):await() end end"},
    {"combinators", [[
      local f = unsync.io(function(x) unsync.yield() return x end)
      function round(n)
        for i = 1, n // 4 do
          unsync.all{f(1), f(2)}:await() unsync.race{f(1), unsync.resolved(2)}:await()
          unsync.any{unsync.rejected(1), f(2)}:await() unsync.settled{f(1)}:await()
        end
      end]]},
    {"deadlines that did not come", [[
      function round(n)
        for i = 1, n do local p = unsync.promise() unsync.spawn(function() p:resolve() end) p:await(1000) end
      end]]},
    {"channels, select and gates", [[
      local item, full = unsync.channel(), unsync.channel(3)
      local sem, mutex, barrier = unsync.semaphore(1), unsync.mutex(), unsync.barrier(2)
      function round(n)
        for i = 1, n // 4 do
          local own = unsync.channel(2)
          own:send({})
          local a = unsync.spawn(item.recv, item)
          local b = unsync.spawn(unsync.select, {item, {send = full, value = i}, own})
          local c = unsync.spawn(item.recv, item)
          local d = unsync.spawn(barrier.wait, barrier)
          item:send(i)
          full:try_recv()
          c:cancel()
          pcall(unsync.timeout, 0, item.recv, item)
          do local _ <close> = sem:acquire() local _ <close> = mutex:lock() end
          barrier:wait()
          unsync.settled({a, b, c, d}):await()
        end
      end]]},
    {"sleeps", "function round(n) for i = 1, n do unsync.sleep(0) end end"},
    {"generators that wait", [[
      function round(n)
        for i = 1, n do for _ in coroutine.wrap(function() unsync.yield() coroutine.yield(1) end) do end end
      end]]},
    {"tasks whose coroutine was seen", [[
      local f = unsync.io(function() unsync.yield() return coroutine.running() end)
      function round(n) for i = 1, n do f():await() end end]]},
    {"futures of a wait that was refused", [[
      local meta = {__lt = function() unsync.yield() return true end}
      local a, b = setmetatable({}, meta), setmetatable({}, meta)
      function round(n) for i = 1, n do pcall(table.sort, {a, b}) end end]], 20000},
    {"wrapped functions that are made and forgotten", [[
      function round(n)
        for i = 1, n do unsync.io(print, {name = "one"}) unsync.thread(function() end, {name = "two"}) end
      end]]},
  }) do
    it("over many " .. case[1], function() soak(case[2], case[3]) end)
  end

  it("over 100,000 timed-out waits for one future that never settles", function()
    soak([[
      local never = unsync.promise()
      function round(n)
        for i = 1, n // 100 do
          local tasks = {}
          for k = 1, 100 do tasks[k] = unsync.spawn(function() return (pcall(never.await, never, 0)) end) end
          for k = 1, 100 do assert(tasks[k]:await() == false) end
        end
      end]])
  end)

  for _, case in ipairs({
    {"calls", "local f = unsync.thread(function(x) return x end)", "f(i)"},
    {"calls with tables and closures", [[
      local up = {1, 2}
      local f = unsync.thread(function(t) return t, function() return up end end)]], "f({i, {i}})"},
    {"calls that fail", "local f = unsync.thread(function(x) error({x}) end)", "f(i)"},
    {"calls that are sent promises", [[
      local g = unsync.thread(function(p) p:resolve(1) end)
      local f = function() local p = unsync.promise() g(p) return p end]], "f(i)"},
    {"calls that return futures", [[
      local f = unsync.thread(function() return require "unsync".resolved(1) end)]], "f(i)"},
    {"calls that await the script's", [[
      local g = unsync.thread(function(p) return p:await() end)
      local f = function() return g(unsync.spawn(function() unsync.yield() return 1 end)) end]], "f(i)"},
    {"calls with big strings", [[
      local big = ("x"):rep(100000)
      local f = unsync.thread(function(s) return s .. "y" end)]], "f(big)", 5000},
    {"calls that are refused", [[
      local g, file = unsync.thread(print), io.tmpfile()
      local f = function() pcall(g, {1, {file}}) return unsync.resolved() end]], "f(i)"},
  }) do
    it("over thread " .. case[1], function()
      soak(("%s\nfunction round(n) for i = 1, n // 50 do local list = {} for k = 1, 50 do list[k] = %s end " ..
        "for k = 1, 50 do pcall(list[k].await, list[k]) end end end"):format(case[2], case[3]), case[4] or 20000)
    end)
  end

  it("over 1,000 thread calls with a new state each", function()
    soak([[
      local f = unsync.thread(function()
        return require "unsync".spawn(function() return 1 end):await()
      end, {fresh = true})
      function round(n) for i = 1, n do f():await() end end]], 1000)
  end)

  it("over 300 shell commands", function()
    soak("function round(n) for i = 1, n do os.execute('true') io.popen('true'):close() end end", 300)
  end)

  it("although functions are made anew each time: code is kept by its hash", function()
    soak([[
      function round(n)
        for i = 1, n do unsync.thread(load("local x = ... return x + " .. i % 10))(i):await() end
      end]], 5000)
  end)
end)

describe("the number of threads #slow #plain", function()
  it("goes back to what it was, after many have blocked", function()
    assert.equal("true\ttrue\n", script.output([[
      local unsync = require "unsync"
      local script = require "spec.support.script"
      local start, futures = unsync.promise(), {}
      for i = 1, 60 do futures[i] = unsync.thread(function() return start:await() end)() end
      local grown = script.eventually(function() return script.threads() > 60 end)
      start:resolve()
      for i = 1, 60 do futures[i]:await() end
      print(grown, script.eventually(function() return script.threads() <= 5 end, 20))
    ]], {env = {LUA_PATH = "./?.lua;;"}}))
  end)
end)

describe("an idle worker #plain", function()
  for _, kind in ipairs({"thread", "cpu"}) do
    it("keeps no garbage: " .. kind, function()
      assert.equal("true\n", script.output(([[
        local unsync = require "unsync"
        local script = require "spec.support.script"
        local pid = unsync.%s(function()
          local list = {}
          for i = 1, 40 do list[i] = ("x"):rep(2 ^ 20 + i) end
          return math.tointeger(require("luv").os_getpid())
        end)():await()
        -- Should its collection have come before anybody looks: then it is as good.
        print(script.eventually(function() return script.resident_kib(pid) < 30000 end, 5))
      ]]):format(kind), {env = {LUA_PATH = "./?.lua;;"}}))
    end)
  end
end)
