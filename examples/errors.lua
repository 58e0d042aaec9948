--- An error arrives where the future is awaited, as it was raised; where it ran makes no difference.
--[[ Output:
io: examples/errors.lua:17: no such thing
thread: examples/errors.lua:17: no such thing
cpu: examples/errors.lua:17: no such thing
a table stays a table: 404
failed	404
ENOENT	no/such/file: no such file or directory
done	nil
]]
local unsync = require("unsync")

local function find(what)
  if type(what) == "table" then error(what) end
  -- A string gets its position, as ever.
  local function fail()
    error("no such " .. what)
  end

  fail()
end

for _, kind in ipairs({ "io", "thread", "cpu" }) do
  local ok, err = pcall(function() return unsync[kind](find)("thing"):await() end)
  assert(not ok)
  print(kind .. ": " .. err)
end

local future = unsync.thread(find)({ status = 404 })
local _, err = pcall(future.await, future)
print("a table stays a table: " .. err.status)
-- The outcome can be looked at without raising.
print(future:status(), future:error().status)

-- The runtime's own errors have a code to branch on, and read well.
local digest = unsync.thread("hash.file")
local missing = digest("no/such/file"):catch(function(problem) return problem.code, problem.message end)
print(missing:await())
print(missing:status(), missing:error())
