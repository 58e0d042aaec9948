-- The layers: includes and requires point one way, and nowhere in a circle.
local script = require("spec.support.script")

-- The upper first: a file may include its own layer's and those below.
local layers = {"host", "bind", "exec", "loop", "core", "base"}
local rank = {}
for i, layer in ipairs(layers) do rank[layer] = i end

local function list(pattern)
  local files = {}
  local pipe <close> = assert(io.popen("ls " .. pattern .. " 2>/dev/null"))
  for line in pipe:lines() do files[#files + 1] = line end
  return files
end

--- The source without comments: what is written in one includes nothing.
local function code_of(path)
  return (script.read_file(path):gsub("/%*.-%*/", ""):gsub("//[^\n]*", ""))
end

--- What `path` includes of ours.
local function includes(path)
  local found = {}
  for name in code_of(path):gmatch('#%s*include%s+"([^"]+)"') do found[#found + 1] = name end
  return found
end

--- The first circle in `graph` (name -> list of names), as "a -> b -> a"; nil if there is none.
local function circle(graph)
  local state, stack = {}, {}
  local function visit(name)
    if state[name] == "done" then return nil end
    stack[#stack + 1] = name
    if state[name] == "open" then return table.concat(stack, " -> ") end
    state[name] = "open"
    for _, below in ipairs(graph[name] or {}) do
      local found = visit(below)
      if found then return found end
    end
    state[name] = "done"
    stack[#stack] = nil
    return nil
  end
  for name in pairs(graph) do
    local found = visit(name)
    if found then return found end
  end
  return nil
end

describe("the layers of src/", function()
  local files = list("src/*/*.[ch] src/*.c")

  it("are there", function()
    assert.is_true(#files > 40)
    for _, layer in ipairs(layers) do assert.is_true(#list("src/" .. layer .. "/*.c") > 0, layer) end
  end)

  it("are told file by file in docs/design.md, where who looks for a subject finds it", function()
    local told = {}
    for line in script.read_file("docs/design.md"):gmatch("[^\n]+") do
      local layer, subjects = line:match("^| `(%w+)/` |([^|]*)|$")
      for name in (subjects or ""):gmatch("`([%w_]+)`") do told[layer .. "/" .. name] = true end
    end
    local missing, there = {}, {}
    for _, path in ipairs(files) do
      local name = path:match("^src/(%w+/[%w_]+)%.[ch]$")
      if name and rank[name:match("^%w+")] then
        there[name] = true
        if not told[name] then missing[name] = "is in no line of \"Where a subject is\"" end
      end
    end
    for name in pairs(told) do
      if not there[name] then missing[name] = "is told, and not there" end
    end
    assert.same({}, missing)
  end)

  it("include nothing from a layer above", function()
    local wrong = {}
    for _, path in ipairs(files) do
      local own = path:match("^src/(%w+)/")
      for _, name in ipairs(includes(path)) do
        local other = name:match("^(%w+)/")
        if rank[own] and rank[other] and rank[other] < rank[own] then
          wrong[#wrong + 1] = path .. " includes " .. name
        end
      end
    end
    assert.same({}, wrong)
  end)

  it("name what they include by its layer, or by include/", function()
    local wrong = {}
    for _, path in ipairs(files) do
      for _, name in ipairs(includes(path)) do
        if path:match("^src/tools/") then break end -- they stand beside the layers
        local known = rank[name:match("^(%w+)/")] and "src/" .. name or "include/" .. name
        if not pcall(script.read_file, known) then wrong[#wrong + 1] = path .. " includes " .. name end
      end
    end
    assert.same({}, wrong)
  end)

  it("make no circle", function()
    local graph = {}
    for _, path in ipairs(files) do
      local name = path:match("^src/(.*)$")
      graph[name] = includes(path)
    end
    assert.is_nil(circle(graph))
  end)

  it("would be found wrong, if they were", function()
    assert.truthy(circle({a = {"b"}, b = {"a"}}))
    assert.equal("a -> a", circle({a = {"a"}}))
    assert.is_nil(circle({a = {"b", "c"}, b = {"c"}, c = {}}))
  end)
end)

describe("the modules of lua/", function()
  local files = list("lua/unsync/*.lua lua/unsync/*/*.lua")

  local function requires(path)
    local found = {}
    local text = script.read_file(path):gsub("%-%-%[%[.-%]%]", ""):gsub("%-%-[^\n]*", "")
    for name in text:gmatch("require%s*%(?%s*[\"']([%w_.]+)[\"']") do
      if not name:match("%.$") then found[#found + 1] = name end -- the rest of the name is made where it runs
    end
    return found
  end

  local function module_name(path)
    return (path:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", "."))
  end

  it("require nothing of the project's that is not there", function()
    local known = {["unsync.core"] = true, ["unsync.reference"] = true} -- in C; made of docs/ when it is built
    for _, path in ipairs(files) do known[module_name(path)] = true end
    local wrong = {}
    for _, path in ipairs(files) do
      for _, name in ipairs(requires(path)) do
        local ours = name == "unsync" or name:match("^unsync%.")
        if ours and not known[name] and not name:match("^unsync%.core") then
          wrong[#wrong + 1] = path .. " requires " .. name
        end
      end
    end
    assert.same({}, wrong)
  end)

  it("make no circle", function()
    local graph = {}
    for _, path in ipairs(files) do graph[module_name(path)] = requires(path) end
    assert.is_nil(circle(graph))
  end)

  it("load from disk, too, where UNSYNC_LUA names it", function()
    local names = {}
    for _, path in ipairs(files) do names[#names + 1] = module_name(path) end
    assert.equal("ok\n", script.output("for _, name in ipairs(arg) do require(name) end print('ok')",
      {args = names, env = {UNSYNC_LUA = "lua"}}))
    assert.equal("ok\n", script.output("for _, name in ipairs(arg) do require(name) end print('ok')", {args = names}))
  end)
end)

describe("the public headers", function()
  it("need nothing of Lua's or libuv's, where they promise so", function()
    local plugin = code_of("include/unsync_plugin.h")
    assert.is_nil(plugin:match("lua%.h"))
    assert.is_nil(plugin:match("uv%.h"))
  end)
end)
