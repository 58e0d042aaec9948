--- explain: the text of an error that nobody handles, for people: what is not theirs is left out of the traceback, and
--- a name of ours that is probably misspelt is told. Loaded when there is such an error.
local concat, find, match, gmatch, sub = table.concat, string.find, string.match, string.gmatch, string.sub
local pairs, type, rawget, pcall, require = pairs, type, rawget, pcall, require
local loaded, registry = package.loaded, debug.getregistry()

local codes = {bad = "1;31", hint = "33", dim = "2"}

-- ---- the traceback ----

--- Frames of C and of our own modules say nothing about the script.
local function is_foreign(line) return find(line, "^\t%[C%]: ") or find(line, "^\tunsync/") end

--- The lines of a traceback that matter; a heading goes with its last frame. Nil where none are left.
local function fold(traceback, paint)
  local lines, heading, first = {}, nil, true
  local remote = false -- nothing is known of what happened there but where that was
  for line in gmatch(traceback, "[^\n]+") do
    if sub(line, 1, 1) == "\t" then
      if not is_foreign(line) then
        if heading then lines[#lines + 1] = paint("dim", heading) end
        heading = nil
        lines[#lines + 1] = line
      end
    elseif line == "stack traceback:" then
      if first then heading = line end
    else
      if remote and heading then lines[#lines + 1] = paint("dim", heading) end
      heading = line
      remote = not find(line, "^awaited in")
    end
    first = false
  end
  if remote and heading then lines[#lines + 1] = paint("dim", heading) end
  if #lines > 0 then return concat(lines, "\n") end
end

-- ---- misspelt names ----

local function add_names(names, of)
  for name in pairs(of) do
    if type(name) == "string" and not find(name, "^_") then names[name] = true end
  end
end

--- Calls `visit` with each table of methods that our classes have.
local function each_class(visit)
  for name, class in pairs(registry) do
    local methods = type(name) == "string" and find(name, "^unsync%.") and type(class) == "table" and
      rawget(class, "__index")
    if type(methods) == "table" then visit(methods) end
  end
end

--- What a name of that sort could have been.
local function candidates(sort)
  local names = {}
  if sort == "method" then
    pcall(require, "unsync.continue") -- the methods of futures that are written in Lua
    each_class(function(methods) add_names(names, methods) end)
    add_names(names, string)
  elseif sort == "global" then
    add_names(names, loaded._G)
  else
    for name, module in pairs(loaded) do
      local ours = type(name) == "string" and (name == "unsync" or find(name, "^unsync%.")) and name ~= "unsync.core"
      if type(module) == "table" and (ours or type(name) == "string" and rawget(loaded._G, name) == module and
                                      name ~= "_G") then
        add_names(names, module)
      end
    end
  end
  return names
end

--- The name that was probably meant where Lua says that `name` is nil.
local function meant(message, distance)
  local sort, name = match(message, "a nil value %((%a+) '([^']*)'%)")
  if sort ~= "field" and sort ~= "method" and sort ~= "global" then return nil end
  local names, best = candidates(sort), nil
  if names[name] then return nil end -- spelt well: of something else
  local nearest = #name <= 4 and 1 or 2
  for other in pairs(names) do
    if #other - #name <= nearest and #name - #other <= nearest then
      local away = distance(name, other)
      if away < nearest or away == nearest and (not best or other < best) then best, nearest = other, away end
    end
  end
  return best
end

-- ---- all of it ----

---@param message string
---@param traceback string?
---@param origin string?  what it is of
---@param site string?    "file:line" of where that was started
---@param colour boolean
---@param distance fun(a: string, b: string): integer  how unlike two words are: letters more, less, changed or swapped
---@return string
return function(message, traceback, origin, site, colour, distance)
  local function paint(how, text) return colour and "\27[" .. codes[how] .. "m" .. text .. "\27[0m" or text end
  local lines = {(origin and origin .. ": " or "") .. paint("bad", message)}
  local name = meant(message, distance)
  if name then lines[#lines + 1] = paint("hint", "did you mean `" .. name .. "`?") end
  lines[#lines + 1] = traceback and fold(traceback, paint)
  if site then lines[#lines + 1] = paint("dim", "started at ") .. site end
  return concat(lines, "\n")
end
