--- A promise is a future that you settle yourself, once, from wherever you are.
--[[ Output:
nothing yet
true
the first word
false	the first word
false	no more
ready made	true
]]
local unsync = require("unsync")

local word = unsync.promise()
unsync.spawn(function() print(word:await()) end)
print(word:done() and "already" or "nothing yet")
print(word:resolve("the first word"))
unsync.yield()
print(word:resolve("the second word"), word:await())

local refused = unsync.promise()
refused:reject("no more")
print(pcall(refused.await, refused))

print(unsync.resolved("ready made"):await(), unsync.rejected("broken"):error() == "broken")
