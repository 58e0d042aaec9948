-- What "worker.lua process flight" is measured beside: two children of stock Lua over luv's pipes, by hand. A call is a
-- line with a number, the answer another one; 1,000 are under way at once.
local uv = require "luv"

local CHILD = [[
local out = io.stdout
local function call(x) return x end
out:setvbuf "full"
for line in io.lines() do
  out:write(call(tonumber(line)), "\n")
  out:flush()
end
]]

local children, left = {}, 0

for i = 1, 2 do
  local child = { input = uv.new_pipe(), output = uv.new_pipe(), rest = "" }
  child.handle = assert(uv.spawn("lua5.4", { args = { "-e", CHILD }, stdio = { child.input, child.output, 2 } }))
  child.output:read_start(function(problem, chunk)
    assert(not problem, problem)
    if not chunk then return end
    local text = child.rest .. chunk
    local from = 1
    for number, stop in text:gmatch "(%d+)\n()" do
      assert(tonumber(number))
      left, from = left - 1, stop
    end
    child.rest = text:sub(from)
    if left == 0 then uv.stop() end
  end)
  children[i] = child
end

local function flight(rounds)
  for _ = 1, rounds do
    left = 1000
    for i = 1, 1000 do children[i % 2 + 1].input:write(i .. "\n") end
    uv.run()
    assert(left == 0)
  end
end

flight(5)
local from = uv.hrtime()
flight(100)
print((uv.hrtime() - from) / 100000)
for _, child in ipairs(children) do child.handle:kill "sigkill" end
