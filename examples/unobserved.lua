--- A failure that nobody looks at is not lost: it is reported at the end, and the exit code is 1.
--[[ Output:
the script ends well
]]
--[[ Errors, exit code 1:
unsync: a failure that nobody looked at, of thread save: examples/unobserved.lua:14: no room for the results
in thread save:
	examples/unobserved.lua:14: in function <examples/unobserved.lua:13>
started at examples/unobserved.lua:17
]]
local unsync = require("unsync")

local save = unsync.thread(function(what)
  error("no room for " .. what)
end, { name = "save" })

save("the results")
print("the script ends well")
