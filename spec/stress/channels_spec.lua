-- Seeded random senders and receivers at channels that the script, threads and processes share, with timeouts, cancels,
-- closes, selects, and processes that are killed. What was sent is received once, or still there; what was not sent
-- never is; each sender's items arrive in order, but for those that a receiver that was cancelled put back: who has got
-- a later one by then may get it after that. UNSYNC_SEED=n replays one program; UNSYNC_SEEDS=n runs so many of each
-- kind.
local unsync = require("unsync")
local script = require("spec.support.script")
local uv = require("luv")

--- What a sender or a receiver does, wherever it runs. It writes down each step before and after, in `path` or in what
--- it returns: "try ITEM", "sent ITEM", "not ITEM", "got ITEM"; "left 0" where a receiver gave up waiting.
local function act(role, id, seed, count, channels, path, pid)
  local state = (seed * 7919 + id * 104729) % 2 ^ 31 // 1 | 0
  local function random(n)
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return (state >> 8) % n + 1
  end
  local lines, file = {}, path and assert(io.open(path, "a"))
  if pid then pid:resolve(require("luv").os_getpid()) end
  local function note(what, item)
    if not file then
      lines[#lines + 1] = what .. " " .. item
      return
    end
    file:write(what, " ", item, "\n")
    file:flush()
  end
  local function number_of(item) return type(item) == "table" and item.number or item end
  local function any() return channels[random(#channels)] end

  local sending = {
    function(item) any():send(item) return true end,
    function(item) return (any():try_send(item)) end,
    function(item) return (pcall(unsync.timeout, 0.0005 * random(4), channels[1].send, any(), item)) end,
    function(item)
      local task = unsync.spawn(channels[1].send, any(), item)
      if random(2) == 1 then unsync.yield() end
      task:cancel()
      return (pcall(task.await, task))
    end,
    function(item)
      local limit = random(2) == 1 and 0.0005 * random(4) or nil
      local own = unsync.channel() -- where nobody receives
      return (unsync.select({{send = any(), value = item}, {send = own, value = item}, {send = any(), value = item},
        timeout = limit})) ~= nil
    end,
  }
  local receiving = {
    -- Whoever waits without a limit does so at all of them, else all might wait at one and nobody at another.
    function()
      if #channels == 1 then return channels[1]:recv() end
      return select(2, unsync.select(channels))
    end,
    function() return select(2, any():try_recv()) end,
    function()
      local ok, item = pcall(unsync.timeout, 0.0005 * random(4), channels[1].recv, any())
      if ok then return item end
      note("left", 0)
    end,
    function()
      local task = unsync.spawn(channels[1].recv, any())
      if random(2) == 1 then unsync.yield() end
      task:cancel()
      local ok, item = pcall(task.await, task)
      if ok then return item end
      note("left", 0)
    end,
    function()
      local source, item = unsync.select({any(), unsync.channel(), any(), timeout = 0.0005 * random(4)})
      if source == nil then note("left", 0) end
      return item
    end,
  }

  if role == "send" then
    for i = 1, count do
      local number = id * 100000 + i
      note("try", number)
      local item = random(3) == 1 and {number = number, pad = ("x"):rep(random(60))} or number
      local ok, sent = pcall(sending[random(#sending)], item)
      note(ok and sent and "sent" or "not", number)
    end
  else
    local open = #channels
    while open > 0 do
      local got = receiving[random(#receiving)]()
      local number = number_of(got)
      if math.type(number) == "integer" then
        note("got", number)
      elseif random(20) == 1 then -- has all been closed, and is it empty?
        open = #channels
        for _, ch in ipairs(channels) do
          local ok, item = ch:try_recv()
          if ok then note("got", number_of(item))
          elseif item == "closed" then open = open - 1
          end
        end
      end
    end
  end
  if file then file:close() end
  return lines
end

local places = {unsync.io(act), unsync.thread(act), unsync.cpu(act)}

local count_of_programs = 0

local function program(seed, kills)
  local state = seed * 2654435761 % 2 ^ 31 // 1 | 0
  local function random(n)
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return (state >> 8) % n + 1
  end
  count_of_programs = count_of_programs + 1
  local channels, actors, each = {}, {}, 20 + random(40)
  for i = 1, random(3) do channels[i] = unsync.channel(({0, 1, 4, 30})[random(4)]) end
  local function start(role, id, place)
    local actor = {role = role, id = id, place = place}
    if place == 3 then
      actor.path = script.path(("log.%d.%d"):format(count_of_programs, id))
      actor.pid = unsync.promise()
    end
    actor.task = places[place](role, id, seed, each, channels, actor.path, actor.pid)
    actors[#actors + 1] = actor
  end
  local senders, receivers = 1 + random(4), random(4)
  start("receive", 1, 1) -- one that is never killed, so that everything ends
  for id = 2, 1 + receivers do start("receive", id, random(3)) end
  for id = 2 + receivers, 1 + receivers + senders do start("send", id, random(3)) end

  local killed = 0
  if kills then
    for _, actor in ipairs(actors) do
      if actor.pid and random(2) == 1 then
        unsync.spawn(function()
          local pid = actor.pid:await()
          unsync.sleep(0.001 * random(10))
          if not actor.task:done() and uv.kill(pid, "sigkill") == 0 then killed = killed + 1 end
        end)
      end
    end
  end
  if random(3) == 1 then -- one is closed in the middle
    unsync.spawn(function()
      unsync.sleep(0.001 * random(10))
      channels[1]:close()
    end)
  end

  local crashed = {send = 0, receive = 0}
  local function finish(actor)
    local ok, result = pcall(actor.task.await, actor.task)
    if not ok then
      assert(kills and result.code == "crashed", tostring(result))
      crashed[actor.role] = crashed[actor.role] + 1
    end
    if actor.path then
      result = {}
      local written, text = pcall(script.read_file, actor.path) -- killed before it began, it has written nothing
      for line in (written and text or ""):gmatch("[^\n]+") do result[#result + 1] = line end
    end
    actor.lines = ok and result or actor.path and result or {}
  end
  for _, actor in ipairs(actors) do
    if actor.role == "send" then finish(actor) end
  end
  for _, ch in ipairs(channels) do ch:close() end
  for _, actor in ipairs(actors) do
    if actor.role == "receive" then finish(actor) end
  end

  local fate, seen, left, late = {}, {}, 0, 0 -- of items: "try", "sent", "not"; how often they came
  for _, actor in ipairs(actors) do
    local last = {}
    for _, line in ipairs(actor.lines) do
      local what, number = line:match("^(%a+) (%d+)$")
      if what == "got" then
        number = tonumber(number)
        assert(not seen[number], "received twice: " .. number)
        seen[number] = true
        local sender = number // 100000
        if #channels == 1 and number < (last[sender] or 0) then late = late + 1 end
        last[sender] = number
      elseif what == "left" then
        left = left + 1
      elseif what then
        fate[tonumber(number)] = what
      end
    end
  end
  for _, ch in ipairs(channels) do
    for _, item in ch:items() do
      local number = type(item) == "table" and item.number or item
      assert(not seen[number], "received twice: " .. number)
      seen[number] = true
    end
  end
  assert(kills or late <= left, ("%d out of order, and %d may have been put back"):format(late, left))
  local lost = 0
  for number, what in pairs(fate) do
    assert(what ~= "not" or not seen[number], "received, but not sent: " .. number)
    if what == "sent" and not seen[number] then lost = lost + 1 end
  end
  for number in pairs(seen) do assert(fate[number], "received, but never thought of: " .. number) end
  -- A receiver that was killed may have had one that it had not written down.
  assert(lost <= crashed.receive, ("%d lost, and %d receivers were killed"):format(lost, crashed.receive))
end

local only = tonumber(os.getenv("UNSYNC_SEED") or "")
local seeds = tonumber(os.getenv("UNSYNC_SEEDS") or "") or 30

local function run(first, kills)
  for seed = only or first, only or first + seeds - 1 do
    local task = unsync.spawn(program, seed, kills)
    local ok, err = pcall(task.await, task, 30 * script.slowness)
    if not ok then error(("UNSYNC_SEED=%d: %s\n%s"):format(seed, tostring(err), task:traceback() or ""), 0) end
  end
end

describe("channels between the script, threads and processes", function()
  it("lose nothing, double nothing and keep each sender's order", function() run(1, false) end)

  it("lose no more than killed receivers had in hand", function() run(100001, true) end)
end)
