-- require in a world of tasks: what it does in stock Lua, and modules whose bodies wait.
local unsync = require("unsync")
local gate = require("spec.support.gate")
local script = require("spec.support.script")
local stock = require("spec.support.stock")
local turns_of_others = require("spec.support.turns")

local select = select -- what crosses to a worker brings its upvalues, and busted's environment must not be one

describe("require", function()
  local function module(name, text) return script.file(name .. ".lua", text) end
  local path = package.path

  setup(function() package.path = script.path("?.lua") .. ";" .. package.path end)
  teardown(function() package.path = path end)
  after_each(function()
    for name in pairs(package.loaded) do
      if name:find("^spec_module") then package.loaded[name] = nil end
    end
  end)

  it("is as in stock Lua", function()
    module("spec_module_returns", "wait() return {...}")
    module("spec_module_nothing", "wait()")
    module("spec_module_false", "wait() return false")
    module("spec_module_sets", "wait() package.loaded[...] = 'set' ")
    module("spec_module_fails", "wait() error('on purpose')")
    module("spec_module_syntax", "return return")
    module("spec_module_yields", "return coroutine.yield(1)")
    stock.compare(([[
      _G.wait = wait
      package.path = %q
      package.cpath = "/nowhere/?.so"
      local function shown(ok, value, ...)
        if type(value) == "table" then value = table.concat(value, ",") end
        show(ok, value, ...)
      end
      for _, name in ipairs {"returns", "nothing", "false", "sets", "fails", "syntax", "missing"} do
        name = "spec_module_" .. name
        shown(pcall(require, name))
        shown(pcall(require, name))
        show(package.loaded[name] ~= nil)
      end
      try(require)
      try(require, {})
      try(require, 12)
      try(require, "string")
      package.preload.spec_module_preloaded = function(...) wait() return select("#", ...) .. select(2, ...) end
      try(require, "spec_module_preloaded")
      try(require, "spec_module_preloaded")
      local searchers = package.searchers
      table.insert(searchers, 2, function(name)
        wait()
        if name:find("made$") then return function(...) wait() return "made", ... end, "extra" end
      end)
      table.insert(searchers, 3, function(name) return "\n\tnot by the third" end)
      try(require, "spec_module_made")
      try(require, "spec_module_missing")
      package.searchers = nil
      try(require, "spec_module_other")
      package.searchers = setmetatable({}, {__index = searchers})
      try(require, "spec_module_other")
      package.searchers = {function() return {} end, function() end, function() return 42 end}
      try(require, "spec_module_other")
      package.searchers = {1}
      try(require, "spec_module_other")
      package.searchers = searchers
      local co = coroutine.create(function() return require("spec_module_yields") end)
      show(coroutine.resume(co))
      try(function() require("spec_module_missing") end)
    ]]):format(script.path("?.lua")))
  end)

  it("lets a module's body wait, with its own line in errors", function()
    module("spec_module_waits", [[
      local unsync = require("unsync")
      unsync.sleep(0.005)
      return {name = ..., extra = unsync.resolved(42):await()}
    ]])
    local turns, loaded, where = turns_of_others(require, "spec_module_waits")
    assert.same({name = "spec_module_waits", extra = 42}, loaded)
    assert.matches("spec_module_waits.lua$", where)
    assert.is_true(turns > 0)
  end)

  it("loads once, although several tasks ask meanwhile", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_once", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      return {}
    ]])
    local futures = {}
    for i = 1, 5 do futures[i] = unsync.spawn(require, "spec_module_once") end
    local in_generator = unsync.spawn(coroutine.wrap(function() return require("spec_module_once") end))
    assert.equal("running", futures[5]:status())
    _G.spec_gate:resolve()
    local first = futures[1]:await()
    for i = 2, 5 do assert.equal(first, (futures[i]:await())) end
    assert.equal(first, (in_generator:await()))
    assert.equal(1, _G.spec_loads)
  end)

  it("lets the next one try, where the first failed", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_second", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      if spec_loads == 1 then error("the first fails") end
      return "loaded at " .. spec_loads
    ]])
    local first, second, third
    for _, set in ipairs({function(f) first = f end, function(f) second = f end, function(f) third = f end}) do
      set(unsync.spawn(require, "spec_module_second"))
    end
    _G.spec_gate:resolve()
    assert.error_matches(function() first:await() end, "the first fails")
    assert.equal("loaded at 2", (second:await()))
    assert.equal("loaded at 2", (third:await()))
    assert.equal(2, _G.spec_loads)
  end)

  it("says that a wait in a circle cannot end", function()
    _G.spec_unsync = unsync
    module("spec_module_circle", [[
      return spec_unsync.spawn(function() return require("spec_module_circle") end):await()
    ]])
    local ok, err = pcall(require, "spec_module_circle") -- no limit: a timer would be hope
    assert.is_false(ok)
    assert.matches("deadlock", tostring(err))
    package.loaded.spec_module_circle = nil
  end)

  it("keeps waiting for a module where another who waited was cancelled", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_cancelled", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      return spec_loads
    ]])
    local first = unsync.spawn(require, "spec_module_cancelled")
    local second = unsync.spawn(require, "spec_module_cancelled")
    second:cancel()
    assert.equal("cancelled", (select(2, pcall(second.await, second))).code)
    local third = unsync.spawn(require, "spec_module_cancelled")
    unsync.yield()
    assert.is_false(third:done())
    _G.spec_gate:resolve()
    assert.equal(1, (third:await()))
    assert.equal(1, (first:await()))
  end)

  it("loads again a module that leads back to itself, as stock Lua does", function()
    _G.spec_loads = 0
    module("spec_module_back", [[
      spec_loads = spec_loads + 1
      if spec_loads == 1 then return {inner = require("spec_module_back")} end
      return spec_loads
    ]])
    assert.same({inner = 2}, (require("spec_module_back")))
    assert.equal(2, _G.spec_loads)
  end)

  it("does not keep others waiting for a coroutine that has failed and was left so", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_dropped", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      if spec_loads == 1 then error("dropped") end
      return spec_loads
    ]])
    local co = coroutine.create(function() require("spec_module_dropped") end)
    local dropped = unsync.spawn(function() return coroutine.resume(co) end)
    local second = unsync.spawn(require, "spec_module_dropped")
    _G.spec_gate:resolve()
    assert.is_false((dropped:await()))
    assert.equal(2, (gate.within(second, 10)))
    assert.is_false((coroutine.close(co)))
  end)
end)
