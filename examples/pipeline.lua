--- A pipeline: a process produces, threads work, and what they have found comes together on the loop. Two channels
--- connect them. Whoever is ahead waits, so at most four batches lie in each.
--[[ Output:
1000 lines in 20 batches, through 3 threads
200	600
404	200
500	200
bytes:	500500
each thread ended with the channel:	true
]]
local unsync = require("unsync")

local batches, found = unsync.channel(4), unsync.channel(4)

--- In a process of its own: what it reads may be as large, or as broken, as it likes. Fifty lines to an item, since
--- each item costs a message.
local produce = unsync.cpu(function()
  local codes, batch = { 200, 200, 200, 404, 500 }, {}
  for n = 1, 1000 do
    batch[#batch + 1] = ("GET /page/%d %d %d"):format(n % 7, codes[n % 5 + 1], n)
    if #batch == 50 then
      batches:send(batch)
      batch = {}
    end
  end
  batches:close() -- nothing more will come: the threads' loops end when it is empty
end)

--- In threads, truly in parallel: both channels are upvalues.
local work = unsync.thread(function()
  for batch in batches do
    local sums = { lines = #batch, codes = {}, bytes = 0 }
    for _, line in ipairs(batch) do
      local code, bytes = line:match("(%d+) (%d+)$")
      sums.codes[code] = (sums.codes[code] or 0) + 1
      sums.bytes = sums.bytes + tonumber(bytes)
    end
    found:send(sums)
  end
  return true
end)

local producer = produce()
local workers = { work(), work(), work() }
unsync.spawn(function()
  unsync.all(workers):await()
  found:close()
end)

--- And here, as if all of it were in this script.
local count, lines, bytes, codes = 0, 0, 0, {}
for sums in found do
  count, lines, bytes = count + 1, lines + sums.lines, bytes + sums.bytes
  for code, n in pairs(sums.codes) do codes[code] = (codes[code] or 0) + n end
end
producer:await()

print(("%d lines in %d batches, through %d threads"):format(lines, count, #workers))
for _, code in ipairs({ "200", "404", "500" }) do print(code, codes[code]) end
print("bytes:", bytes)
print("each thread ended with the channel:", workers[1]:await() and workers[2]:await() and workers[3]:await())
