--- Random trees of calls on every executor: grown from a seed as plain data, so that a subtree can be sent to a worker,
--- and performed by the same interpreter wherever it lands.
---
--- A call is `{id =, place = "io" | "thread" | "cpu", steps = {…}}`, a step `{verb, …}`. Whatever a program does, these
--- hold in each state, and a line that begins with "broken:" on stderr says which does not:
---   - a task that began has ended, once, before the call that owns it settles
---   - a call that is done gave its own id; one that is not failed in a way that its tree may fail
---   - a permit is held by at most as many as there are, a mutex by one
---   - a context variable is what the caller's was at the call
local unsync = require("unsync")

local tree = {}

local request = unsync.var("none")

--- The class of the failures that a tree has in it: it crosses by its name in this module.
tree.planned = {__tostring = function(err) return "planned failure of call " .. err.id end}

-- ---- growing ----

--- Draws that depend on the seed alone, the same on every machine.
local function source(seed)
  local state = (seed * 2654435761 + 97) & 0x7fffffff
  return function(n)
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return (state >> 8) % n + 1
  end
end

--- A random program.
function tree.grow(seed)
  local random = source(seed)
  local calls, crashes, next_id = 6 + random(20), 0, 0
  local grow_call

  local function grow_child(depth, place)
    -- What a worker starts is more often io: a tree of processes alone would be slow, not harder.
    local places = depth == 1 and {"io", "thread", "cpu"} or {"io", "io", "thread", place == "cpu" and "io" or "cpu"}
    return grow_call(depth + 1, places[random(#places)])
  end

  local function one(depth, place)
    local draw = random(22)
    if draw <= 9 and depth < 4 and next_id < calls then
      local ways = {"await", "await", "await", "leave", "cancel", "cancel_late", "await_limit", "timeout", "race",
        "all", "close", "option", "scope", "detour", "afar", "detour_cancel"}
      local way = ways[random(#ways)]
      local step = {"call", way, grow_child(depth, place), amount = random(4)}
      if way == "race" or way == "all" or way == "scope" then step[4] = grow_child(depth, place) end
      return step
    end
    if draw <= 11 then return {"yield"} end
    if draw <= 12 then return {"sleep", random(3) / 1000} end
    if draw <= 13 then return {"work", random(20000)} end
    if draw <= 14 then return {"permit"} end
    if draw <= 15 then return {"lock"} end
    if draw <= 16 then return {"context"} end
    if draw <= 17 then return {"swallow"} end
    if draw <= 18 then return {"clean_up"} end
    if draw <= 19 then return random(3) == 1 and {"fail"} or {"promise", random(3)} end
    if draw == 20 and place == "cpu" and crashes < 2 then
      crashes = crashes + 1
      return {"crash", random(2) == 1 and "kill" or "exit"}
    end
    return {"pipe", random(4) - 1, random(6), ({"io", "io", "thread", "cpu"})[random(4)]}
  end

  function grow_call(depth, place)
    next_id = next_id + 1
    local call = {id = next_id, place = place, steps = {}}
    for i = 1, 1 + random(4) do call.steps[i] = one(depth, place) end
    return call
  end

  return grow_call(1, "io")
end

-- ---- performing ----

--- What a call of any tree may fail with.
local expected = {planned = true, cancelled = true, timeout = true, crashed = true, all_failed = true}

local function broken(...)
  io.stderr:write("broken: ", string.format(...), "\n")
end

--- Looks at a failure: is it one of those that are planned?
local function check_error(err)
  if type(err) ~= "table" or not expected[err.code] then
    broken("an error that nobody planned: %s", tostring(err))
  end
end

local perform

--- Performs a whole call in this state: a ledger says at the end that all that began has ended.
local function enter(call, context)
  if request:get() ~= context then broken("call %d: its context is %s, not %s", call.id, request:get(), context) end
  local world = {
    began = 0, ended = 0, inside = 0, locked = 0,
    permits = unsync.semaphore(2), mutex = unsync.mutex(),
  }
  local ok, result = pcall(unsync.scope, function() return perform(call, world) end)
  if world.began ~= world.ended then
    broken("call %d: %d began, %d have ended", call.id, world.began, world.ended)
  end
  if world.inside ~= 0 or world.locked ~= 0 then broken("call %d: something is held", call.id) end
  if not (world.permits:try_acquire() and world.permits:try_acquire()) or world.permits:try_acquire() then
    broken("call %d: permits lost or made", call.id)
  end
  if not world.mutex:try_lock() then broken("call %d: the mutex is locked", call.id) else world.mutex:unlock() end
  if not ok then
    check_error(result)
    error(result, 0)
  end
  return result
end
tree.enter = enter

local limits = {
  io = {timeout = 0.01},
  thread = {timeout = 0.01, grace = 0.1},
  cpu = {run_timeout = 0.03, grace = 0.1},
}

local function start(call, world, limited)
  local options = limited and limits[call.place] or {}
  options.name = "call " .. call.id
  if call.place == "io" then return unsync.io(perform, options)(call, world) end
  return unsync[call.place](enter, options)(call, request:get())
end

--- Awaits and checks: the result is the call's id, or the error one of those that may be.
local function outcome(call, future, ...)
  local ok, result = pcall(future.await, future, ...)
  if not ok then check_error(result)
  elseif result ~= call.id then broken("call %d gave %s", call.id, tostring(result)) end
  return ok, result
end

local ways = {}

function ways.await(step, world)
  outcome(step[3], start(step[3], world))
end

function ways.leave(step, world)
  start(step[3], world)
end

function ways.cancel(step, world)
  local future = start(step[3], world)
  future:cancel("not wanted")
  outcome(step[3], future)
end

function ways.cancel_late(step, world)
  local future = start(step[3], world)
  for _ = 1, step.amount do unsync.yield() end
  if step.amount > 2 then unsync.sleep(step.amount / 2000) end
  local first, again = future:cancel(), future:cancel()
  if again and not first then broken("call %d: cancelled after it had settled", step[3].id) end
  outcome(step[3], future)
end

function ways.await_limit(step, world)
  local future = start(step[3], world)
  if not outcome(step[3], future, step.amount / 1000) and not future:done() then outcome(step[3], future) end
end

function ways.timeout(step, world)
  local ok, err = pcall(unsync.timeout, step.amount / 1000, function()
    return start(step[3], world):await()
  end)
  if not ok then check_error(err) end
end

function ways.race(step, world)
  local ok, err = pcall(function() return unsync.race({start(step[3], world), start(step[4], world)}):await() end)
  if not ok then check_error(err) end
end

function ways.all(step, world)
  local ok, err = pcall(function() return unsync.all({start(step[3], world), start(step[4], world)}):await() end)
  if not ok then check_error(err)
  elseif err[1] ~= step[3].id or err[2] ~= step[4].id then broken("all: results in another order") end
end

function ways.close(step, world)
  local future
  do
    local child <close> = start(step[3], world)
    future = child
    unsync.yield()
  end
  if not future:done() then broken("call %d: left its block and is not done", step[3].id) end
  future:error()
end

function ways.option(step, world)
  outcome(step[3], start(step[3], world, true))
end

function ways.scope(step, world)
  local one, two
  local ok, err = pcall(unsync.scope, {timeout = step.amount > 2 and step.amount / 500 or nil, limit = 1}, function(s)
    one = s:spawn(start, step[3], world)
    two = s:spawn(start, step[4], world)
  end)
  if not ok then check_error(err) end
  if one and not one:done() or two and not two:done() then broken("a scope left its children") end
end

--- Handed to somebody else, who waits for it elsewhere.
function ways.detour(step, world)
  local future = start(step[3], world)
  local elsewhere = unsync.thread(function(f) return f:await() end)(future)
  outcome(step[3], elsewhere)
  future:error()
end

--- The same, but who waits there is stopped: what nobody else waits for may go with it.
function ways.detour_cancel(step, world)
  local future = start(step[3], world)
  local place = step.amount > 3 and unsync.cpu or unsync.thread
  local elsewhere = place(function(f) return f:await() end)(future)
  for _ = 1, step.amount do unsync.yield() end
  elsewhere:cancel()
  outcome(step[3], elsewhere)
  outcome(step[3], future)
end

--- Cancelled by somebody who did not make it.
function ways.afar(step, world)
  local future = start(step[3], world)
  local place = step.amount > 3 and unsync.cpu or unsync.thread
  local asked = place(function(f) return f:cancel("from afar") end)(future)
  local ok, err = pcall(asked.await, asked)
  if not ok then check_error(err) end
  outcome(step[3], future)
  if future:done() and future:cancel() then broken("call %d: cancelled after it had settled", step[3].id) end
end

local verbs = {}

function verbs.call(step, world) ways[step[2]](step, world) end
verbs["yield"] = function() unsync.yield() end
function verbs.sleep(step) unsync.sleep(step[2]) end
function verbs.fail(_, _, call) error(setmetatable({code = "planned", id = call.id}, tree.planned)) end

function verbs.work(step)
  local sum = 0
  for i = 1, step[2] do sum = sum + i % 7 end
  return sum
end

function verbs.permit(_, world)
  local _ <close> = world.permits:acquire()
  world.inside = world.inside + 1
  if world.inside > 2 then broken("three inside a semaphore of two") end
  local _ <close> = setmetatable({}, {__close = function() world.inside = world.inside - 1 end})
  unsync.yield()
end

function verbs.lock(_, world)
  local _ <close> = world.mutex:lock()
  world.locked = world.locked + 1
  if world.locked > 1 then broken("two hold one mutex") end
  local _ <close> = setmetatable({}, {__close = function() world.locked = world.locked - 1 end})
  unsync.sleep(0)
end

function verbs.context(_, world, call)
  request:with("inner " .. call.id, function()
    local seen = unsync.spawn(function()
      unsync.yield()
      return request:get()
    end)
    local ok, value = pcall(seen.await, seen)
    if not ok then check_error(value)
    elseif value ~= "inner " .. call.id then broken("call %d: a child sees the context %s", call.id, value) end
  end)
  return world
end

--- Swallows what comes at one wait; the next one says it again.
function verbs.swallow()
  local ok, err = pcall(unsync.sleep, 0.002)
  if not ok then
    check_error(err)
    local again = pcall(unsync.yield)
    if again then broken("a cancellation went away") end
  end
end

function verbs.clean_up()
  local _ <close> = setmetatable({}, {__close = function()
    local value = unsync.shield(function()
      unsync.sleep(0)
      return "clean"
    end)
    if value ~= "clean" then broken("a shield gave %s", tostring(value)) end
  end})
  unsync.yield()
end

--- A promise goes to another executor, which settles it; whoever comes first wins, once.
function verbs.promise(step)
  local places = {unsync.io, unsync.thread, unsync.thread}
  local promise = unsync.promise()
  local settle = places[step[2]](function(p) return p:resolve("theirs") end)
  local call = settle(promise)
  if step[2] == 3 then promise:resolve("ours") end
  local ok, value = pcall(promise.await, promise)
  if not ok then check_error(value)
  elseif value ~= "theirs" and value ~= "ours" then broken("a promise gave %s", tostring(value)) end
  local fine, won = pcall(call.await, call)
  if not fine then check_error(won)
  elseif ok and won ~= (value == "theirs") then broken("a promise has settled twice, or never") end
end

--- Items through a channel of that capacity, from there: all of them, once, in order.
function verbs.pipe(step)
  local capacity, count = step[2], step[3]
  local channel = unsync.channel(capacity)
  local sender = unsync[step[4]](function(to)
    for i = 1, count do to:send(i) end
    to:close()
  end)(channel)
  local ok, err = pcall(function()
    local last = 0
    for item in channel do
      if item ~= last + 1 then broken("item %d came after %d", item, last) end
      last = item
    end
    if last ~= count then broken("%d of %d items came", last, count) end
  end)
  if not ok then
    check_error(err)
    sender:cancel()
  end
  sender:error()
end

function verbs.crash(step)
  if step[2] == "exit" then os.exit(3) end
  local uv = require("luv")
  uv.kill(uv.os_getpid(), "sigkill")
end

function perform(call, world)
  world.began = world.began + 1
  local _ <close> = setmetatable({}, {__close = function() world.ended = world.ended + 1 end})
  for _, step in ipairs(call.steps) do verbs[step[1]](step, world, call) end
  return call.id
end

--- Performs the program of a seed here.
function tree.run(seed)
  request:with("seed " .. seed, function()
    local ok, err = pcall(enter, tree.grow(seed), "seed " .. seed)
    if not ok then check_error(err) end
  end)
end

return tree
