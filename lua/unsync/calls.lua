--- calls: what can be called, and what a call comes to. For the modules beside this one.
local is_future = require("unsync.core").is_future

local calls = {}

--- Whether a value can be called: a function, or what has __call.
function calls.callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__call ~= nil
end

--- What a function returned; a future that it returned alone is awaited.
function calls.followed(...)
  if select("#", ...) == 1 and is_future((...)) then return (...):await() end
  return ...
end

return calls
