--- Where a function runs is data: those with a name move between io, thread and cpu, and their callers do not notice.
--[[ Output:
cpu	610
thread	610
io	610
the copy was changed, not	mine
]]
local unsync = require("unsync")

local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end

local compute = unsync.cpu(fib, { name = "math.fib" })
local rename = unsync.thread(function(person)
  person.name = "the copy was changed, not"
  return person.name
end, { name = "people.rename" })

local function show(future)
  local kind = tostring(future):match("^future: (%w+)")
  print(kind, future:await())
end

show(compute(15))
unsync.place({ ["math.*"] = "thread" }) -- or: unsync --place math.*=thread examples/placing.lua
show(compute(15))
unsync.place({ ["math.fib"] = "io", ["people.*"] = "io" })
show(compute(15))

-- It is on the loop now, but what it was given is still a copy, as it was for a thread.
local person = { name = "mine" }
local said = rename(person):await()
print(said, person.name)
