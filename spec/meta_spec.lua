--- lua/meta/unsync.lua: the annotations say what is there, and all of it; docs/reference.md is what they say.
local script = require("spec.support.script")
local unsync = require("unsync")
local http, inspect, testing = require("unsync.http"), require("unsync.inspect"), require("unsync.testing")

local source = "lua/meta/unsync.lua"
local items = assert(loadfile("src/tools/annotations.lua"))("module")(script.read_file(source))

local functions, classes = {}, {}
for _, item in ipairs(items) do
  if item.kind == "function" then
    assert(not functions[item.name], item.name .. " is annotated twice")
    functions[item.name] = item
  elseif item.kind == "class" then
    classes[item.name] = item
  end
end

local function methods(value)
  local index = getmetatable(value).__index
  return type(index) == "table" and index or getmetatable(value)
end

--- What is really there, by the name under which the annotations have it: full name -> function.
local function real()
  local _ = { unsync.promise().and_then, unsync.every, unsync.tasks, unsync.why } -- loaded when they are looked at
  local clock <close> = testing.clock()
  local shuffle <close> = testing.shuffle()
  local inline <close> = testing.inline({})
  local tables = {
    ["unsync."] = unsync, ["http."] = http, ["inspect."] = inspect, ["testing."] = testing,
    ["ch:"] = methods(unsync.channel()), ["semaphore:"] = methods(unsync.semaphore(1)),
    ["mutex:"] = methods(unsync.mutex()), ["event:"] = methods(unsync.event()),
    ["barrier:"] = methods(unsync.barrier(1)), ["rate:"] = methods(unsync.rate(1, 1)),
    ["var:"] = methods(unsync.var()), ["scope:"] = unsync.scope(methods),
    ["clock:"] = methods(clock), ["shuffle:"] = methods(shuffle), ["inline:"] = methods(inline),
    ["gate:"] = methods(testing.gate()),
  }
  local found = {}
  for prefix, members in pairs(tables) do
    for name, value in pairs(members) do
      if type(value) == "function" and not (type(name) == "string" and name:find("^_")) then
        found[prefix .. name] = value
      end
    end
  end
  for name, value in pairs(unsync.Future) do
    found[((name == "resolve" or name == "reject") and "promise:" or "future:") .. name] = value
  end
  found["testing.on_keep"] = nil -- what `unsync test` puts there for itself
  return found
end

local function names(set, without)
  local list = {}
  for name in pairs(set) do
    if not without[name] then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

describe("the annotations", function()
  it("are Lua, and have a file for each module", function()
    assert(loadfile(source))
    for _, module in ipairs({ "http", "inspect", "testing" }) do
      local text = script.read_file("lua/meta/unsync/" .. module .. ".lua")
      assert.truthy(text:find("---@meta unsync." .. module .. "\n", 1, true))
      assert.truthy(text:find("---@type unsync." .. module .. "\n", 1, true))
      assert.truthy(classes["unsync." .. module])
    end
  end)

  it("have every public function and method, and none that does not exist", function()
    local there = real()
    assert.same({}, names(there, functions))
    assert.same({}, names(functions, there))
  end)

  it("have the arguments that functions written in Lua have", function()
    for name, value in pairs(real()) do
      local info = debug.getinfo(value, "uS")
      if info.what == "Lua" then
        local order = functions[name].order
        local fixed = order[#order] == "..." and #order - 1 or #order
        local own = name:find(":", 1, true) and 1 or 0
        -- A function that only passes all of it on says nothing of how many there are.
        if info.nparams > own or not info.isvararg then assert.equal(info.nparams - own, fixed, name) end
      end
    end
  end)

  it("say of each argument what it is, by the name it has", function()
    for name, item in pairs(functions) do
      local written = {}
      for i, param in ipairs(item.params) do written[i] = param.name end
      assert.same(item.order, written, name)
      assert.is_true(item.text ~= "" or #item.returns > 0, name .. " says nothing")
    end
  end)

  it("have options that are taken, of the type they say, and others are refused", function()
    local samples = { number = 1, integer = 1, boolean = true, string = "meta_spec" }
    local function nothing() end
    local takers = {
      ["unsync.FunctionOptions"] = function(options) unsync.thread(nothing, options) end,
      ["unsync.MapOptions"] = function(options) unsync.map(nothing, {}, options) end,
      ["unsync.RetryOptions"] = function(options) unsync.retry(nothing, options) end,
      ["unsync.ScopeOptions"] = function(options) unsync.scope(options, nothing) end,
      ["unsync.TestClockOptions"] = function(options) local _ <close> = testing.clock(options) end,
      ["unsync.InlineOptions"] = function(options) local _ <close> = testing.inline(options) end,
    }
    for name, take in pairs(takers) do
      assert.is_true(#classes[name].fields > 0, name)
      for _, field in ipairs(classes[name].fields) do
        local value = samples[field.type]
        if field.type:find("[]", 1, true) then value = { "timeout" } end
        assert(value ~= nil, field.type)
        local ok, err = pcall(take, { [field.name] = value })
        assert.is_true(ok, name .. "." .. field.name .. ": " .. tostring(err))
      end
      assert.is_false(pcall(take, { no_such_option = true }), name)
    end
  end)

  it("name no class that they do not have", function()
    local text = script.read_file(source)
    for name in text:gmatch("@%a+[^\n]-(unsync%.%u%w+)") do assert.truthy(classes[name], name) end
  end)

  it("are what .doc shows", function()
    local reference = require("unsync.reference")
    for name, item in pairs(functions) do
      local full = name:gsub("^http%.", "unsync.%0"):gsub("^testing%.", "unsync.%0"):gsub("^inspect%.", "unsync.%0")
      local entry = assert(reference[full], full)
      assert.equal(item.signature, entry.signature)
      local text = item.text:gsub("`", "")
      assert.equal(text, entry.text:sub(1, #text))
    end
  end)

  it("are what docs/reference.md says: `make reference` writes it anew", function()
    local out = script.output(nil, { options = { "src/tools/annotations.lua", source } })
    assert.equal(out, script.read_file("docs/reference.md"))
  end)
end)
