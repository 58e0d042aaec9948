--- once makes a value at its first call in each state, and keeps it there: a connection, a cache, a parsed grammar.
--[[ Output:
3 14	1
15	2
the script has its own:	true	0
]]
local unsync = require("unsync")

local grammar = unsync.once(function()
  local lpeg = require("lpeg")
  return { numbers = lpeg.Ct((lpeg.C(lpeg.R("09") ^ 1) + 1) ^ 0), made = 0 }
end)

local numbers = unsync.thread(function(text)
  local g = grammar() -- made by the first call in this thread, and still there at the next
  g.made = g.made + 1
  return table.concat(g.numbers:match(text), " "), g.made
end)

print(numbers("3 apples and 14 pears"):await())
print(numbers("15 plums"):await())
print("the script has its own:", grammar() == grammar(), grammar().made)
