local unsync = require "unsync"

local double = unsync.thread(function(n) return 2 * n end)

local future = double(21)
print(future:await())
