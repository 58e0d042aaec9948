-- Uses every executor, and says how each step went: for spec/faults_spec.lua, where something in it fails.
-- A step that fails says with what. The last line is "end".
local unsync = require "unsync"

local slowness = tonumber(os.getenv("UNSYNC_SLOWNESS") or "1")
local long = ("long"):rep(5000)

local function step(name, body)
  -- In a scope, so that what a step that failed has begun is over before the next.
  local result = table.pack(pcall(unsync.timeout, 10 * slowness, unsync.scope, body))
  local ok, err = result[1], result[2]
  local said = (type(err) == "table" and err.code or "?") .. ": " .. tostring(err):gsub("\n.*", "")
  print(name, ok and "fine" or said)
end

local function same(wanted, got)
  if wanted ~= got then error(("%s, not %s"):format(tostring(got), tostring(wanted)), 0) end
end

step("io", function()
  local twice = unsync.io(function(n) unsync.yield() return n * 2 end)
  local list = {}
  for n = 1, 5 do list[n] = twice(n) end
  for n = 1, 5 do same(n * 2, list[n]:await()) end
  unsync.sleep(0.0001)
  same(7, unsync.resolved(3):and_then(function(n) return n + 4 end):await())
end)

step("coordination", function()
  local channel, mutex = unsync.channel(1), unsync.mutex()
  local receiver = unsync.spawn(function() return channel:recv(), channel:recv() end)
  channel:send(1)
  channel:send({2})
  same(1, (receiver:await()))
  do local _ <close> = mutex:lock() end
  local first = unsync.race({unsync.promise(), unsync.spawn(function() return "first" end)})
  same("first", first:await())
  unsync.scope(function(s)
    s:spawn(function() unsync.yield() end)
    s:spawn(unsync.sleep, 0)
  end)
end)

step("thread", function()
  local up = {1, {2}}
  local call = unsync.thread(function(text, list) return #text + #list + up[2][1], function() return text end end)
  local n, fn = call(long, {1, 2, 3}):await()
  same(20005, n)
  same(long, fn())
end)

step("thread native", function()
  local a, b = unsync.thread("echo.all")(long, {1, "two", {3}}):await()
  same(long, a)
  same(3, b[3][1])
end)

step("cpu", function()
  local up = {x = "y"}
  local call = unsync.cpu(function(text, list) return #text + #list, function() return up.x, list end end)
  local n, fn = call(long, {1, 2, 3}):await()
  same(20003, n)
  same("y", (fn()))
end)

step("cpu native", function()
  local a, b = unsync.cpu("echo.all")(long, {1, "two", {3}}):await()
  same(long, a)
  same(3, b[3][1])
end)

step("promises that cross", function()
  local one, other = unsync.promise(), unsync.promise()
  local a = unsync.thread(function(p) p:resolve({1}) return "sent" end)(one)
  local b = unsync.cpu(function(p, q) p:resolve(q:await()[1] + 1) return "sent" end)(other, one)
  same("sent", a:await())
  same("sent", b:await())
  same(2, other:await())
end)

step("a cancelled call", function()
  local lost = unsync.thread(function() require("unsync").sleep(1000) end)()
  lost:cancel()
  same(false, (pcall(lost.await, lost)))
end)

step("a shell", function() assert(os.execute("exit 0")) end)

print("end")
