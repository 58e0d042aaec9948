-- What "worker.lua thread flight" is measured beside: luv's new_work in stock Lua, 1,000 at once.
local uv = require "luv"

local left
local work = uv.new_work(function(x) return x end, function() left = left - 1 end)

local function flight(rounds)
  for _ = 1, rounds do
    left = 1000
    for i = 1, 1000 do work:queue(i) end
    uv.run()
    assert(left == 0)
  end
end

flight(5)
local from = uv.hrtime()
flight(100)
print((uv.hrtime() - from) / 100000)
