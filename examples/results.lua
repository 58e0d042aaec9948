--- A call has as many results as its function returns, nils included, wherever it ran.
--[[ Output:
3	1	nil	3
3	1	nil	3
3	1	nil	3
0
1	nil
1 1.0 -0.0 true "a\0b"
]]
local unsync = require("unsync")

local function gap() return 1, nil, 3 end

for _, kind in ipairs({ "io", "thread", "cpu" }) do
  print(select("#", unsync[kind](gap)():await()), unsync[kind](gap)():await())
end

local nothing = unsync.thread(function() end)
print((select("#", nothing():await())))
local one_nil = unsync.thread(function() return nil end)
print(select("#", one_nil():await()), (one_nil():await()))

-- Values stay what they are: integers integers, floats floats, strings bytes, and tables keep who is who.
local same = unsync.cpu(function(...) return ... end)
local t = { "a\0b" }
t.itself = t
local i, f, zero, u = same(1, 1.0, -0.0, t):await()
print(("%d %s %s %s %q"):format(i, f, zero, u.itself == u, u[1]))
