--- A module that asks somebody else, in a thread, before it is loaded.
local unsync = require("unsync")

print("loading the settings")

local ask = unsync.thread(function() return "look before you leap" end)

return { motto = ask():await() }
