-- The user's own coroutines next to tasks: as in stock Lua in all they do, but that a wait is never taken for an item.
local unsync = require("unsync")
local stock = require("spec.support.stock")

local function closable(fn) return setmetatable({}, {__close = fn}) end

describe("coroutine, compared with stock Lua", function()
  it("creates, resumes and yields", function()
    stock.compare [[
      local co = coroutine.create(function(...)
        show("in", ...)
        show("got", coroutine.yield(1, nil, 3, nil))
        wait()
        show("got", coroutine.yield())
        return nil, "end", nil
      end)
      show(coroutine.status(co))
      show(coroutine.resume(co, nil, "a", nil))
      show(coroutine.status(co))
      show(coroutine.resume(co, "b", nil))
      show(coroutine.resume(co))
      show(coroutine.status(co))
      show(coroutine.resume(co))
      show(coroutine.resume(co))
      for _, bad in ipairs {1, "x", {}, print} do
        try(coroutine.resume, bad)
        try(coroutine.status, bad)
        try(coroutine.close, bad)
        try(coroutine.isyieldable, bad)
      end
      try(coroutine.resume)
      try(coroutine.create)
      try(coroutine.create, 1)
      try(coroutine.wrap)
      try(coroutine.wrap, "x")
      try(coroutine.wrap(print), "through a C function")
      try(coroutine.isyieldable, nil)
      show(type(coroutine.running()), select(2, coroutine.running()))
      show(#{coroutine.resume(coroutine.create(function() return table.unpack({}, 1, 200) end))})
      show(#{coroutine.wrap(function(...) wait() return select("#", ...), ... end)(table.unpack({}, 1, 200))})
      local co = coroutine.create(function() return table.unpack({}, 1, 1e7) end)
      show(coroutine.resume(co))
      show(coroutine.status(co))
    ]]
  end)

  it("says who runs, who waits and who is dead", function()
    stock.compare [[
      local outer, inner
      inner = coroutine.create(function()
        show(coroutine.status(outer), coroutine.status(inner), coroutine.isyieldable(), coroutine.running() == inner,
          select(2, coroutine.running()))
        show(coroutine.resume(outer))
        show(coroutine.resume(inner))
        try(coroutine.close, outer)
        try(coroutine.close, inner)
        wait()
        show(coroutine.status(outer), coroutine.status(inner))
        coroutine.yield()
        error({})
      end)
      outer = coroutine.create(function()
        show(coroutine.resume(inner))
        show(coroutine.status(outer), coroutine.status(inner))
        show(coroutine.resume(inner))
        show(coroutine.status(inner))
      end)
      show(coroutine.resume(outer))
      show(coroutine.status(outer), coroutine.status(inner))
      local main = coroutine.running()
      show(coroutine.status(main))
      coroutine.wrap(function()
        show(coroutine.status(main), coroutine.isyieldable())
        wait()
        try(coroutine.close, main)
        show(coroutine.resume(main))
      end)()
      try(coroutine.close, main)
      show(coroutine.resume(main))
      show(coroutine.isyieldable(), coroutine.isyieldable(inner), coroutine.isyieldable(coroutine.create(print)))
    ]]
  end)

  it("yields only inside a coroutine", function()
    stock.compare [[
      try(coroutine.yield)
      try(coroutine.yield, 1, 2)
      show(coroutine.isyieldable())
      try(function() wait() coroutine.yield() end)
      show(select(2, coroutine.running()))
    ]]
  end)

  it("passes errors of a generator on, with the line of its consumer", function()
    stock.compare [[
      local function generator(value)
        return coroutine.wrap(function() coroutine.yield(1) wait() error(value) end)
      end
      for _, value in ipairs {"text", 42, {}, setmetatable({}, {__tostring = function() return "object" end})} do
        local g = generator(value)
        show(g())
        try(function() g() end)
        try(function() g() end)
        try(g)
      end
      try(coroutine.wrap(function() wait() local x = nil + 1 end))
      try(function() coroutine.wrap(error)() end)
      try(function() coroutine.wrap(error)("direct", 0) end)
      local g
      g = coroutine.wrap(function() g() end)
      try(function() g() end)
      local done = coroutine.wrap(function() end)
      done()
      try(function() done() end)
    ]]
  end)

  it("keeps the stack of a coroutine that failed", function()
    stock.compare [[
      local function fail() wait() error("here") end
      local co = coroutine.create(function() local kept = "local"; fail() end)
      show(coroutine.resume(co))
      show(debug.traceback(co))
      show(debug.getlocal(co, 2, 1))
      show(debug.getinfo(co, 1, "l").currentline, debug.getinfo(co, 3))
      local co = coroutine.create(function() coroutine.yield() end)
      coroutine.resume(co)
      show(debug.traceback(co, "message"))
      show(debug.traceback(co, nil, 1))
      show(debug.getinfo(co, 2))
    ]]
  end)

  it("closes", function()
    stock.compare [[
      local function closing(name, fail)
        return setmetatable({}, {__close = function(_, err)
          wait()
          show(name, err, coroutine.isyieldable(), coroutine.status((coroutine.running())))
          try(coroutine.yield, "from clean-up")
          wait()
          if fail then error(fail, 0) end
        end})
      end
      local function coroutine_with(...)
        local names = table.pack(...)
        local co
        co = coroutine.create(function()
          local outer <close> = closing("outer", names[1])
          for i = 1, 3 do
            local inner <close> = closing("inner" .. i, names[2])
            local nothing <close> = nil
            local no <close> = false
            if i == 2 then coroutine.yield(i) end
            if names[3] then error(names[3], 0) end
          end
        end)
        return co
      end
      local cases = {{}, {"outer failed"}, {false, "inner failed"}, {"outer failed", "inner failed"},
        {false, false, "body failed"}, {"outer failed", false, "body failed"},
        {"outer failed", "inner failed", "body failed"}, {{}}}
      for i, case in ipairs(cases) do
        show("case", i)
        local co = coroutine_with(table.unpack(case, 1, 3))
        show(coroutine.resume(co))
        show(coroutine.close(co))
        show(coroutine.status(co), coroutine.close(co))
        show(coroutine.resume(co))
        local g = coroutine.wrap(function()
          local c <close> = closing("wrapped", case[1])
          error(case[3] or "raised")
        end)
        try(function() g() end)
        try(g)
      end
      show(coroutine.close(coroutine.create(print)))
      local co = coroutine.create(error)
      show(coroutine.resume(co, {}))
      show(coroutine.close(co))
      show(coroutine.close(co))
      -- a generic for's closing value, and variables in C functions' way
      local co = coroutine.create(function()
        for _ in function() coroutine.yield() return 1 end, nil, nil, closing("for") do end
      end)
      coroutine.resume(co)
      show(coroutine.close(co))
      local co = coroutine.create(function()
        local function body() local c <close> = closing("under pcall"); coroutine.yield() end
        show("never", pcall(body))
      end)
      coroutine.resume(co)
      show(coroutine.close(co))
    ]]
  end)

  it("closes what is shared, changed or lost meanwhile", function()
    stock.compare [[
      local calls = {}
      local mt = {__close = function(self) calls[#calls + 1] = self.name end}
      local function named(name) return setmetatable({name = name}, mt) end
      local co = coroutine.create(function()
        local a <close> = named("a")
        local twice = named("b")
        local b <close> = twice
        local c <close> = twice
        local function deeper()
          local d <close> = named("d")
          coroutine.yield()
        end
        deeper()
      end)
      coroutine.resume(co)
      show(coroutine.close(co))
      show(table.concat(calls, " "))
      show(rawget(mt, "__close") == mt.__close, mt.__close ~= nil)
      -- one clean-up changes what the next one will be
      local later = {__close = function() show("first choice") end}
      local co = coroutine.create(function()
        local a <close> = setmetatable({}, later)
        local b <close> = setmetatable({}, {__close = function()
          later.__close = function() show("second choice") end
        end})
        coroutine.yield()
      end)
      coroutine.resume(co)
      show(coroutine.close(co))
      local lost = {__close = function() end}
      local co = coroutine.create(function()
        local a <close> = setmetatable({}, lost)
        coroutine.yield()
      end)
      coroutine.resume(co)
      lost.__close = nil
      show((coroutine.close(co)))
      -- upvalues are closed before clean-up looks at them
      local get
      local co = coroutine.create(function()
        local x = 1
        get = function() return x end
        local c <close> = setmetatable({}, {__close = function() x = x + 1 end})
        x = 10
        coroutine.yield()
      end)
      coroutine.resume(co)
      show(coroutine.close(co), get())
    ]]
  end)

  it("does not recurse without end", function()
    stock.compare [[
      local function nest() return coroutine.wrap(nest)() end
      local ok, err = pcall(nest)
      show(ok, (err:match("C stack overflow")))
      local function nest() return coroutine.resume(coroutine.create(nest)) end
      local results = {nest()}
      show(results[#results]:match("C stack overflow"))
      local co = coroutine.wrap(function() local function f() return 1 + f() end return f() end)
      local ok, err = pcall(co)
      show(ok, (err:match("stack overflow")))
    ]]
  end)

  it("stops at hooks", function()
    stock.compare [[
      local events = {}
      local co = coroutine.create(function()
        local c <close> = setmetatable({}, {__close = function() end})
        coroutine.yield()
      end)
      debug.sethook(co, function(event) events[#events + 1] = event end, "cr")
      coroutine.resume(co)
      show(table.concat(events, " "))
      show(select("#", debug.gethook(co)), select(2, debug.gethook(co)))
      coroutine.close(co)
      show(select(2, debug.gethook(co)))
    ]]
  end)
end)

describe("a wait inside a coroutine", function()
  it("is no item for its consumer", function()
    local function numbers(n)
      return coroutine.wrap(function()
        for i = 1, n do
          unsync.sleep(0)
          coroutine.yield(i)
        end
      end)
    end
    local function doubled(source)
      return coroutine.wrap(function()
        for i in source do
          unsync.yield()
          coroutine.yield(2 * i)
        end
      end)
    end
    local seen = {}
    for i in doubled(doubled(numbers(5))) do seen[#seen + 1] = i end
    assert.same({4, 8, 12, 16, 20}, seen)
  end)

  it("lets other tasks go on, with generators of their own", function()
    local order = {}
    local function run(name)
      local generator = coroutine.wrap(function(...)
        local got = ...
        for i = 1, 3 do
          unsync.yield()
          got = coroutine.yield(got .. i)
        end
        return "end"
      end)
      local value = name
      while value ~= "end" do
        value = generator(value)
        order[#order + 1] = value
      end
    end
    local a, b = unsync.spawn(run, "a"), unsync.spawn(run, "b")
    a:await()
    b:await()
    assert.same({"a1", "b1", "a12", "b12", "a123", "end", "b123", "end"}, order)
  end)

  it("leaves it normal, for whoever looks", function()
    local gate = unsync.promise()
    local co = coroutine.create(function()
      gate:await()
      coroutine.yield("item")
    end)
    local consumer = unsync.spawn(function() return coroutine.resume(co) end)
    assert.equal("normal", coroutine.status(co))
    local ok, message = coroutine.resume(co)
    assert.is_false(ok)
    assert.matches("^cannot resume non%-suspended coroutine", message)
    assert.error_matches(function() coroutine.close(co) end, "cannot close a normal coroutine")
    assert.equal("normal", coroutine.status(co))
    gate:resolve()
    assert.same({true, "item"}, {consumer:await()})
    assert.equal("suspended", coroutine.status(co))
    assert.is_true(coroutine.close(co))
  end)

  it("leaves a task's own thread normal too", function()
    local gate = unsync.promise()
    local thread
    local task = unsync.spawn(function()
      thread = coroutine.running()
      gate:await()
    end)
    assert.equal("normal", coroutine.status(thread))
    assert.is_false((coroutine.resume(thread)))
    assert.is_false(coroutine.isyieldable(thread))
    assert.error_matches(function() coroutine.close(thread) end, "cannot close a normal coroutine")
    gate:resolve()
    task:await()
    assert.equal("dead", coroutine.status(thread))
    -- and it is nobody else's: a thread that was seen is not used again
    for _ = 1, 10 do
      unsync.spawn(function() assert.not_equal(thread, (coroutine.running())) end):await()
    end
  end)

  it("raises in the coroutine what ends it", function()
    local caught
    local generator = coroutine.wrap(function()
      local ok, err = pcall(function() unsync.rejected("reason"):await() end)
      caught = {ok, err}
      unsync.yield()
      unsync.rejected({code = "second"}):await()
    end)
    local ok, err = pcall(generator)
    assert.same({false, "reason"}, caught)
    assert.same({false, "second"}, {ok, err.code})
  end)

  it("goes through many levels, a thousand times", function()
    local function level(n)
      return coroutine.wrap(function()
        if n == 0 then
          for i = 1, 1000 do
            unsync.yield()
            coroutine.yield(i)
          end
        else
          for i in level(n - 1) do coroutine.yield(i) end
        end
      end)
    end
    local count = 0
    for _ in level(20) do count = count + 1 end
    assert.equal(1000, count)
  end)

  it("is refused where the coroutine was resumed by code that knows no tasks", function()
    -- Lua's own resume, which the replaced one keeps: as any C library would.
    local _, foreign = debug.getupvalue(coroutine.resume, 2)
    assert.is_function(foreign)
    local co = coroutine.create(function()
      local ok, err = pcall(unsync.yield)
      coroutine.yield(ok, err)
      local inner = coroutine.wrap(function() return pcall(unsync.yield) end) -- not through one of ours either
      coroutine.yield(inner())
      return "goes on"
    end)
    for _ = 1, 2 do
      local resumed, ok, err = foreign(co)
      assert.is_true(resumed)
      assert.is_false(ok)
      assert.equal("unyieldable", err.code)
    end
    assert.same({true, "goes on"}, {foreign(co)})
    unsync.yield()
  end)

  it("is refused behind a C function that cannot wait", function()
    local result
    local object = setmetatable({}, {__tostring = function()
      local generator = coroutine.wrap(function()
        result = table.pack(pcall(unsync.yield))
        coroutine.yield("text")
      end)
      return generator()
    end})
    assert.equal("text", tostring(object))
    assert.is_false(result[1])
    assert.equal("unyieldable", result[2].code)
    unsync.yield()
  end)
end)

describe("a task's body", function()
  it("looks like Lua's main", function()
    unsync.spawn(function()
      local thread, main = coroutine.running()
      assert.equal("thread", type(thread))
      assert.is_true(main)
      assert.is_false(coroutine.isyieldable())
      assert.equal("running", coroutine.status(thread))
      local ok, err = pcall(coroutine.yield, 1)
      assert.same({false, "attempt to yield from outside a coroutine"}, {ok, err})
      coroutine.wrap(function()
        assert.is_true(coroutine.isyieldable())
        assert.is_false(select(2, coroutine.running()))
        assert.equal("normal", coroutine.status(thread))
        unsync.yield()
        assert.is_true(coroutine.isyieldable())
      end)()
      unsync.yield()
      assert.equal(thread, (coroutine.running()))
    end):await()
  end)
end)

describe("coroutine.close", function()
  it("lets clean-up wait while others go on", function()
    local gate = unsync.promise()
    local order = {}
    local co = coroutine.create(function()
      local _ <close> = closable(function(_, err) order[#order + 1] = "outer " .. tostring(err) end)
      local _ <close> = closable(function(_, err)
        order[#order + 1] = "inner " .. tostring(err)
        gate:await()
        order[#order + 1] = "inner goes on"
      end)
      coroutine.yield()
    end)
    coroutine.resume(co)
    local closing = unsync.spawn(function() return coroutine.close(co) end)
    assert.equal("normal", coroutine.status(co))
    assert.error_matches(function() coroutine.close(co) end, "cannot close a normal coroutine")
    order[#order + 1] = "meanwhile"
    gate:resolve()
    assert.is_true(closing:await())
    assert.same({"inner nil", "meanwhile", "inner goes on", "outer nil"}, order)
    assert.equal("dead", coroutine.status(co))
  end)

  it("lets the clean-up of a generator that failed wait", function()
    local order = {}
    local generator = coroutine.wrap(function()
      local _ <close> = closable(function(_, err)
        unsync.sleep(0)
        order[#order + 1] = err
        error("outer", 0)
      end)
      local _ <close> = closable(function(_, err)
        unsync.sleep(0)
        order[#order + 1] = err
        error("inner", 0)
      end)
      unsync.sleep(0)
      error("body", 0)
    end)
    local ok, err = pcall(generator)
    assert.is_false(ok)
    assert.matches("outer$", err)
    assert.same({"body", "inner"}, order)
  end)

  it("runs generators in its clean-up, which may yield", function()
    local sum = 0
    local co = coroutine.create(function()
      local _ <close> = closable(function()
        for i in coroutine.wrap(function()
          for i = 1, 3 do
            unsync.yield()
            coroutine.yield(i)
          end
        end) do
          sum = sum + i
        end
      end)
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.is_true(coroutine.close(co))
    assert.equal(6, sum)
  end)

  it("leaves metatables as they were, and runs nothing of the script meanwhile", function()
    local mt = {__close = function() end}
    local before = mt.__close
    for _ = 1, 200 do
      local co = coroutine.create(function()
        local garbage = setmetatable({}, {__gc = function() assert(mt.__close == before) end})
        local _ <close> = setmetatable({}, mt)
        coroutine.yield(garbage)
      end)
      coroutine.resume(co)
      assert(coroutine.close(co))
      assert(mt.__close == before)
    end
  end)
end)
