--- How many turns others had while a function ran.
local unsync = require("unsync")

--- Runs `fn` while another task counts its turns: how often others had theirs meanwhile.
return function(fn, ...)
  local turns, over = 0, false
  local other = unsync.spawn(function()
    while not over do
      unsync.sleep(0.001)
      turns = turns + 1
    end
  end)
  local results = table.pack(pcall(fn, ...))
  over = true
  other:await()
  assert(results[1], results[2])
  return turns, table.unpack(results, 2, results.n)
end
