--- A wait inside your own coroutine goes past whoever consumes it, to the task and back: generators may wait.
--[[ Output:
1	1
2	4
3	9
4	16
true	144
-1 2 3
9 and 16
]]
local unsync = require("unsync")

local square = unsync.thread(function(n) return n * n end)

--- An ordinary generator, with an await in it.
local function squares(last)
  return coroutine.wrap(function()
    for n = 1, last do coroutine.yield(n, square(n):await()) end
  end)
end

for n, s in squares(4) do print(n, s) end

-- The same through pcall, a metamethod, an iterator, a comparison of table.sort, a replacement of string.gsub.
local lazy = setmetatable({}, { __index = function(_, n) return square(n):await() end })
print(pcall(function() return lazy[12] end))

local list = { 3, -1, 2 }
table.sort(list, function(a, b) return square(a):await() < square(b):await() end)
print(table.concat(list, " "))

print((("3 and 4"):gsub("%d", function(n) return square(tonumber(n)):await() end)))
