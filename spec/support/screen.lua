--- A program on a terminal, and what its screen shows: spec/support/pty.c runs it, a small terminal here draws what it
--- writes.
---
---     local screen <close> = screen.start({"-i"})
---     screen:type("1 + 1\r")
---     screen:wait("2\n> $")
local script = require("spec.support.script")

local screen = {}
screen.__index = screen

-- ---- the terminal: what xterm does of what is used ----

local function blank_row() return {} end

local function new_grid(columns, rows)
  local grid = {columns = columns, rows = rows, row = 1, column = 1, above = {}, pending = ""}
  for i = 1, rows do grid[i] = blank_row() end
  return grid
end

local function scroll(grid)
  grid.above[#grid.above + 1] = table.remove(grid, 1)
  grid[grid.rows] = blank_row()
end

local function down(grid)
  if grid.row == grid.rows then scroll(grid) else grid.row = grid.row + 1 end
end

--- Puts a character where the cursor is. Behind the last column it waits for the next one before it wraps.
local function put(grid, character)
  if grid.column > grid.columns then
    grid[grid.row].wraps = true
    grid.column = 1
    down(grid)
  end
  grid[grid.row][grid.column] = character
  grid.column = grid.column + 1
end

local function clear_row(grid, row, from, to)
  for i = from, to do grid[row][i] = nil end
  if to == grid.columns then grid[row].wraps = nil end
end

local control = {
  ["\r"] = function(grid) grid.column = 1 end,
  ["\n"] = function(grid) down(grid) end,
  ["\b"] = function(grid) grid.column = math.max(math.min(grid.column, grid.columns) - 1, 1) end,
  ["\t"] = function(grid) grid.column = math.min((grid.column - 1) // 8 * 8 + 9, grid.columns) end,
  ["\a"] = function(grid) grid.bell = true end,
}

local sequence = {
  A = function(grid, n) grid.row = math.max(grid.row - n, 1) end,
  B = function(grid, n) grid.row = math.min(grid.row + n, grid.rows) end,
  C = function(grid, n) grid.column = math.min(grid.column + n, grid.columns) end,
  D = function(grid, n) grid.column = math.max(math.min(grid.column, grid.columns) - n, 1) end,
  G = function(grid, n) grid.column = math.min(n, grid.columns) end,
  H = function(grid, n, m) grid.row, grid.column = math.min(n, grid.rows), math.min(m, grid.columns) end,
  P = function(grid, n)
    local row = grid[grid.row]
    for i = grid.column, grid.columns do row[i] = row[i + n] end
  end,
  ["@"] = function(grid, n)
    local row = grid[grid.row]
    for i = grid.columns, grid.column + n, -1 do row[i] = row[i - n] end
    for i = grid.column, math.min(grid.column + n - 1, grid.columns) do row[i] = nil end
  end,
  K = function(grid, _, _, first)
    if first == 0 then clear_row(grid, grid.row, grid.column, grid.columns) end
    if first == 1 then clear_row(grid, grid.row, 1, grid.column) end
    if first == 2 then clear_row(grid, grid.row, 1, grid.columns) end
  end,
  J = function(grid, _, _, first)
    if first == 2 then
      for i = 1, grid.rows do grid[i] = blank_row() end
      return
    end
    clear_row(grid, grid.row, grid.column, grid.columns)
    for i = grid.row + 1, grid.rows do grid[i] = blank_row() end
  end,
}

--- Draws what was written. What is half a sequence waits for its rest.
local function draw(grid, text)
  text = grid.pending .. text
  grid.pending = ""
  local at = 1
  while at <= #text do
    local character = text:sub(at, at)
    if control[character] then
      control[character](grid)
      at = at + 1
    elseif character == "\27" then
      local parameters, final, after = text:match("^\27%[([%d;?]*)([%a@])()", at)
      local other = text:match("^\27[^%[]()", at)
      if final then
        local first, second = parameters:match("^(%d*);?(%d*)")
        first, second = tonumber(first), tonumber(second)
        if sequence[final] then sequence[final](grid, math.max(first or 1, 1), math.max(second or 1, 1), first or 0) end
        at = after
      elseif other then
        at = other
      elseif #text - at > 30 then
        at = at + 1 -- no sequence that anybody knows
      else
        break
      end
    elseif character:byte() < 32 then
      at = at + 1
    else
      local byte = character:byte()
      local size = byte >= 0xF0 and 4 or byte >= 0xE0 and 3 or byte >= 0xC0 and 2 or 1
      if at + size - 1 > #text then break end
      put(grid, text:sub(at, at + size - 1))
      at = at + size
    end
  end
  grid.pending = text:sub(at)
end

local function row_text(grid, row)
  local last = 0
  for i in pairs(row) do
    if i ~= "wraps" and i > last then last = i end
  end
  local parts = {}
  for i = 1, math.min(last, grid.columns) do parts[i] = row[i] or " " end
  local text = table.concat(parts)
  return row.wraps and text or (text:gsub(" +$", ""))
end

-- ---- the program ----

---@class ScreenOptions
---@field columns? integer  default 80
---@field rows? integer     default 24
---@field env? table<string, string|false>
---@field program? string   default: the program under test

--- Starts it with these arguments. The home directory is an empty one, the terminal an xterm.
---@param arguments? string[]
---@param options? ScreenOptions
function screen.start(arguments, options)
  options = options or {}
  local uv = require("luv")
  local self = setmetatable({grid = new_grid(options.columns or 80, options.rows or 24), written = ""}, screen)
  local values = uv.os_environ()
  for name, value in pairs({HOME = script.path(""), XDG_STATE_HOME = false, TERM = "xterm", NO_COLOR = "1",
    LC_ALL = "C.UTF-8"}) do values[name] = value or nil end
  for name, value in pairs(options.env or {}) do values[name] = value or nil end
  local env = {}
  for name, value in pairs(values) do env[#env + 1] = name .. "=" .. value end
  local words = {tostring(self.grid.columns), tostring(self.grid.rows), options.program or script.program}
  for _, word in ipairs(arguments or {}) do words[#words + 1] = word end
  self.input, self.output = uv.new_pipe(), uv.new_pipe()
  self.process = assert(uv.spawn(script.build .. "/spec/support/pty", {
    args = words, env = env, stdio = {self.input, self.output, 2}}, function(code) self.code = code end))
  self.output:read_start(function(_, text)
    if not text then
      self.ended = true
      return
    end
    self.written = (self.written .. text):sub(-1000000)
    draw(self.grid, text)
  end)
  return self
end

function screen:order(text) self.input:write(text .. "\n") end

--- Types these bytes; Enter is "\r".
function screen:type(text)
  self:order("send " .. text:gsub(".", function(character) return ("%02x"):format(character:byte()) end))
end

function screen:resize(columns, rows)
  self.grid.columns = columns
  while self.grid.rows < rows do
    self.grid.rows = self.grid.rows + 1
    self.grid[self.grid.rows] = blank_row()
  end
  while self.grid.rows > rows do
    table.remove(self.grid, self.grid.rows)
    self.grid.rows = self.grid.rows - 1
  end
  self.grid.row = math.min(self.grid.row, rows)
  self:order(("size %d %d"):format(columns, rows))
end

--- Sends a signal to the program.
function screen:signal(number) self:order("signal " .. number) end

--- Everything that is to be seen, and what has scrolled away: lines without blanks at their ends. Lines that the
--- terminal has wrapped are one.
function screen:text()
  local lines = {}
  local glue = false
  local function add(row)
    local text = row_text(self.grid, row)
    if glue then lines[#lines] = lines[#lines] .. text else lines[#lines + 1] = text end
    glue = row.wraps
  end
  for _, row in ipairs(self.grid.above) do add(row) end
  for i = 1, self.grid.rows do add(self.grid[i]) end
  while lines[#lines] == "" and #lines > 1 do lines[#lines] = nil end
  return table.concat(lines, "\n")
end

--- Waits until the text ends as `pattern` (of Lua, "$" is added) or what `condition` says holds; fails with the screen.
function screen:wait(pattern, limit_s)
  local function met()
    if type(pattern) == "function" then return pattern(self) end
    return self:text():find(pattern .. "%s*$") ~= nil
  end
  if not script.eventually(function() return met() or self.code ~= nil end, limit_s or 60) or not met() then
    error(("waited in vain for %s; the screen:\n%s\n[%s]"):format(tostring(pattern), self:text(),
      self.code and "exit code " .. self.code or "it runs"), 2)
  end
end

--- Waits for the end of the program; its exit code.
function screen:exit_code()
  if not script.eventually(function() return self.code ~= nil and self.ended end, 60) then
    error("it does not end; the screen:\n" .. self:text(), 2)
  end
  return self.code
end

function screen:close()
  if self.closed then return end
  self.closed = true
  if not self.input:is_closing() then self.input:close() end
  script.eventually(function() return self.code ~= nil end, 20)
  if not self.output:is_closing() then self.output:close() end
  if not self.process:is_closing() then self.process:close() end
end
screen.__close = screen.close

return screen
