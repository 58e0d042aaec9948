--- and_then, catch and finally make a new future each; what they are given may be any function, wherever it runs.
--[[ Output:
16
208
one way or the other
caught: not 7 of all numbers
]]
local unsync = require("unsync")

local initiate = unsync.thread(function(request) return request + 1 end)
local double = unsync.cpu(function(n) return n * 2 end)

-- One call after the other, and nobody waits in between.
print(initiate(3):and_then(double):and_then(double):await())

-- A future that is returned is followed.
print(initiate(3):and_then(function(n) return double(n + 100) end):await())

-- A failure goes past and_then, to the next catch.
local function refuse(n) error("not " .. n .. " of all numbers", 0) end
local outcome = initiate(6)
  :and_then(refuse)
  :and_then(print)
  :catch(function(err) return "caught: " .. err end)
  :finally(function() print("one way or the other") end)
print(outcome:await())
