--- reference: makes the module unsync.reference, which `.doc` shows, of the annotations and, where they have nothing,
--- of the tables in the documentation.
---
---     lua reference.lua OUTPUT lua/meta/unsync.lua docs/lua.md ...
---
--- Of a document with a heading "Reference", what follows it. A row counts whose first cell has a signature in
--- backquotes, as `unsync.scope([opts,] fn)` or `future:cancel([reason])`; its other cell is the text. Rows with an
--- empty first cell go on with that. A table with `opts` at its head belongs to those signatures before it, under the
--- same heading, that mention opts.
local output = ...
local inputs = {select(2, ...)}

--- How a prefix of signatures is called in full.
local modules = {http = "unsync.http", testing = "unsync.testing", inspect = "unsync.inspect"}

local entries = {}

local function plain(text)
  text = text:gsub("%[([^%]`]+)%]%([^%)]+%)", "%1")
  return (text:gsub("`", ""))
end

--- The name under which a signature is known, and the signature; nil where it is none.
local function name_of(signature)
  signature = signature:match("^for .- in (unsync%..*) do$") or signature
  local name = signature:match("^([%a_][%w_]*[.:][%w_.:]*)%s*[%({]")
  if not name then return nil end
  local prefix, rest = name:match("^([%w_]+)(%..*)$")
  if modules[prefix] then name = modules[prefix] .. rest end
  return name, signature
end

--- The entries that the first cell of a row begins.
local function begin(cell)
  local made, first = {}, nil
  for span in cell:gmatch("`([^`]+)`") do
    local name, signature = name_of(span)
    if not name and first and span:match("^[%a_][%w_]*$") then -- `head` beside `http.get(url [, opts])`
      name = first.name:gsub("[%w_]+$", span)
      signature = first.signature:gsub("[%w_]+(%s*%()", span .. "%1", 1)
    end
    if name and not entries[name] then
      local entry = {name = name, signature = signature, text = {}}
      entries[name] = entry
      made[#made + 1] = entry
      first = first or entry
    end
  end
  return made
end

local function read(path)
  local file = assert(io.open(path))
  local all = file:read("a")
  file:close()
  local section, row, options = {}, {}, nil
  for line in (all:match("\n# Reference\n(.*)") or all):gmatch("[^\n]*") do
    local left, right = line:match("^|%s*(.-)%s*|%s*(.-)%s*|$")
    if line:find("^#") then section, row, options = {}, {}, nil end
    if not left then
      row, options = {}, nil
    elseif line:find("^|%-") then
      row = {}
    elseif left == "`opts`" and right == "" then
      options = {}
      for _, entry in ipairs(section) do
        if entry.signature:find("opts", 1, true) then options[#options + 1] = entry end
      end
    elseif options then
      for _, entry in ipairs(options) do entry.text[#entry.text + 1] = plain("  " .. left .. ": " .. right) end
    else
      if left ~= "" then
        row = begin(left)
        for _, entry in ipairs(row) do section[#section + 1] = entry end
      end
      for _, entry in ipairs(row) do
        if right ~= "" then entry.text[#entry.text + 1] = plain(right) end
      end
    end
  end
end

--- What the annotations say of each function: the text, its arguments, the fields of options, what comes back.
local function annotated(path)
  local file <close> = assert(io.open(path))
  local items = assert(loadfile("src/tools/annotations.lua"))("module")(file:read("a"))
  local classes = {}
  for _, item in ipairs(items) do
    if item.kind == "class" then classes[item.name] = item end
  end
  for _, item in ipairs(items) do
    if item.kind == "function" then
      local text = {}
      local function add(format, ...) text[#text + 1] = plain(format:format(...)) end
      if item.text ~= "" then add("%s", item.text) end
      for _, param in ipairs(item.params) do
        if param.note then add("  %s: %s", param.name, param.note) end
        local class = classes[param.type]
        for _, field in ipairs(class and param.optional and class.fields or {}) do
          add("  %s: %s", field.name, field.note or field.type)
        end
      end
      for _, returned in ipairs(item.returns) do
        add("  returns %s%s", returned.type, returned.note and ": " .. returned.note or "")
      end
      local name = name_of(item.signature)
      entries[name] = {name = name, signature = item.signature, text = text}
    end
  end
end

annotated(table.remove(inputs, 1))
for _, path in ipairs(inputs) do read(path) end
local names = {}
for name in pairs(entries) do names[#names + 1] = name end
table.sort(names)
assert(#names > 50, "the tables of the documentation do not look as they did")

local file = assert(io.open(output, "w"))
file:write("--- Made by src/tools/reference.lua from docs/.\nreturn {\n")
for _, name in ipairs(names) do
  local entry = entries[name]
  file:write(("  [%q] = {signature = %q, text = %q},\n"):format(name, entry.signature,
    table.concat(entry.text, "\n")))
end
file:write("}\n")
assert(file:close())
