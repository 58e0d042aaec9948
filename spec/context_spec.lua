-- Context variables, and the tasks one can see: var, current, tasks.
local unsync = require("unsync")

describe("a context variable", function()
  it("has its default until it is set, and any value, nil and false too", function()
    local v = unsync.var("default")
    assert.equal("default", v:get())
    for _, value in ipairs({ 1, "text", false }) do
      v:set(value)
      assert.equal(value, v:get())
    end
    v:set(nil)
    assert.is_nil(v:get())
    assert.is_nil(unsync.var():get())
  end)

  it("is seen by tasks that are started later, as it was then", function()
    local v = unsync.var(0)
    v:set(1)
    local gate = unsync.promise()
    local child = unsync.spawn(function()
      local grandchild = unsync.spawn(function()
        gate:await()
        return v:get()
      end)
      gate:await()
      local seen = v:get()
      v:set(5)
      return seen, grandchild:await(), v:get()
    end)
    v:set(2)
    gate:resolve()
    assert.same({ 1, 1, 5 }, { child:await() })
    assert.equal(2, v:get())
  end)

  it("is one's own: siblings and the caller do not see what a task sets", function()
    local v, w = unsync.var(), unsync.var("w")
    local function request(name)
      return unsync.spawn(function()
        v:set(name)
        unsync.yield()
        return v:get() .. w:get()
      end)
    end
    assert.same({ "aw", "bw", "cw" }, unsync.all({ request("a"), request("b"), request("c") }):await())
    assert.is_nil(v:get())
  end)

  it("with: is set for a call, which may wait, and what was before comes back, whatever the end", function()
    local v = unsync.var("before")
    local function inside(...)
      unsync.yield()
      return v:get(), ...
    end
    assert.same(table.pack("inside", 1, nil), table.pack(v:with("inside", inside, 1, nil)))
    assert.equal("before", v:get())
    v:set("set")
    assert.has_error(function() v:with(nil, function()
      assert(v:get() == nil)
      error("out", 0)
    end) end, "out")
    assert.equal("set", v:get())
    v:with(1, function() v:with(2, function() assert.equal(2, v:get()) end) assert.equal(1, v:get()) end)
    local task = unsync.spawn(function()
      pcall(v.with, v, 3, function() unsync.promise():await() end)
      return v:get()
    end)
    task:cancel()
    assert.equal("set", task:await())
  end)

  it("keeps nothing when its tasks have ended", function()
    local v = unsync.var()
    local kept = setmetatable({}, { __mode = "k" })
    for _ = 1, 100 do
      unsync.spawn(function()
        local value = {}
        kept[value] = true
        v:set(value)
        unsync.yield()
      end)
    end
    unsync.sleep(0.001)
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(kept))
  end)

  it("keeps no value that another has replaced, or that a call was given which has returned", function()
    local v = unsync.var()
    local kept = setmetatable({}, { __mode = "k" })
    local function value()
      local new = {}
      kept[new] = true
      return new
    end
    v:set(value())
    unsync.spawn(function() v:set(value()) end):await()
    v:with(value(), function() end)
    v:set(nil)
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(kept))
  end)

  it("has in each task what was set there, of many variables and whatever the order", function()
    local variables = {}
    for i = 1, 40 do variables[i] = unsync.var(-i) end
    local function check(model)
      for i, v in ipairs(variables) do
        local expected = model[i] == nil and -i or model[i]
        if expected == "nil" then expected = nil end
        assert(expected == v:get())
      end
    end
    local function copy(model)
      local new = {}
      for i, value in pairs(model) do new[i] = value end
      return new
    end
    local function play(model, depth)
      for step = 1, 30 do
        local i = math.random(#variables)
        local value = math.random(4) == 1 and "nil" or depth * 1000 + step
        local what = math.random(8)
        if what <= 4 then
          if value == "nil" then variables[i]:set(nil) else variables[i]:set(value) end
          model[i] = value
        elseif what == 5 then
          local inner = copy(model)
          inner[i] = value
          if value == "nil" then value = nil end
          pcall(variables[i].with, variables[i], value, function()
            check(inner)
            unsync.yield()
            check(inner)
            error()
          end)
        elseif what == 6 and depth < 3 then
          unsync.spawn(play, copy(model), depth + 1)
        else
          unsync.yield()
        end
        check(model)
      end
    end
    unsync.scope(function()
      for _ = 1, 5 do unsync.spawn(play, {}, 1) end
    end)
    for i, v in ipairs(variables) do assert.equal(-i, v:get()) end
  end)

  it("follows into thread and cpu calls, and those that they make", function()
    local v, w, unset = unsync.var("default"), unsync.var(), unsync.var("unset")
    for _, kind in ipairs({ "thread", "cpu" }) do
      local inner = unsync.thread(function() return v:get(), w:get(), unset:get() end)
      local outer = unsync[kind](function(...)
        local seen = table.pack(v:get(), w:get(), unset:get(), ...)
        v:set("changed there")
        return seen, table.pack(inner():await())
      end)
      v:set({ id = 7 })
      w:set(nil)
      local seen, deeper = outer("a", nil, 1):await()
      assert.same(table.pack({ id = 7 }, nil, "unset", "a", nil, 1), seen, kind)
      assert.same(table.pack("changed there", nil, "unset"), deeper, kind)
      assert.same({ id = 7 }, v:get())
      unsync.scope(function()
        v:with("other", function() assert.equal("other", (outer():await())[1]) end)
      end)
    end
  end)

  it("leaves values behind that cannot cross, and says nothing of them in errors", function()
    local v, w = unsync.var("default"), unsync.var()
    v:set(coroutine.create(print))
    w:set("goes along")
    for _, kind in ipairs({ "thread", "cpu" }) do
      local get = unsync[kind](function(n) return v:get(), w:get(), n end)
      assert.same({ "default", "goes along", 3 }, { get(3):await() })
      assert.error_matches(function() get(coroutine.create(print)) end, "argument 1")
      local failing = unsync[kind](function() error({ code = 1 }) end)
      assert.same({ false, { code = 1 } }, { pcall(function() return failing():await() end) })
    end
  end)

  it("is the same one in a module that both sides load", function()
    local path = os.tmpname()
    local file <close> = assert(io.open(path .. ".lua", "w"))
    file:write([[local unsync = require("unsync")
      return { a = unsync.var("a"), b = unsync.var("b"), get = function(m) return m.a:get() .. m.b:get() end }]])
    file:flush()
    local directory, name = path:match("^(.*)/([^/]*)$")
    package.path = directory .. "/?.lua;" .. package.path
    local module = require(name)
    module.b:set("set")
    for _, kind in ipairs({ "thread", "cpu" }) do
      assert.equal("aset", unsync[kind](function()
        local m = require(name)
        return m:get()
      end)():await(), kind)
    end
    os.remove(path)
    os.remove(path .. ".lua")
  end)

  it("refuses what is none", function()
    local v = unsync.var()
    assert.has_error(function() v.get(7) end)
    assert.has_error(function() v.get(io.stdout) end)
    assert.has_error(function() v.set({}, 1) end)
    assert.has_error(function() v:set() end)
    assert.has_error(function() v:with(1, 2) end)
  end)
end)

describe("current", function()
  it("is the future that the caller of this task has", function()
    local inner
    local task = unsync.spawn(function()
      inner = unsync.current()
      unsync.yield()
      assert(inner == unsync.current())
      return coroutine.wrap(function() return unsync.current() end)()
    end)
    assert.equal(inner, task)
    assert.equal(task, task:await())
    assert.is_true(unsync.is_future(unsync.current()))
  end)

  it("is found at any depth", function()
    local function deep(n)
      if n == 0 then return unsync.current() end
      return (deep(n - 1))
    end
    local task = unsync.spawn(function()
      for _, n in ipairs({ 0, 1, 2, 3, 4, 7, 8, 100, 10000 }) do assert(deep(n) == unsync.current()) end
      return true
    end)
    assert.is_true(task:await())
  end)

  it("can cancel itself", function()
    local task = unsync.spawn(function()
      unsync.current():cancel("enough")
      unsync.yield()
    end)
    pcall(task.await, task)
    assert.is_true(task:cancelled())
  end)
end)

describe("tasks", function()
  local function find(name)
    for i, task in ipairs(unsync.tasks()) do
      if task.name == name then return task, i end
    end
  end

  it("shows who lives, who started them, what they wait for, and where", function()
    local gate = unsync.promise()
    local line
    local child = unsync.io(function()
      line = debug.getinfo(1, "l").currentline + 1
      gate:await()
    end, { name = "child of mine" })
    local parent = unsync.io(function()
      child()
      unsync.sleep(60)
    end, { name = "parent of mine" })
    local future = parent()
    local info, place = find("child of mine")
    assert.same({ "io", "waiting", "future" }, { info.kind, info.state, info.waits_for })
    assert.truthy(info.where:match("context_spec.lua:" .. line .. "$"), info.where)
    assert.equal("parent of mine", info.parent.name)
    assert.equal(info.parent.depth + 1, info.depth)
    assert.is_true(info.age >= 0)
    local above, above_place = find("parent of mine")
    assert.same({ future, place - 1, "sleep" }, { above.future, above_place, above.waits_for })
    gate:resolve()
    future:cancel()
    pcall(future.await, future)
    assert.is_nil(find("parent of mine"))
  end)

  it("shows calls on threads and processes, and the task that runs", function()
    for _, kind in ipairs({ "thread", "cpu" }) do
      local call = unsync[kind](function() while true do end end, { name = "busy " .. kind })()
      local info = find("busy " .. kind)
      assert.same({ kind, call }, { info.kind, info.future })
      call:cancel()
      pcall(call.await, call)
      assert.is_nil(find("busy " .. kind))
    end
    local seen = unsync.io(function() return find("it runs") end, { name = "it runs" })():await()
    assert.equal("running", seen.state)
  end)

  it("says where the script waits, not where our own modules do", function()
    local line = debug.getinfo(1, "l").currentline + 2
    local waits = unsync.io(function()
      unsync.scope(function(s) s:spawn(unsync.sleep, 60) end)
      return true
    end, { name = "waits in a scope" })
    local future = waits()
    assert.truthy(find("waits in a scope").where:match("context_spec.lua:" .. line .. "$"))
    future:cancel()
    pcall(future.await, future)
  end)

  it("shows what has not begun", function()
    local once = unsync.io(function() unsync.yield() end, { name = "one at a time", limit = 1 })
    local a, b = once(), once()
    local states = {}
    for _, task in ipairs(unsync.tasks()) do
      if task.name == "one at a time" then states[#states + 1] = task.state end
    end
    assert.same({ "ready", "queued" }, states)
    assert.same({ a, b }, unsync.settled({ a, b }):await())
  end)
end)
