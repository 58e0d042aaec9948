-- unsync.once: a value made at its first use in each state, and kept there.
local unsync = require("unsync")
local script = require("spec.support.script")

describe("unsync.once", function()
  it("makes the value at the first call, and returns it ever after, nils included", function()
    local made = 0
    local get = unsync.once(function()
      made = made + 1
      return {}, nil, made
    end)
    assert.equal(0, made)
    local first = table.pack(get())
    local second = table.pack(get())
    assert.equal(1, made)
    assert.equal(3, first.n)
    assert.equal(first[1], second[1])
    assert.same(first, second)
  end)

  it("gives the function no arguments to depend on, or those of the first call only", function()
    local get = unsync.once(function(...) return select("#", ...) end)
    local first = get("a", "b")
    assert.equal(first, get())
  end)

  it("makes it once, although several tasks ask while it is being made", function()
    local made, gate = 0, unsync.promise()
    local get = unsync.once(function()
      made = made + 1
      gate:await()
      return "made"
    end)
    local tasks = {}
    for i = 1, 5 do tasks[i] = unsync.spawn(get) end
    unsync.yield()
    gate:resolve()
    for i = 1, 5 do assert.equal("made", tasks[i]:await()) end
    assert.equal(1, made)
  end)

  it("tries again after an error, which is raised as it is", function()
    local tries = 0
    local get = unsync.once(function()
      tries = tries + 1
      if tries == 1 then error("first try", 0) end
      return tries
    end)
    assert.has_error(get, "first try")
    assert.equal(2, get())
    assert.equal(2, get())
  end)

  it("keeps one value for each state, from call to call", function()
    assert.equal("1\t2\t3\ttrue\n", script.output([[
      local unsync = require "unsync"
      local counter = unsync.once(function() return {n = 0} end)
      local function count()
        local c = counter()
        c.n = c.n + 1
        return c.n
      end
      local there = unsync.thread(count)
      -- One call after the other, so the same worker takes them.
      local first, second, third = there():await(), there():await(), there():await()
      print(first, second, third, count() == 1)
    ]]))
  end)

  it("tells two apart that look alike", function()
    local function maker(name) return unsync.once(function() return name end) end
    local a, b = maker("a"), maker("b")
    assert.equal("a", a())
    assert.equal("b", b())
    local read = unsync.thread(function() return a(), b() end)
    assert.same({"a", "b"}, {read():await()})
    assert.same({"a", "b"}, {read():await()})
  end)

  it("is new where each call has a new state", function()
    local counter = unsync.once(function() return {n = 0} end)
    local count = unsync.thread(function()
      local c = counter()
      c.n = c.n + 1
      return c.n
    end, {fresh = true})
    assert.equal(1, count():await())
    assert.equal(1, count():await())
  end)

  it("refuses what is no function", function()
    assert.error_matches(function() unsync.once() end, "function expected")
    assert.error_matches(function() unsync.once(12) end, "function expected")
  end)
end)
