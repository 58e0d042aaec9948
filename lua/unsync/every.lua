--- Ticks: `for n in unsync.every(seconds) do … end`.
local core = require("unsync.core")

--- Iterates over the ticks of a clock: the n-th comes n * seconds after the call, however long the loop's body takes.
--- Those that have passed meanwhile are left out, so the next one is always still to come; n counts them all the same.
---@param seconds number  more than 0
---@return fun(): integer
local function every(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds <= 0 or seconds == math.huge then
    error("bad argument #1 to 'every' (a number of seconds above 0 expected)", 2)
  end
  local start, last = core.now(), 0
  return function()
    last = math.max(last, math.floor((core.now() - start) / seconds)) + 1
    core.sleep(math.max(0, start + last * seconds - core.now()))
    return last
  end
end

return every
