--- complete: what may follow the text before the cursor: names, fields, methods, modules, commands.
---
--- It looks into tables without calling anything of theirs, so that pressing Tab changes nothing.
local is_future = require("unsync.core").is_future

local complete = {}

local keywords = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while" }

--- Parts of a table that are only there once they have been looked for.
local hidden = { [require("unsync")] = { "every", "http", "tasks", "testing", "why" } }

--- What indexing finds without a call: the table of fields of a value, nil for none.
local function fields_of(value)
  if type(value) == "table" then return value end
  local meta = debug.getmetatable(value)
  local index = type(meta) == "table" and rawget(meta, "__index")
  return type(index) == "table" and index or nil
end

--- The tables that indexing `value` looks through, the first first.
local function chain(value)
  if is_future(value) then local _ = value.and_then end -- the rest of its methods is loaded when one is looked for
  local list, table_ = {}, fields_of(value)
  while table_ and #list < 20 do
    list[#list + 1] = table_
    local meta = debug.getmetatable(table_)
    local index = type(meta) == "table" and rawget(meta, "__index")
    table_ = type(index) == "table" and index or nil
  end
  return list
end

local function field(value, name)
  for _, fields in ipairs(chain(value)) do
    local found = rawget(fields, name)
    if found ~= nil then return found end
  end
  return nil
end

local function is_callable(value)
  local meta = debug.getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and rawget(meta, "__call") ~= nil
end

local function starts_with(text, prefix) return text:sub(1, #prefix) == prefix end

--- Sorted, each once.
local function set()
  local list, seen = {}, {}
  return list, function(text)
    if not seen[text] then
      seen[text] = true
      list[#list + 1] = text
    end
  end
end

local function members(value, prefix, callable)
  local list, add = set()
  for _, fields in ipairs(chain(value)) do
    for name, member in next, fields do
      if type(name) == "string" and name:match("^[%a_][%w_]*$") and starts_with(name, prefix) and
        (prefix ~= "" or name:sub(1, 2) ~= "__") and (not callable or is_callable(member)) then
        add(name)
      end
    end
  end
  for _, name in ipairs(hidden[value] or {}) do
    if starts_with(name, prefix) then add(name) end
  end
  return list
end

local function names(session, prefix)
  local list, add = set()
  for _, name in ipairs(members(_G, prefix)) do add(name) end
  for name in pairs(session.cells) do
    if starts_with(name, prefix) then add(name) end
  end
  for _, word in ipairs(keywords) do
    if starts_with(word, prefix) and prefix ~= "" then add(word) end
  end
  return list
end

--- Modules that `require` would find: what is loaded, preloaded, compiled in, and files of package.path and cpath.
local function modules(host, prefix)
  local list, add = set()
  local function offer(name)
    if starts_with(name, prefix) and not name:find("^unsync%.core") and not name:find("^unsync%.repl") and
      not name:find("^_") then
      add(name)
    end
  end
  for name in pairs(package.loaded) do offer(name) end
  for name in pairs(package.preload) do offer(name) end
  for _, name in ipairs(host.modules()) do offer(name) end
  local parent = prefix:match("^(.*%.)[^.]*$") or ""
  local below = parent:gsub("%.", "/")
  for template in (package.path .. ";" .. package.cpath):gmatch("[^;]+") do
    local head, tail = template:match("^([^?]*)%?(.*)$")
    if head then
      local directory = (head == "" and "./" or head) .. below
      for _, file in ipairs(host.list_directory(directory)) do
        local name = file
        local rest = tail:match("^/[^/]*$") and "" or tail -- ?/init.lua: the directory itself is the module
        if name:sub(1, 1) ~= "." and #name > #rest and name:sub(#name - #rest + 1) == rest then
          name = name:sub(1, #name - #rest)
          if name:match("^[%w_-]+$") and (rest ~= "" or host.is_file(directory .. name .. tail)) then
            offer(parent .. name)
          end
        end
      end
    end
  end
  return list
end

--- The value of `a.b.c`, from the session's locals and the globals; nil where there is none.
local function value_of(session, path)
  local value
  for name in path:gmatch("[%w_]+") do
    if value == nil then
      local found
      found, value = session:get(name)
      if not found then value = rawget(_G, name) end
    else
      value = field(value, name)
    end
    if value == nil then return nil end
  end
  return value
end

--- What may stand in the place of the end of `text`, what is before the cursor.
---@return string start  the part that is to be completed
---@return string[] candidates  sorted; each begins with `start`
function complete.candidates(session, host, commands, text)
  local found
  local start = text:match("require%s*%(?%s*[\"']([%w_.-]*)$")
  if start then
    found = modules(host, start)
  elseif text:match("^%s*%.[%a]*$") then
    start = text:match("^%s*%.([%a]*)$")
    found = {}
    for _, name in ipairs(commands) do
      if starts_with(name, start) then found[#found + 1] = name end
    end
  else
    local path, mark, prefix = text:match("([%a_][%w_%.]*)([.:])([%w_]*)$")
    local before = path and text:sub(1, #text - #path - #mark - #prefix):sub(-1)
    if path and not before:match("[%w_%.:%)%]]") then
      start = prefix
      local value = value_of(session, path)
      found = value ~= nil and members(value, prefix, mark == ":") or {}
    elseif path then
      start, found = prefix, {}
    else
      start = text:match("([%a_][%w_]*)$") or ""
      local previous = text:sub(1, #text - #start):sub(-1)
      if previous:match("[%.:%d]") then found = {} else found = names(session, start) end
    end
  end
  table.sort(found)
  return start, found
end

--- The longest text that all of `list` begin with.
function complete.common(list)
  local common = list[1] or ""
  for _, text in ipairs(list) do
    while not starts_with(text, common) do common = common:sub(1, -2) end
  end
  return common
end

return complete
