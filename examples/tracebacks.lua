--- The traceback of a failure leads from where it happened, in whatever worker, to where it was awaited.
--[[ Output:
false	examples/tracebacks.lua:19: not a number: x
in cpu sum:
stack traceback:
	[C]: in function 'assert'
	examples/tracebacks.lua:19: in upvalue 'parse'
	examples/tracebacks.lua:24: in function <examples/tracebacks.lua:22>
	[C]: in ?
awaited in report:
stack traceback:
	[C]: in method 'await'
	examples/tracebacks.lua:29: in function <examples/tracebacks.lua:28>
	[C]: in ?
]]
local unsync = require("unsync")

local function parse(text)
  return assert(tonumber(text), "not a number: " .. text)
end

local sum = unsync.cpu(function(list)
  local total = 0
  for _, text in ipairs(list) do total = total + parse(text) end
  return total
end, { name = "sum" })

local report = unsync.io(function(list)
  local total = sum(list):await()
  return "total " .. total
end, { name = "report" })

local future = report({ "1", "2", "x" })
print(pcall(future.await, future))
print(future:traceback())
