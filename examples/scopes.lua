--- A scope ends when all that was started in it has ended: nothing is forgotten, and the first failure ends the rest.
--[[ Output:
squares: 1 4 9
no such page: /b
cleared away /a
also: nothing left behind
timeout	timeout: the block did not end in time
three at most
log written
]]
local unsync = require("unsync")

-- Children may be of any kind.
local square = unsync.cpu(function(n) return n * n end)
local squares = {}
unsync.scope(function(s)
  for n = 1, 3 do
    s:spawn(function() squares[n] = square(n):await() end)
  end
end)
print("squares: " .. table.concat(squares, " "))

-- The first failure cancels the others; it comes out when they have cleared away.
local fetch = unsync.io(function(page)
  local _ <close> = setmetatable({}, { __close = function()
    if page == "/a" then print("cleared away " .. page) end
  end })
  if page == "/b" then
    unsync.sleep(0.001)
    print("no such page: " .. page)
    error({ code = 404 })
  end
  unsync.sleep(10)
end)
local ok, err = pcall(unsync.scope, function(s)
  s:spawn(fetch, "/a")
  s:spawn(fetch, "/b")
  fetch("/c") -- a plain call belongs to the scope as well
end)
print(not ok and err.code == 404 and "also: nothing left behind")

-- Limits: of time, and of how many run at once.
ok, err = pcall(unsync.scope, { timeout = 0.01 }, function(s) s:spawn(unsync.sleep, 10) end)
print(not ok and err.code, err)

local running, most = 0, 0
unsync.scope({ limit = 3 }, function(s)
  for _ = 1, 10 do
    s:spawn(function()
      running = running + 1
      most = math.max(most, running)
      unsync.sleep(0.001)
      running = running - 1
    end)
  end
end)
print(most == 3 and "three at most")

-- What has to outlive the scope is handed to the script itself.
local log
unsync.scope(function()
  log = unsync.spawn(function()
    unsync.sleep(0.002)
    return "log written"
  end):detach()
end)
print(log:await())
