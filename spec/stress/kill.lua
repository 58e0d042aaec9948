--- The program whose worker processes are killed: `unsync spec/stress/kill.lua FIRST LAST`. For each seed some clients
--- call, nest, wait, cancel and relay items at random, while processes are killed at random moments: those that run a
--- call, wait in one, are idle, or only begin. What is wrong is written to stderr as a line that begins with "broken:"
--- and names the seed. These must hold:
---   - each call ends, the same for all who ask: with what it must give, `crashed`, or as it was asked to end
---   - no more calls crash than processes were killed: one has one at a time, and what had not begun runs elsewhere
---   - an item is received once, in the order of sending, or it died in the hand of a relay
---   - when the seed is over no task, pinned value, process or descriptor is left, and no thread at the end
local script = require("spec.support.script")
local unsync = require("unsync")
local uv = require("luv")

local first, last = math.tointeger(arg[1]), math.tointeger(arg[2] or arg[1])
local long = ("long"):rep(5000)
local seed, kills, crashes = 0, 0, 0

local function broken(text, ...)
  io.stderr:write(("broken: seed %d: %s\n"):format(seed, text:format(...)))
end

local function source(from)
  local state = (from * 2654435761 + 97) & 0x7fffffff
  return function(n)
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return (state >> 8) % n + 1
  end
end

-- ---- processes ----

--- Those of whatever thread, the dead that nobody has buried included.
local function processes()
  local found = {}
  local threads = uv.fs_scandir("/proc/self/task")
  local name = uv.fs_scandir_next(threads)
  while name do
    local file <close> = io.open("/proc/self/task/" .. name .. "/children")
    for pid in (file and file:read("a") or ""):gmatch("%d+") do found[#found + 1] = math.tointeger(pid) end
    name = uv.fs_scandir_next(threads)
  end
  return found
end

local function kill(pid)
  if uv.kill(pid, "sigkill") == 0 then kills = kills + 1 end
end

-- ---- what runs in them ----

local echo = unsync.cpu(function(...) return ... end, {name = "echo"})
local nap = unsync.cpu(function(s) require("unsync").sleep(s) end, {name = "nap"})
local spin = unsync.cpu(function() while true do end end, {name = "spin", grace = 0.01})
local late = unsync.cpu(function() require("unsync").sleep(1000) end, {name = "late", timeout = 0.003})
local resolve = unsync.cpu(function(promise, value) return promise:resolve(value) end, {name = "resolve"})
local produce = unsync.cpu(function(channel, count, text)
  for i = 1, count do channel:send({i, text}) end
  return count
end, {name = "produce"})
local relay = unsync.cpu(function(from, to) for item in from do to:send(item) end end, {name = "relay"})
-- A failure that they wait for is told, not passed on: what crashes is always the one that was called.
local wait = unsync.cpu(function(future)
  local ok, value = pcall(future.await, future)
  return ok, ok and value or value.code or tostring(value)
end, {name = "wait"})
local function nested_body(self, inner, depth, value)
  if depth == 0 then
    local call = inner(value)
    local ok, got = pcall(call.await, call)
    return ok, ok and got or got.code or tostring(got), 1
  end
  local call, other = self(self, inner, depth - 1, value), inner(value)
  local ok, fine, got = pcall(call.await, call)
  local ok_too, got_too = pcall(other.await, other)
  if not ok then return false, fine.code or tostring(fine) end
  if not fine then return false, got end
  if not ok_too then return false, got_too.code or tostring(got_too) end
  return got == value and got_too == value, value
end
local nested = unsync.cpu(nested_body, {name = "nested"})
local threaded = unsync.thread(nested_body, {name = "threaded"})

-- ---- clients ----

--- How the call ended, which may be with one of `codes`, or `crashed`; counts those that crashed.
local function ended(what, call, codes)
  local result = table.pack(pcall(call.await, call))
  local again = table.pack(pcall(call.await, call))
  if not call:done() or again.n ~= result.n then broken("%s: it ended twice", what) end
  for i = 1, result.n do
    if not rawequal(again[i], result[i]) then
      broken("%s: it ended with %s, then with %s", what, tostring(result[i]), tostring(again[i]))
    end
  end
  if result[1] then return true, table.unpack(result, 2, result.n) end
  local code = type(result[2]) == "table" and result[2].code
  if code == "crashed" then
    -- Three in a row that died before they were ready are a program that cannot start: nobody's call had begun.
    if not tostring(result[2]):find("no worker process for", 1, true) then crashes = crashes + 1 end
    if kills == 0 then broken("%s: crashed, and nothing was killed", what) end
  elseif not (codes and codes[code]) then
    broken("%s: %s", what, tostring(result[2]))
  end
  return false, code
end

local function expect(what, wanted, ok, got)
  if ok and got ~= wanted then broken("%s: %s, not %s", what, tostring(got), tostring(wanted)) end
end

--- What a call said that waited for others.
local function expect_inside(what, wanted, ok, fine, got)
  if not ok then return end
  if fine and got ~= wanted or not fine and got ~= "crashed" then broken("%s: inside: %s", what, tostring(got)) end
end

local stopped = {cancelled = true}

local acts = {
  function(random)
    local value = random(1000)
    local ok, n, text, list = ended("echo", echo(value, long, {value, {long}}))
    if ok and (n ~= value or text ~= long or list[1] ~= value or list[2][1] ~= long) then
      broken("echo: other values")
    end
  end,
  function(random)
    local calls = {}
    for i = 1, 5 + random(10) do calls[i] = echo(i) end
    for i, call in ipairs(calls) do expect("one of many", i, ended("one of many", call)) end
  end,
  function(random)
    local value = random(1000)
    expect_inside("nested", value, ended("nested", nested(nested, echo, random(3) - 1, value)))
  end,
  function(random)
    local value = random(1000)
    expect_inside("threaded", value, ended("threaded", threaded(nested, echo, random(2) - 1, value)))
  end,
  function(random)
    local value = random(1000)
    local own = unsync.spawn(function()
      for _ = 1, random(4) do unsync.yield() end
      return value
    end)
    expect_inside("future", value, ended("future", wait(own)))
    expect("future", value, true, own:await())
  end,
  function(random)
    local value = random(1000)
    local call = echo(value)
    local waits = {wait(call), wait(call)}
    for i = 1, 2 do expect_inside("chain", value, ended("chain", waits[i])) end
    expect("chain", value, ended("chain", call))
  end,
  function(random)
    local value, promise = random(1000), unsync.promise()
    local call = resolve(promise, value)
    local settled = unsync.select({promise, call}) == promise
    local ok = ended("resolve", call)
    if settled or ok then expect("promise", value, pcall(promise.await, promise)) end
  end,
  function(random)
    local call = random(2) == 1 and nap(1000) or spin()
    for _ = 1, random(4) do unsync.yield() end
    if random(2) == 1 then unsync.sleep(0.001 * random(5)) end
    call:cancel()
    if ended("cancelled", call, stopped) then broken("cancelled: it came to an end") end
  end,
  function(random)
    local call = nested(nested, nap, random(2), 1000)
    for _ = 1, random(4) do unsync.yield() end
    call:cancel()
    ended("nested, cancelled", call, stopped)
  end,
  function()
    if ended("late", late(), {timeout = true}) then broken("late: it came to an end") end
  end,
  function(random)
    local list = {}
    local ok, err = pcall(unsync.scope, function(s)
      for i = 1, 2 + random(3) do list[i] = s:spawn(echo, i) end
    end)
    for i, task in ipairs(list) do
      if not task:done() then broken("scope: it ended before its task did") end
      if ok then expect("scope", i, pcall(task.await, task)) end
    end
    if not ok and (type(err) ~= "table" or err.code ~= "crashed") then broken("scope: %s", tostring(err)) end
  end,
  function(random)
    local call = unsync.cpu("echo.work")(5 + random(10), 1)
    if random(2) == 1 then call:cancel() end
    ended("native", call, stopped)
  end,
  -- One sends from there: what comes is what was sent, in order, and all of it if it came to its end.
  function(random)
    local channel, count = unsync.channel(random(5) - 1), random(30)
    local call, got = produce(channel, count, random(2) == 1 and long or "short"), 0
    local function take(item)
      got = got + 1
      if item[1] ~= got then broken("produce: item %d, not %d", item[1], got) end
    end
    local from, item = unsync.select({channel, call})
    while from == channel do
      take(item)
      from, item = unsync.select({channel, call})
    end
    local ok = ended("produce", call)
    local more
    more, item = channel:try_recv()
    while more do
      take(item)
      more, item = channel:try_recv()
    end
    if ok and got ~= count then broken("produce: %d items, not %d", got, count) end
  end,
  -- Relays pass items on; who dies is replaced. Each may have died with one item in its hand.
  function(random)
    local from, to = unsync.channel(random(5) - 1), unsync.channel(random(5) - 1)
    local count, lanes, dead = 5 + random(40), random(2), 0
    local text = random(2) == 1 and long or "short"
    local relays = {}
    for lane = 1, lanes do
      relays[lane] = unsync.spawn(function()
        while not ended("relay", relay(from, to)) do dead = dead + 1 end
      end)
    end
    local sender = unsync.spawn(function()
      for i = 1, count do from:send({i, text}) end
      from:close()
    end)
    local closer = unsync.spawn(function()
      for lane = 1, lanes do relays[lane]:await() end
      to:close()
    end)
    local seen, number, before = {}, 0, 0
    for item in to do
      local i = item[1]
      if seen[i] then broken("relay: item %d came twice", i) end
      if item[2] ~= text then broken("relay: item %d is another", i) end
      if lanes == 1 and i < before then broken("relay: item %d after %d", i, before) end
      seen[i], before, number = true, i, number + 1
    end
    sender:await()
    closer:await()
    if count - number > dead then broken("relay: %d items lost, by %d that died", count - number, dead) end
  end,
}

local function program()
  expect("first", seed, ended("first", echo(seed))) -- those that begin and are killed are counted afresh
  local random = source(seed)
  local clients, running = {}, 1 + random(5)
  for i = 1, running do
    clients[i] = unsync.spawn(function()
      local draw = source(seed * 100 + i)
      for _ = 1, 1 + draw(5) do acts[draw(#acts)](draw) end
      running = running - 1
    end)
  end
  local most = random(8) - 1 -- fewer than make a call give up that was next in each of them
  local killer = unsync.spawn(function()
    while running > 0 and kills < most do
      unsync.sleep(0.0005 * random(20) * script.slowness)
      local list = processes()
      if random(8) == 1 then
        for i = 1, math.min(#list, most - kills) do kill(list[i]) end
      elseif #list > 0 then
        kill(list[random(#list)])
      end
    end
  end)
  for _, client in ipairs(clients) do client:await() end
  killer:cancel()
  pcall(killer.await, killer)
  if crashes > kills then broken("%d calls crashed, and %d processes were killed", crashes, kills) end
end

-- ---- what is left ----

--- Values that the registry holds: what is in flight is pinned there. luv never lets go of a directory's request.
local function pinned()
  local count = 0
  for key, value in pairs(debug.getregistry()) do
    if math.type(key) == "integer" and math.type(value) ~= "integer" and not tostring(value):find("^uv_fs_t") then
      count = count + 1
    end
  end
  return count
end

--- The workers go too; nobody starts another before there is a call. False if some did not.
local function calm()
  return script.eventually(function()
    local list = processes()
    for _, pid in ipairs(list) do uv.kill(pid, "sigkill") end
    return #list == 0
  end, 10)
end

local function at_most(what, count, limit)
  collectgarbage()
  collectgarbage()
  if not script.eventually(function() return count() <= limit end, 10) then
    broken("%s: %d, were %d", what, count(), limit)
  end
end

local function live() return #unsync.tasks() end

-- No thread has run a call yet. One that is kept for the next time has a loop of its own.
local LOOP = 5
echo(1):await()
calm()
local threads, open, tasks, pins = script.threads(), script.descriptors(), live(), pinned()

--- The loops of the threads that there are now left out.
local function descriptors()
  local count = script.descriptors()
  return count - LOOP * (script.threads() - threads)
end

for number = first, last do
  seed, kills, crashes = number, 0, 0
  local run = unsync.spawn(program)
  local ok, err = pcall(run.await, run, 60 * script.slowness)
  if not ok then
    broken("%s\n%s", tostring(err), run:traceback() or "")
    for _, task in ipairs(unsync.tasks()) do
      io.stderr:write(("  %s %s, %s for %.1f s: %s\n"):format(task.kind, task.name, task.state, task.age, task.where))
    end
    os.exit(1)
  end
  run = nil -- luacheck: ignore
  at_most("live tasks", live, tasks)
  if not calm() then broken("processes: %d", #processes()) end
  at_most("descriptors", descriptors, open)
  at_most("values in the registry", pinned, pins)
  io.stdout:write(seed, " ", kills, " ", crashes, "\n")
end
-- As many as there were, or as many as are kept for the next time.
at_most("threads", script.threads, threads + uv.available_parallelism())
print("done")
