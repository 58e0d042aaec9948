--- Continuations of a future: and_then, catch, finally. Each is a task of its own, so its function may wait.
local core = require("unsync.core")
local calls = require("unsync.calls")

---@class unsync.Future
local Future = core.Future
local spawn, is_future = core.spawn, core.is_future
local callable, followed = calls.callable, calls.followed

local function check(name, self, fn)
  if not is_future(self) then
    error(("bad argument #1 to '%s' (unsync.Future expected, got %s)"):format(name, type(self)), 3)
  end
  if not callable(fn) then
    error(("bad argument #1 to '%s' (function expected, got %s)"):format(name, type(fn)), 3)
  end
end

--- A new future: `fn` called with this one's results. A failure of this one passes through.
---@param fn fun(...: any): any  any function, a wrapped one included; a future it returns is followed
---@return unsync.Future
function Future:and_then(fn)
  check("and_then", self, fn)
  return spawn(function()
    return followed(fn(self:await()))
  end)
end

local function caught(fn, ok, ...)
  if ok then
    return ...
  end
  return followed(fn((...)))
end

--- A new future: this one's results, or what `fn` makes of its error.
---@param fn fun(err: any): any
---@return unsync.Future
function Future:catch(fn)
  check("catch", self, fn)
  return spawn(function()
    return caught(fn, pcall(self.await, self))
  end)
end

local function finished(fn, self)
  followed(fn())
  return self:await()
end

--- A new future with this one's outcome, once `fn` has run; an error of `fn` replaces it.
---@param fn fun(): any  called without arguments
---@return unsync.Future
function Future:finally(fn)
  check("finally", self, fn)
  return spawn(function()
    pcall(self.await, self)
    return finished(fn, self)
  end)
end
