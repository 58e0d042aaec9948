--- scope: a block that owns what is started in it.
local core = require("unsync.core")
local new, run, kind = core.scope_new, core.scope_run, core.kind

local scope = {}

---@class unsync.ScopeOptions
---@field timeout? number  seconds: then what runs is cancelled, and `timeout` raised
---@field limit? integer  children running at once; the others wait for their turn

---@class unsync.Scope
---@field spawn fun(self: unsync.Scope, fn: function, ...: any): unsync.Future  starts a child: its failure
---cancels the scope, and is raised at its end

local function pass(...) return ... end

--- What is called for a child where the scope has a limit: it stands in line as a call of a declared function does, and
--- lends its place to whom it waits for.
local function child(fn, ...)
  if kind(fn) then return fn(...):await() end
  return pass(fn(...)) -- no tail call, which would leave its mark in tracebacks
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
  local self = limit and new(core.io(child, { limit = limit })) or new()
  return run(self, options.timeout, fn)
end

return scope
