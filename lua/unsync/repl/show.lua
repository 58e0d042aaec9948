--- show: a value as text that a person reads, and mostly as Lua that makes it again.
---
--- Nothing here calls into a table but its __tostring and __name: a value with metamethods is shown as what it is, and
--- showing it changes nothing. What is long, deep or wide is cut, and says so.
local is_future = require("unsync.core").is_future

local show = {}

---@class unsync.repl.ShowOptions
---@field width? integer  columns that a table on one line may take; default: 80
---@field depth? integer  tables inside tables; default: 4
---@field items? integer  fields of one table; default: 60
---@field total? integer  fields in all; default: 200
---@field text? integer  bytes of one string; default: 2000
---@field color? boolean

local colors = {
  string = "\27[32m", number = "\27[36m", boolean = "\27[33m", ["nil"] = "\27[33m", other = "\27[35m", note = "\27[2m",
  bad = "\27[31m", good = "\27[32m",
}

--- `text` in the colour of a kind of value.
local function paint(state, kind, text)
  if not state.color then return text end
  return (colors[kind] or colors.other) .. text .. "\27[0m"
end

local short = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ["\a"] = "\\a", ["\b"] = "\\b", ["\27"] = "\\27",
  ["\0"] = "\\0", ['"'] = '\\"', ["\\"] = "\\\\" }

local function escape(character, following)
  local known = short[character]
  if known and not (following:match("^%d") and known:match("%d$")) then return known end
  return ("\\x%02X"):format(character:byte())
end

--- Escapes what would not be seen, or would move the cursor; text in UTF-8 stays.
local function quoted_part(text)
  return (text:gsub('()([%c"\\\127])', function(at, character) return escape(character, text:sub(at + 1, at + 1)) end))
end

local function quote(text)
  local parts, at = {}, 1
  while at <= #text do
    local _, bad = utf8.len(text, at)
    if not bad then
      parts[#parts + 1] = quoted_part(text:sub(at))
      break
    end
    parts[#parts + 1] = quoted_part(text:sub(at, bad - 1))
    parts[#parts + 1] = ("\\x%02X"):format(text:byte(bad))
    at = bad + 1
  end
  -- The control characters of C1, as UTF-8, command terminals too.
  return '"' .. table.concat(parts):gsub("\194([\128-\159])", function(second)
    return ("\\xC2\\x%02X"):format(second:byte())
  end) .. '"'
end

--- Columns of `text` on a screen, colours not counted; a guess where characters are wide.
local function columns(text)
  local plain = text:gsub("\27%[[%d;]*m", "")
  return utf8.len(plain, 1, -1, true) or #plain
end

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
  until while]]):gmatch("%a+") do keywords[word] = true end

local function is_name(key)
  return type(key) == "string" and key:match("^[%a_][%w_]*$") ~= nil and not keywords[key]
end

local rank = { number = 1, string = 2, boolean = 3 }

local function before(a, b)
  local kind_a, kind_b = type(a), type(b)
  if kind_a ~= kind_b then return (rank[kind_a] or 9) < (rank[kind_b] or 9) end
  if kind_a == "number" or kind_a == "string" then return a < b end
  return tostring(a) < tostring(b)
end

local render

local function render_string(state, text)
  local cut = ""
  if #text > state.text then
    local stop = state.text
    while stop > 1 and (text:byte(stop + 1) & 0xC0) == 0x80 do stop = stop - 1 end
    cut = paint(state, "note", (" --[[ %d bytes in all ]]"):format(#text))
    text = text:sub(1, stop)
  end
  return paint(state, "string", quote(text)) .. cut
end

local function render_function(state, fn)
  local info = debug.getinfo(fn, "S")
  if info.what == "C" then return paint(state, "other", tostring(fn)) end
  return paint(state, "other", ("function <%s:%d>"):format(info.short_src, info.linedefined))
end

--- An error as one line: what `tostring` says, or what it is.
local function error_text(err)
  local meta = getmetatable(err)
  if type(err) == "table" and not (type(meta) == "table" and rawget(meta, "__tostring")) then
    return nil
  end
  local fine, text = pcall(tostring, err)
  return fine and text or "(an error object whose tostring failed)"
end

local function render_future(state, future, indent, path)
  local text, status = tostring(future), future:status()
  if status == "done" then
    local values = table.pack(future:await())
    local shown = {}
    for i = 1, values.n do shown[i] = render(state, values[i], indent, path .. ":await()") end
    if values.n == 0 then return paint(state, "other", text) end
    return paint(state, "other", text .. ":") .. " " .. table.concat(shown, ", ")
  elseif status == "failed" then
    local err = future:error()
    local what = error_text(err) or render(state, err, indent, path .. ":error()")
    return paint(state, "bad", text .. ":") .. " " .. what
  end
  return paint(state, "other", text)
end

--- What __tostring says, nil where there is none.
local function own_text(value)
  local meta = debug.getmetatable(value)
  local method = type(meta) == "table" and rawget(meta, "__tostring")
  if not method then return nil end
  local fine, text = pcall(method, value)
  if fine and type(text) == "string" then return text end
  return ("%s (whose tostring failed)"):format(type(value))
end

local function address(value)
  return (("%p"):format(value):gsub("^0x0*", "0x"))
end

--- The keys that are no part of the list 1..length, sorted, at most `state.items` of them; and how many there are.
local function other_keys(state, value, length)
  local keys, count = {}, 0
  for key in next, value do
    if not (math.type(key) == "integer" and key >= 1 and key <= length) then
      count = count + 1
      if count <= 10000 then keys[count] = key end -- sorting a huge one would take long, for nothing
    end
  end
  table.sort(keys, before)
  for i = #keys, state.items + 1, -1 do keys[i] = nil end
  return keys, count
end

local function list_length(value)
  local length = rawlen(value)
  for i = 1, math.min(length, 1000) do -- with holes it is shown by its keys
    if rawget(value, i) == nil then return i - 1 end
  end
  return length
end

local function key_path(path, key)
  if is_name(key) then return path .. "." .. key end
  if type(key) == "number" or type(key) == "boolean" then return ("%s[%s]"):format(path, tostring(key)) end
  if type(key) == "string" and #key < 40 then return ("%s[%s]"):format(path, quote(key)) end
  return path .. "[…]"
end

local function layout(state, items, indent, open)
  local width, lines = columns(open) + 3, false
  for _, item in ipairs(items) do
    width = width + columns(item) + 2
    if item:find("\n", 1, true) then lines = true end
  end
  if not lines and indent + width <= state.width then
    return open .. " " .. table.concat(items, ", ") .. " }"
  end
  local pad = (" "):rep(indent + 2)
  return open .. "\n" .. pad .. table.concat(items, ",\n" .. pad) .. "\n" .. (" "):rep(indent) .. "}"
end

--- Short values of a long list, as many on a line as there is room for.
local function fill(state, items, indent, open)
  local pad, room = (" "):rep(indent + 2), state.width - indent - 2
  local lines, line, used = {}, {}, 0
  for _, item in ipairs(items) do
    local size = columns(item) + 2
    if used + size > room and #line > 0 then
      lines[#lines + 1] = table.concat(line, ", ")
      line, used = {}, 0
    end
    line[#line + 1] = item
    used = used + size
  end
  lines[#lines + 1] = table.concat(line, ", ")
  return open .. "\n" .. pad .. table.concat(lines, ",\n" .. pad) .. "\n" .. (" "):rep(indent) .. "}"
end

local function is_short(item) return columns(item) <= 12 and not item:find("\n", 1, true) end

local function render_table(state, value, indent, path)
  local seen = state.open[value]
  if seen then return paint(state, "note", "<cycle: " .. seen .. ">") end
  local meta = debug.getmetatable(value)
  local class = type(meta) == "table" and rawget(meta, "__name")
  local open = (type(class) == "string" and paint(state, "note", class .. " ") or "") .. "{"
  if next(value) == nil then return open .. "}" end
  if state.level >= state.depth then return open .. paint(state, "note", "…") .. "}" end
  state.open[value], state.level = path, state.level + 1

  local items, length, plain = {}, list_length(value), true
  local shown = 0
  local function more()
    shown, state.left = shown + 1, state.left - 1
    return state.left >= 0 and shown <= state.items
  end
  local left_out = 0
  for i = 1, length do
    if not more() then
      left_out = length - i + 1
      break
    end
    items[#items + 1] = render(state, rawget(value, i), indent + 2, ("%s[%d]"):format(path, i))
    plain = plain and is_short(items[#items])
  end
  local keys, count = other_keys(state, value, length)
  for i, key in ipairs(keys) do
    if not more() then
      left_out = left_out + count - i + 1
      count = #keys
      break
    end
    plain = false
    local label = is_name(key) and key or "[" .. render(state, key, indent + 2, "…") .. "]"
    items[#items + 1] = label .. " = " .. render(state, rawget(value, key), indent + 2, key_path(path, key))
  end
  if count > #keys then left_out = left_out + count - #keys end
  if left_out > 0 then items[#items + 1] = paint(state, "note", ("… %d more"):format(left_out)) end

  state.open[value], state.level = nil, state.level - 1
  local text = layout(state, items, indent, open)
  if plain and #items > 8 and text:find("\n", 1, true) then return fill(state, items, indent, open) end
  return text
end

function render(state, value, indent, path)
  local kind = type(value)
  if kind == "string" then return render_string(state, value) end
  if kind == "number" or kind == "boolean" or kind == "nil" then return paint(state, kind, tostring(value)) end
  if is_future(value) then return render_future(state, value, indent, path) end
  local text = own_text(value)
  if text then return paint(state, "other", quoted_part(text):gsub("\\n", "\n")) .. "" end
  if kind == "table" then return render_table(state, value, indent, path) end
  if kind == "function" then return render_function(state, value) end
  local meta = debug.getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return paint(state, "other", ("%s: %s"):format(type(name) == "string" and name or kind, address(value)))
end

--- `value` as text, of several lines where it is large.
---@param value any
---@param options? unsync.repl.ShowOptions
---@return string
function show.value(value, options)
  options = options or {}
  local state = {
    width = options.width or 80, depth = options.depth or 4, items = options.items or 60, left = options.total or 200,
    text = options.text or 2000, color = options.color, open = {}, level = 0,
  }
  return render(state, value, 0, options.path or "_")
end

--- `text` in the colour of "bad", "good" or "note", where there are colours.
function show.paint(color, kind, text) return paint({ color = color }, kind, text) end

show.quote, show.is_name, show.error_text = quote, is_name, error_text

return show
