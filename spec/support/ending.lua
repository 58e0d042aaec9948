--- How calls end, for specs.
local ending = {}

--- The error that `fn(...)` raises.
function ending.failure(fn, ...)
  local fine, err = pcall(fn, ...)
  if fine then error("nothing was raised", 2) end
  return err
end

--- The code of that error; the error itself, where it is no table.
function ending.code(fn, ...)
  local err = ending.failure(fn, ...)
  return type(err) == "table" and err.code or err
end

--- What calls `fn` when it is closed.
function ending.closing(fn) return setmetatable({}, {__close = fn}) end

return ending
