--- What is sent to a thread or a process is copied. What cannot be is refused, with the path to it: nothing has run.
--[[ Output:
hello, Ada (call 1)
good night, Ada (call 1)	0
30	true
false	unsendable: argument 1.input.file: userdata "FILE*"
unsendable	argument 1.input.file
upvalue file
unsendable	result 2[1]
attempt to call a nil value (global 'Helper'): global 'Helper' is set where this was declared, not in the worker
]]
local unsync = require("unsync")

-- Upvalues go along with the function, as they are at the call. What a call changes in them ends with it.
local greeting, calls = "hello", 0
local greet = unsync.cpu(function(name)
  calls = calls + 1
  return ("%s, %s (call %d)"):format(greeting, name, calls)
end)
print(greet("Ada"):await())
greeting = "good night"
print(greet("Ada"):await(), calls)

-- Tables keep their shape, references to themselves and their classes included; functions keep their upvalues.
local list = { value = 1, next = { value = 2 } }
list.next.next = list
local sum = unsync.thread(function(node, weigh)
  return weigh(node.value) + weigh(node.next.value), node.next.next == node
end)
local factor = 10
print(sum(list, function(n) return factor * n end):await())

-- An open file belongs to this state alone.
local read = unsync.thread(function(job) return job.input.file:read("a") end)
local file <close> = assert(io.open(arg[0]))
local ok, err = pcall(read, { input = { file = file } })
print(ok, err)
print(err.code, err.path)
local rewind = unsync.cpu(function() file:seek("set") end)
print(select(2, pcall(rewind)).path)
-- A result that cannot cross fails its call.
local open = unsync.thread(function() return "here you are", { io.tmpfile() } end)
print(open():catch(function(problem) return problem.code, problem.path end):await())

-- Globals do not go along: a worker has its own. One that is missing there is named.
function Helper() return "help" end -- luacheck: ignore
local lost = unsync.thread(function() return Helper() end) -- luacheck: ignore
print((lost():catch(tostring):await():gsub("^.-:%d+: ", "")))
