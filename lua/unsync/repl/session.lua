--- session: what was typed, compiled and run, with locals that live on from line to line.
---
--- A top-level `local` stays for the lines that follow as the very variable that it was, not as a copy: functions that
--- hold it go on sharing it, and a later line may assign to it. How: a line that needs one of them is compiled inside
--- a function that declares them, and these upvalues are joined to the ones that the declaring line left behind; that
--- line itself ends by handing out a function which holds its locals.
local session = {}
session.__index = session

--- The names by which a line hands out its locals, and its values: nothing that anybody would call theirs. The values
--- are no tail call, so that a traceback shows the line.
local KEEP, VALUES = "_unsync_repl_keep", "_unsync_repl_values"

---@class unsync.repl.Session
---@field chunk string  name of what is typed, in errors
---@field line integer  number of the next line
---@field cells table<string, {fn: function, index: integer, const: boolean?}>

--- A new session; `unsync` is there from the start, as a local, so that functions which use it can go to workers.
---@return unsync.repl.Session
function session.new()
  local self = setmetatable({ chunk = "=stdin", line = 1, cells = {} }, session)
  self:set("unsync", require("unsync"))
  self:set("_", nil)
  return self
end

--- Declares a local of the session, or sets it where it is there.
function session:set(name, value)
  local cell = self.cells[name]
  if cell and not cell.const then
    debug.setupvalue(cell.fn, cell.index, value)
  else
    self.cells[name] = { fn = function() return value end, index = 1 }
  end
end

--- The value of a local of the session; false where there is none of that name, else true and the value.
function session:get(name)
  local cell = self.cells[name]
  if not cell then return false end
  local _, value = debug.getupvalue(cell.fn, cell.index)
  return true, value
end

-- ---- a look at the source: names, and what is declared at the top level ----

local opening = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }
local closing = { ["end"] = true, ["until"] = true }

local pairs_of_signs = { ["::"] = true, [".."] = true, ["<="] = true, ["<<"] = true, [">="] = true, [">>"] = true }

--- Iterates over the tokens that matter: kind ("name" or a character), text, position.
local function tokens(text)
  local at = 1
  return function()
    while at <= #text do
      local space = text:match("^%s+()", at)
      if space then at = space end
      local start = at
      local equals = text:match("^%-%-%[(=*)%[", at) or text:match("^%[(=*)%[", at)
      if equals then -- a long string or comment
        local _, stop = text:find("]" .. equals .. "]", at, true)
        at = (stop or #text) + 1
        if text:sub(start, start) == "[" then return "value", "", start end
      elseif text:find("^%-%-", at) then
        at = (text:find("\n", at, true) or #text) + 1
      elseif text:find("^[\"']", at) then
        local mark = text:sub(at, at)
        at = at + 1
        while at <= #text and text:sub(at, at) ~= mark do
          at = at + (text:sub(at, at) == "\\" and 2 or 1)
        end
        at = at + 1
        return "value", "", start
      elseif text:find("^[%a_]", at) then
        local word, stop = text:match("^([%w_]+)()", at)
        at = stop
        return "name", word, start
      elseif text:find("^%.?%d", at) then
        at = text:match("^[%w%.]+()", at)
        return "value", "", start
      elseif at <= #text then
        local pair = text:sub(at, at + 1)
        at = at + (pairs_of_signs[pair] and 2 or 1)
        return "sign", text:sub(start, at - 1), start
      end
    end
  end
end

--- The names after a top-level `local`, from its first token on; returns the token after them.
local function read_names(following, found)
  local kind, word, at = following()
  if word == "function" then
    local _, name = following()
    found[#found + 1] = { name = name }
    return nil, "function", at
  end
  while kind == "name" do
    local entry = { name = word }
    found[#found + 1] = entry
    kind, word, at = following()
    if word == "<" then
      local _, attribute = following()
      entry.const = attribute == "const" or attribute == "close"
      following()
      kind, word, at = following()
    end
    if word ~= "," then break end
    kind, word, at = following()
  end
  return kind, word, at
end

--- What a compiled text declares at its top level, what names it mentions, where it returns.
local function examine(text)
  local declared, mentioned, returns = {}, {}, nil
  local depth, following = 0, tokens(text)
  local kind, word, at = following()
  while kind or word do
    if kind == "name" and word == "local" and depth == 0 then
      kind, word, at = read_names(following, declared)
      if word == "function" then
        depth = depth + 1
        kind, word, at = following()
      end
    else
      if kind == "name" then
        mentioned[word] = true
        if word == "return" and depth == 0 then returns = at end
        if opening[word] then depth = depth + 1 elseif closing[word] then depth = depth - 1 end
      end
      kind, word, at = following()
    end
  end
  local unique, seen = {}, {}
  for i = #declared, 1, -1 do
    local entry = declared[i]
    if not seen[entry.name] then
      seen[entry.name] = true
      table.insert(unique, 1, entry)
    end
  end
  return unique, mentioned, returns
end

-- ---- compiling ----

local function is_unfinished(message) return message:sub(-5) == "<eof>" end

--- The locals of the session that `mentioned` names, as the head of a function: plain ones, then constant ones.
function session:head(mentioned)
  local plain, const = {}, {}
  for name, cell in pairs(self.cells) do
    if mentioned[name] then table.insert(cell.const and const or plain, name) end
  end
  table.sort(plain)
  table.sort(const)
  local head = "local " .. table.concat({ KEEP, VALUES, table.unpack(plain) }, ", ") .. " = ... "
  for _, name in ipairs(const) do head = head .. ("local %s <const> = %s "):format(name, KEEP) end
  return head
end

--- Keeps the variables that `holder` holds, a function over all of `declared`.
function session:keep(declared, holder)
  local upvalues = {}
  for i = 1, 255 do
    local name = debug.getupvalue(holder, i)
    if not name then break end
    upvalues[name] = i
  end
  local values
  for i, entry in ipairs(declared) do
    if upvalues[entry.name] then
      self.cells[entry.name] = { fn = holder, index = upvalues[entry.name], const = entry.const }
    else -- a constant that Lua has put where it is used
      values = values or table.pack(holder())
      local value = values[i]
      self.cells[entry.name] = { fn = function() return value end, index = 1, const = entry.const }
    end
  end
end

--- To be called by the handler of an error that ended `line`: the locals that it had declared by then are kept as they
--- were.
---@param line unsync.repl.Line
function session:keep_failed(line)
  if #line.declared == 0 then return end
  local wanted = {}
  for _, entry in ipairs(line.declared) do wanted[entry.name] = entry end
  for level = 2, 250 do
    local info = debug.getinfo(level, "f")
    if not info then return end
    if info.func == line.run then
      for i = 1, 200 do
        local name, value = debug.getlocal(level, i)
        if not name then return end
        if wanted[name] then
          self.cells[name] = { fn = function() return value end, index = 1, const = wanted[name].const }
        end
      end
      return
    end
  end
end

local function compile(self, source, declared, mentioned, prefix)
  local code = self:head(mentioned) .. "return function(...) " .. source .. "\nend"
  local outer, problem = load(("\n"):rep(prefix) .. code, self.chunk, "t")
  if not outer then return nil, problem end
  local fn = outer(function(holder) self:keep(declared, holder) end, function(...) return ... end)
  for i = 1, 255 do
    local name = debug.getupvalue(fn, i)
    if not name then break end
    local cell = mentioned[name] and self.cells[name]
    if cell then debug.upvaluejoin(fn, i, cell.fn, cell.index) end
  end
  return fn
end

--- Whether `text` compiles: true, or nil, message, and true where more lines would make it whole; and whether it is an
--- expression.
---@param text string
---@return true?, string? message, boolean? unfinished, boolean? as_value
function session:check(text)
  local padding = ("\n"):rep(self.line - 1)
  local value, value_problem = load(padding .. "return " .. text .. "\n", self.chunk, "t")
  if value and not text:find("^%s*$") then return true, nil, nil, true end
  local fine, problem = load(padding .. text, self.chunk, "t")
  if fine then return true, nil, nil, false end
  return nil, problem, is_unfinished(problem) or not value and is_unfinished(value_problem), false
end

---@class unsync.repl.Line
---@field run function  returns the values of an expression
---@field declared {name: string, const: boolean?}[]  locals at its top level

--- Compiles `text`, an expression or statements; nil, message, and true where more lines would make it whole.
---@param text string
---@return unsync.repl.Line? line, string? message, boolean? unfinished
function session:compile(text)
  local prefix = self.line - 1
  local fine, problem, unfinished, as_value = self:check(text)
  if not fine then return nil, problem, unfinished end
  local declared, mentioned, returns = examine(text)
  local source = text
  if as_value then
    declared, source = {}, "return " .. VALUES .. "(" .. text .. "\n)"
  elseif #declared > 0 then
    local names = {}
    for i, entry in ipairs(declared) do names[i] = entry.name end
    local keep = (" %s(function() return %s end) "):format(KEEP, table.concat(names, ", "))
    if returns then source = text:sub(1, returns - 1) .. keep .. text:sub(returns)
    else source = text .. "\n" .. keep end
  end
  local run
  run, problem = compile(self, source, declared, mentioned, prefix)
  if not run then return nil, problem, false end
  self:skip(text)
  return { run = run, declared = declared }
end

--- Counts the lines of `text`, which is not run.
function session:skip(text)
  local _, newlines = text:gsub("\n", "")
  self.line = self.line + newlines + 1
end

return session
