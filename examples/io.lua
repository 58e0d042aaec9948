--- An io function may wait. A call starts at once, and the caller goes on as soon as it waits: no loop in sight.
--[[ Output:
tick: started
tock: started
both are called
tick 1
tock 1
tick 2
tock 2
tick and tock have ended
]]
local unsync = require("unsync")

local count = unsync.io(function(name, last)
  print(name .. ": started")
  for i = 1, last do
    unsync.yield() -- or a sleep, a download, a computation elsewhere: the others go on meanwhile
    print(name .. " " .. i)
  end
  return name
end)

local tick, tock = count("tick", 2), count("tock", 2)
print("both are called")
print(tick:await() .. " and " .. tock:await() .. " have ended")
