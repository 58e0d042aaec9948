--- Wrapped functions may call themselves and each other: deep on the loop, wide across processes.
--[[ Output:
calls inside each other:	100000
sorted in processes:	1000	0	999
]]
local unsync = require("unsync")

local depth
depth = unsync.io(function(n)
  if n == 0 then return 0 end
  return 1 + depth(n - 1):await()
end)
print("calls inside each other:", depth(100000):await())

--- Each half in a process of its own. One that waits for its halves lends its place, so there is always room.
local sort
sort = unsync.cpu(function(list)
  if #list <= 250 then
    table.sort(list)
    return list
  end
  local left, right = {}, {}
  for i, value in ipairs(list) do table.insert(i % 2 == 0 and left or right, value) end
  local a, b = sort(left), sort(right)
  left, right = a:await(), b:await()
  local merged, i, j = {}, 1, 1
  while i <= #left or j <= #right do
    if j > #right or (i <= #left and left[i] <= right[j]) then
      merged[#merged + 1], i = left[i], i + 1
    else
      merged[#merged + 1], j = right[j], j + 1
    end
  end
  return merged
end)

local list = {}
for i = 1, 1000 do list[i] = i * 7919 % 1000 end
local sorted = sort(list):await()
for i = 2, #sorted do assert(sorted[i - 1] <= sorted[i]) end
print("sorted in processes:", #sorted, sorted[1], sorted[#sorted])
