--- annotations: reads lua/meta/unsync.lua, for the reference in docs/ and the one that `.doc` shows.
---
---     lua annotations.lua lua/meta/unsync.lua > docs/reference.md
---     local read = loadfile("annotations.lua")("module")      -- read(text): the list of what is in it
---
--- An item is {kind = "heading"|"class"|"function", text = …}. A class has `name`, `parent`, `fields` and `object`, the
--- variable it is written under, if any; a function has `name` (`future:await`), `signature`, `params` and `returns`. A
--- param, field or return has `name`, `optional`, `type` and `note`.
local mode = ...

--- What an annotation's line says before and after the two spaces that part the type from the note.
local function parted(text)
  local left, note = text:match("^(.-)%s%s+(.*)$")
  return left or text, note
end

local function with_optional(name) return name:gsub("%?$", ""), name:sub(-1) == "?" end

--- `url [, opts]`, or `[opts,] fn` where what follows is needed.
local function arguments(order, params)
  local parts, last_needed = {}, 0
  for i, name in ipairs(order) do
    if not (params[name] and params[name].optional) then last_needed = i end
  end
  if order[last_needed] == "..." then last_needed = last_needed - 1 end
  local before, open = "", 0
  for i, name in ipairs(order) do
    local optional = params[name] and params[name].optional
    if optional and i < last_needed then
      parts[#parts + 1] = before .. "[" .. name .. ",] "
      before = ""
    elseif optional then
      parts[#parts + 1] = (i > 1 and " [, " or "[") .. name
      open = open + 1
    else
      parts[#parts + 1] = before .. name
      before = ", "
    end
  end
  return table.concat(parts) .. ("]"):rep(open)
end

local function read(text)
  local items, block, class = {}, nil, nil
  local function open()
    block = block or { text = {}, params = {}, returns = {} }
    return block
  end
  for line in text:gmatch("([^\n]*)\n") do
    local doc = line:match("^%-%-%-(.*)$")
    local tag, rest = (doc or ""):match("^@(%a+)%s*(.*)$")
    if doc and doc:find("^## ") then
      items[#items + 1] = { kind = "heading", text = doc:sub(4) }
    elseif tag == "class" then
      local name, parent = rest:match("^([%w_.]+):?%s*([%w_.]*)$")
      class = { kind = "class", name = name, parent = parent ~= "" and parent or nil, fields = {},
        text = table.concat(open().text, " ") }
      items[#items + 1] = class
    elseif tag == "field" then
      local name, kind = rest:match("^(%S+)%s+(.*)$")
      local field = {}
      field.name, field.optional = with_optional(name)
      field.type, field.note = parted(kind)
      class.fields[#class.fields + 1] = field
    elseif tag == "param" then
      local name, kind = rest:match("^(%S+)%s+(.*)$")
      local param = {}
      param.name, param.optional = with_optional(name)
      param.type, param.note = parted(kind)
      local params = open().params
      params[#params + 1], params[param.name] = param, param
    elseif tag == "return" then
      local returned = {}
      returned.type, returned.note = parted(rest)
      local returns = open().returns
      returns[#returns + 1] = returned
    elseif doc and not tag then
      table.insert(open().text, doc)
    elseif not doc then
      local name, list = line:match("^function ([%w_.:]+)%((.-)%) end$")
      local object = line:match("^local ([%w_]+) = {}$")
      if object and class then
        class.object, class = object, nil
      elseif name then
        local order = {}
        for argument in list:gmatch("[^,%s]+") do order[#order + 1] = argument end
        local got = open()
        items[#items + 1] = { kind = "function", name = name, order = order, params = got.params,
          returns = got.returns, text = table.concat(got.text, " "),
          signature = ("%s(%s)"):format(name, arguments(order, got.params)) }
      end
      block = nil
    end
  end
  return items
end

if mode == "module" then return read end

local file <close> = assert(io.open(mode))

local out = { [[
# The reference

Every function, method and option, as the annotations in [unsync.lua](../lua/meta/unsync.lua) have them; `make
reference` writes this file. [lua.md](lua.md) is the guide. An argument in brackets may be left out. At the prompt,
`.doc NAME` shows the same.]] }
local function add(text, ...) out[#out + 1] = select("#", ...) > 0 and text:format(...) or text end

local function note(one) return one.note and ": " .. one.note or "" end

local function rows(list)
  for _, one in ipairs(list) do
    add("- `%s`, %s`%s`%s", one.name, one.optional and "optional " or "", one.type, note(one))
  end
end

for _, item in ipairs(read(file:read("a"))) do
  if item.kind == "heading" then
    add("\n## %s", item.text)
  elseif item.kind == "class" then
    add("\n### %s%s", item.name, item.parent and ": " .. item.parent or "")
    if item.text ~= "" then add("\n%s", item.text) end
    if #item.fields > 0 then add("") end
    rows(item.fields)
  else
    add("\n#### `%s`", item.signature)
    if item.text ~= "" then add("\n%s", item.text) end
    if #item.params > 0 or #item.returns > 0 then add("") end
    rows(item.params)
    for _, one in ipairs(item.returns) do add("- returns `%s`%s", one.type, note(one)) end
  end
end
io.write(table.concat(out, "\n"), "\n")
