--- A module's body may wait while it is being required; whoever requires it meanwhile waits for the same load.
--[[ Output:
loading the settings
loaded yet:	false
first: look before you leap
second: look before you leap
loaded once:	true
]]
package.path = (arg[0]:match("^.*/") or "") .. "?.lua;" .. package.path
local unsync = require("unsync")

local function use(name)
  local settings = require("support.settings") -- its body waits for a thread
  return name .. ": " .. settings.motto
end

local first, second = unsync.spawn(use, "first"), unsync.spawn(use, "second")
print("loaded yet:", package.loaded["support.settings"] ~= nil)
print(first:await())
print(second:await())
print("loaded once:", require("support.settings") == package.loaded["support.settings"])
