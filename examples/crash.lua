--- A worker process that dies takes its own call with it, and nothing else.
--[[ Output:
well	well
dead	crashed	SIGKILL
well	still well
dead	crashed	3
well	as if nothing had been
crashed: the worker process of fragile died of signal 9 (Killed)
]]
local unsync = require("unsync")

local fragile = unsync.cpu(function(how)
  local uv = require("luv")
  if how == "kill" then uv.kill(uv.os_getpid(), "sigkill") end
  if how == "exit" then os.exit(3) end
  return how
end, { name = "fragile" })

local calls = {}
for i, how in ipairs({ "well", "kill", "still well", "exit", "as if nothing had been" }) do calls[i] = fragile(how) end

for _, call in ipairs(calls) do
  local ok, value = pcall(call.await, call)
  if ok then print("well", value) else print("dead", value.code, value.signal or value.exit_code) end
end
print(calls[2]:error())
