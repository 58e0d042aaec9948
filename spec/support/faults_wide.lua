-- The rest of what there is, in short: for spec/faults_spec.lua, by the rules of spec/support/faults_script.lua.
local unsync = require "unsync"

local slowness = tonumber(os.getenv("UNSYNC_SLOWNESS") or "1")
local long = ("long"):rep(5000)

local function step(name, body)
  local result = table.pack(pcall(unsync.timeout, 10 * slowness, unsync.scope, body))
  local ok, err = result[1], result[2]
  local said = (type(err) == "table" and err.code or "?") .. ": " .. tostring(err):gsub("\n.*", "")
  print(name, ok and "fine" or said)
end

local function same(wanted, got)
  if wanted ~= got then error(("%s, not %s"):format(tostring(got), tostring(wanted)), 0) end
end

-- What is expected to fail, with `code`; where there was no memory that is the reason instead.
local function fails(code, ...)
  local ok, err = pcall(...)
  if ok then error("no " .. code, 0) end
  if type(err) ~= "table" or err.code ~= code then error(err, 0) end
  return err
end

step("limits", function()
  local most, now = 0, 0
  local one = unsync.io(function(n)
    now = now + 1
    most = math.max(most, now)
    unsync.yield()
    now = now - 1
    return n
  end, {limit = 2, timeout = 1000})
  local list = {}
  for n = 1, 5 do list[n] = one(n) end
  for n = 1, 5 do same(n, list[n]:await()) end
  same(2, most)
  local other = unsync.thread(function(n) return n end, {name = "other", limit = 1, run_timeout = 1000, grace = 0.1})
  list = {other(1), other(2), other(3)}
  for n = 1, 3 do same(n, list[n]:await()) end
end)

step("futures", function()
  local no = unsync.spawn(error, {code = "no"})
  same("no", no:catch(function(e) return type(e) == "table" and e.code or e end):await())
  same(nil, no:traceback() and nil)
  local done
  same(1, (unsync.resolved(1, 2):finally(function() done = true end):await()))
  same(true, done)
  do local f <close> = unsync.spawn(unsync.sleep, 1000) tostring(f) end
  local p = unsync.promise()
  unsync.spawn(function() p:reject("why") end):await()
  same("why", p:error() or select(2, pcall(p.await, p)))
  fails("timeout", function() unsync.promise():await(0.0001) end)
end)

step("combinators", function()
  local slow = unsync.io(function(n) unsync.yield() return n end)
  same(3, #unsync.all{slow(1), slow(2), slow(3)}:await())
  same(2, unsync.any{unsync.rejected("x"), slow(2)}:await())
  local both = unsync.settled{unsync.rejected("y"), slow(2)}:await()
  same("y", both[1]:error())
  fails("all_failed", function() unsync.any{unsync.rejected(1), unsync.rejected(2)}:await() end)
  local sum = 0
  for f in unsync.as_completed{slow(1), slow(2)} do sum = sum + f:await() end
  for n in unsync.map(slow, {1, 2, 3, 4}, {concurrency = 2}) do sum = sum + n end
  for n in unsync.map(slow, {1, 2, 3}, {ordered = false}) do sum = sum + n end
  same(19, sum)
  local function second(n) return n == 2 and n or error({code = "again"}) end
  same(2, unsync.retry(second, {attempts = 3, backoff = 0.0001}))
end)

step("scopes", function()
  local err = select(2, pcall(unsync.scope, function(s)
    s:spawn(function() unsync.yield() error({code = "one"}) end)
    s:spawn(function() unsync.shield(unsync.yield) error("two") end)
    unsync.sleep(1000)
  end))
  if type(err) ~= "table" or (err.code ~= "one" and err.code ~= "cancelled") then error(err, 0) end
  local limited = 0
  unsync.scope({limit = 1, timeout = 1000}, function(s)
    for _ = 1, 3 do s:spawn(function() unsync.yield() limited = limited + 1 end) end
  end)
  same(3, limited)
  fails("timeout", unsync.timeout, 0.0001, unsync.sleep, 1000)
  local stopped = unsync.spawn(function()
    local _ <close> = setmetatable({}, {__close = function() unsync.shield(unsync.yield) end})
    unsync.sleep(1000)
  end)
  stopped:cancel("enough")
  fails("cancelled", stopped.await, stopped)
end)

step("waits", function()
  local a, b, p = unsync.channel(), unsync.channel(1), unsync.promise()
  unsync.spawn(function() a:send(1) b:send(2) p:resolve(3) end)
  local got = 0
  for _ = 1, 3 do
    local source, value = unsync.select{a, b, p, timeout = 1000}
    got = got + value
    if source == p then break end
  end
  same(nil, (unsync.select{a, timeout = 0.0001}))
  same(b, (unsync.select{a, {send = b, value = 4}}))
  if got ~= 6 then same(4, (b:recv())) end
  local s, m, e, bar, r = unsync.semaphore(1), unsync.mutex(), unsync.event(), unsync.barrier(2), unsync.rate(2, 0.001)
  unsync.scope(function(scope)
    for _ = 1, 2 do
      scope:spawn(function()
        local _ <close> = s:acquire()
        local _ <close> = m:lock()
        unsync.yield()
        r:acquire()
      end)
      scope:spawn(function() e:wait() bar:wait() end)
    end
    e:set()
  end)
  for n in unsync.every(0.0001) do if n >= 2 then break end end
  a:close()
  same("closed", select(2, a:recv()))
  fails("closed", a.send, a, 1)
end)

step("context", function()
  local v = unsync.var(1, "faults.v")
  v:with({2}, function()
    same(2, unsync.thread(function() return v:get()[1] end)():await())
    same(2, unsync.cpu(function() return v:get()[1] end)():await())
    same(2, unsync.spawn(function() unsync.yield() return v:get()[1] end):await())
  end)
  same(1, v:get())
  unsync.place{["faults.*"] = "thread"}
  local placed = unsync.io(function(t) t[1] = 5 return t end, {name = "faults.placed"})
  local t = {4}
  same(5, placed(t):await()[1])
  same(4, t[1])
  unsync.place{["faults.*"] = "io"}
  same(5, unsync.thread(function(x) x[1] = 5 return x end, {name = "faults.here"})(t):await()[1])
  same(4, t[1])
end)

step("Lua's own", function()
  local g = coroutine.wrap(function() for n = 1, 3 do unsync.yield() coroutine.yield(n) end end)
  same(1, g()) same(2, g())
  local list = {3, 1, 2}
  table.sort(list, function(x, y) unsync.yield() return x < y end)
  same("1 2 3", table.concat(list, " "))
  same("<a> <b>", (("a b"):gsub("%a", function(c) unsync.yield() return "<" .. c .. ">" end)))
  package.preload["faults.module"] = function() unsync.yield() return {1} end
  same(1, require("faults.module")[1])
  same(false, (pcall(error, "x")))
  same("handled", select(2, xpcall(function() unsync.yield() error("x") end, function() return "handled" end)))
  local value = unsync.once(function() unsync.yield() return {} end)
  same(value(), value())
  local co = coroutine.create(function()
    local _ <close> = setmetatable({}, {__close = unsync.yield})
    coroutine.yield()
  end)
  assert(coroutine.resume(co))
  assert(coroutine.close(co))
end)

step("callbacks", function()
  local uv = require("luv")
  local later = unsync.wrap(function(n, callback)
    local timer = uv.new_timer()
    timer:start(0, 0, function() timer:close() callback(n + 1) end)
  end)
  same(2, later(1):await())
  local stat = unsync.wrap(function(path, callback) uv.fs_stat(path, callback) end)
  same("directory", select(2, stat("/"):await()).type)
end)

step("channels that cross", function()
  local to, from = unsync.channel(2), unsync.channel()
  local work = function()
    for item in to do from:send({item, #long}) end
    return "end"
  end
  for _, kind in ipairs{"thread", "cpu"} do
    if kind == "cpu" then to, from = unsync.channel(2), unsync.channel() end
    local call = unsync[kind](work)()
    for n = 1, 3 do
      to:send(n)
      same(n, unsync.select{from, call} == from and n or call:await())
    end
    to:close()
    same("end", call:await())
    local large = unsync.channel(3)
    local sent = unsync[kind](function() large:send(long) large:try_send(long) end)()
    same(long, unsync.select{large, sent} == large and long or sent:await())
    sent:await()
    same(long, (large:recv()))
  end
end)

step("errors that cross", function()
  for _, kind in ipairs{"thread", "cpu"} do
    local lost = unsync[kind](function(what) error({code = "mine", what}) end)("x")
    same("x", fails("mine", lost.await, lost)[1])
    lost:traceback()
    fails("unsendable", unsync[kind](function() end), coroutine.create(print))
    local odd = unsync[kind](function() return coroutine.create(print) end)()
    fails("unsendable", odd.await, odd)
    local global = unsync[kind](function() return missing_here() end)() -- luacheck: ignore
    same(false, (pcall(global.await, global)))
  end
end)

step("functions that cross", function()
  local class = {}
  class.__index = class
  class.get = function(self) return self.n end
  local object = setmetatable({n = 7, [long] = {1.5, true}}, class)
  object.self = object
  local inner = unsync.io(function(x) unsync.yield() return x.self.n end, {name = "faults.inner", timeout = 1000})
  for _, kind in ipairs{"thread", "cpu"} do
    local n, back = unsync[kind](function(f, x) return f(x):await(), x end)(inner, object):await()
    same(7, n)
    same(7, back:get())
    same(9, unsync[kind](function() return unsync.thread(function(x) return x + 1 end)(8):await() end)():await())
  end
end)

step("stopping", function()
  for _, kind in ipairs{"thread", "cpu"} do
    local started = unsync.promise()
    local loop = unsync[kind](function(p) p:resolve() while true do end end, {grace = 5})(started)
    unsync.select{started, loop}
    loop:cancel()
    fails("cancelled", loop.await, loop)
    local late = unsync[kind](function() while true do end end, {timeout = 0.01})()
    fails("timeout", late.await, late)
  end
end)

step("stopping from afar", function()
  for _, kind in ipairs{"thread", "cpu"} do
    local theirs = unsync.spawn(unsync.sleep, 1000)
    unsync[kind](function(f, why) return f:cancel(why) end)(theirs, {long}):await()
    fails("cancelled", theirs.await, theirs)
    local handed = unsync.promise()
    local call = unsync[kind](function(p)
      local inner = require "unsync"
      local task = inner.spawn(inner.sleep, 1000)
      p:resolve(task)
      task:await()
    end)(handed)
    if unsync.select{handed, call} == handed then handed:await():cancel({long}) end
    fails("cancelled", call.await, call)
    local alone = unsync.spawn(unsync.sleep, 1000)
    local waits = unsync[kind](function(f) return require "unsync".timeout(0.001, f.await, f) end)(alone)
    fails("timeout", waits.await, waits)
    fails("cancelled", alone.await, alone)
  end
end)

step("a crash", function()
  local call = unsync.cpu(function() os.exit(3) end)()
  same(3, fails("crashed", call.await, call).exit_code)
end)

step("native", function()
  local told = 0
  local call = unsync.thread("echo.work")(3, 1)
  call:progress(function() told = told + 1 end)
  call:await()
  fails("plugin", unsync.thread, "echo.nothing")
  same("string", type(unsync.plugin("echo").version))
end)

step("looks", function()
  local p = unsync.promise()
  local waits = unsync.spawn(function() p:await() end)
  assert(#unsync.tasks() >= 1)
  tostring(unsync.why(waits))
  p:resolve()
  waits:await()
end)

step("a pipe", function()
  local file <close> = assert(io.popen("echo x"))
  same("x", (assert(file:read("l"))))
end)

-- Outside of a step, whose limit of time is hope.
local found, deadlock = pcall(function() unsync.promise():await() end)
assert(not found and (type(deadlock) == "string" or deadlock.code == "deadlock"), deadlock)
print("end")
