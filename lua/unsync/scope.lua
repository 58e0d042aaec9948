--- scope: a block that owns what is started in it.
local core = require("unsync.core")
local new, run, kind = core.scope_new, core.scope_run, core.kind
local promise = core.promise

local scope = {}

---@class unsync.ScopeOptions
---@field timeout? number  seconds: then what runs is cancelled, and `timeout` raised
---@field limit? integer  children running at once; the others wait for their turn

---@class unsync.Scope
---@field spawn fun(self: unsync.Scope, fn: function, ...: any): unsync.Future  starts a child: its failure
---cancels the scope, and is raised at its end

--- A place among those that may run: given back when the child has ended, whatever its end.
local Place = {}
function Place.__close(place)
  local self = place.places
  local first = table.remove(self.line, 1)
  if first then
    first:resolve() -- the place is the next one's
  else
    self.running = self.running - 1
  end
end

local function take_place(self)
  if self.running < self.limit then
    self.running = self.running + 1
    return setmetatable({ places = self }, Place)
  end
  local turn = promise()
  self.line[#self.line + 1] = turn
  local ok, err = pcall(turn.await, turn)
  if ok then return setmetatable({ places = self }, Place) end
  for i, one in ipairs(self.line) do
    if one == turn then
      table.remove(self.line, i)
      error(err, 0)
    end
  end
  Place.__close({ places = self }) -- it was given the place in the same moment
  error(err, 0)
end

local function limited(self, fn, ...)
  local _ <close> = take_place(self)
  if kind(fn) then return fn(...):await() end
  return fn(...)
end

local none = {}

local function check(options)
  if options == nil then return none end
  local function bad(problem) error("bad argument #1 to 'scope' (" .. problem .. ")", 4) end
  if type(options) ~= "table" then bad("table expected, got " .. type(options)) end
  for name, value in pairs(options) do
    if name == "timeout" then
      if type(value) ~= "number" or value < 0 or value ~= value then
        bad("bad option 'timeout': " .. tostring(value))
      end
    elseif name == "limit" then
      if math.type(value) ~= "integer" or value < 1 then bad("bad option 'limit': " .. tostring(value)) end
    else
      bad(("unknown option '%s'"):format(tostring(name)))
    end
  end
  return options
end

--- Runs `fn` here and returns what it returns, once all that was started inside has ended: the children of the scope,
--- and every other call made in it, at any depth. The first failure cancels the rest and is raised.
---@param options unsync.ScopeOptions  may be left out
---@param fn fun(scope: unsync.Scope): any
function scope.scope(options, fn)
  if fn == nil then options, fn = nil, options end
  options = check(options)
  if type(fn) ~= "function" then
    error(("bad argument #%d to 'scope' (function expected, got %s)"):format(options == none and 1 or 2, type(fn)), 2)
  end
  local limit = options.limit
  local self = limit and new(limited, { limit = limit, running = 0, line = {} }) or new()
  return run(self, options.timeout, fn)
end

return scope
