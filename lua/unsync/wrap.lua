--- wrap: functions that take a callback, as functions that return a future.
local core = require("unsync.core")
local promise = core.promise

local wrap = {}

--- An awaitable version of a function that takes a callback last: a call returns a future of all that the callback is
--- given. Where the function returns nil and a message instead of starting, the future fails with the message.
---@param fn fun(...: any): any
---@return fun(...: any): unsync.Future
function wrap.wrap(fn)
  if type(fn) ~= "function" then
    error(("bad argument #1 to 'wrap' (function expected, got %s)"):format(type(fn)), 2)
  end
  return function(...)
    local future = promise()
    local args = table.pack(...)
    args[args.n + 1] = function(...)
      future:resolve(...)
    end
    local ok, started, message = pcall(fn, table.unpack(args, 1, args.n + 1))
    if not ok then
      future:reject(started)
    elseif not started and message ~= nil then
      future:reject(message)
    end
    return future
  end
end

return wrap
