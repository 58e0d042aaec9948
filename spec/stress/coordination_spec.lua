-- Seeded random programs of tasks, channels, select, semaphores, mutexes, barriers, cancels and timeouts. Whatever
-- happens, nothing is lost, doubled or left locked. UNSYNC_SEED=n replays one; UNSYNC_SEEDS=n runs so many.
local unsync = require("unsync")

local function program(seed)
  local state = seed * 2654435761 % 2 ^ 32 // 1 | 0
  local function random(n) -- the same everywhere, and nobody else's draws in between
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return (state >> 8) % n + 1
  end

  local channels, sem, mutex = {}, unsync.semaphore(2), unsync.mutex()
  for i = 1, 3 do channels[i] = unsync.channel(random(4) - 1) end
  local sent, got, next_item = {}, {}, 0
  local inside, locked = 0, 0
  local tasks = {}

  local function received(item)
    assert(not got[item], "received twice")
    got[item] = true
  end

  --- An item counts as sent if its send has returned; one whose send was cancelled must not arrive, so it is marked.
  local function sending(body)
    next_item = next_item + 1
    local item = next_item
    sent[item] = "no"
    if body(item) then sent[item] = "yes" end
  end

  local steps = {
    function() sending(function(item) channels[random(3)]:send(item) return true end) end,
    function() sending(function(item) return (channels[random(3)]:try_send(item)) end) end,
    function() received((channels[random(3)]:recv())) end,
    function()
      local ok, item = channels[random(3)]:try_recv()
      if ok then received(item) end
    end,
    function()
      sending(function(item)
        local a, b = channels[random(3)], channels[random(3)]
        local limit = random(3) == 1 and 0.001 or nil
        local results = table.pack(unsync.select({a, {send = b, value = item}, timeout = limit}))
        if results.n == 2 and results[1] then received(results[2]) end
        return results.n == 1
      end)
    end,
    function()
      local _ <close> = sem:acquire()
      inside = inside + 1
      assert(inside <= 2)
      local _ <close> = setmetatable({}, {__close = function() inside = inside - 1 end})
      unsync.yield()
    end,
    function()
      local _ <close> = mutex:lock()
      locked = locked + 1
      assert(locked == 1)
      local _ <close> = setmetatable({}, {__close = function() locked = locked - 1 end})
      unsync.yield()
    end,
    unsync.yield,
    function() tasks[random(#tasks)]:cancel() end,
    function()
      local ok, err = pcall(unsync.timeout, (random(3) - 1) / 1000, function()
        received((channels[random(3)]:recv()))
      end)
      assert(ok or err.code == "timeout" or err.code == "cancelled", err)
    end,
  }

  for i = 1, 12 do
    local count = random(8)
    tasks[i] = unsync.spawn(function()
      unsync.yield()
      for _ = 1, count do steps[random(#steps)]() end
    end)
  end

  -- Who still waits is helped until all have ended: what is in the channels is taken, who wants an item gets one.
  local stuck = 0
  for _, task in ipairs(tasks) do
    while not task:done() do
      unsync.sleep(0)
      stuck = stuck + 1
      assert(stuck < 10000, "it hangs")
      for _, ch in ipairs(channels) do
        local ok, item = ch:try_recv()
        if ok then received(item) end
        if stuck % 3 == 0 then sending(function(fresh) return (ch:try_send(fresh)) end) end
      end
    end
    local err = task:error()
    assert(err == nil or err.code == "cancelled", err)
  end
  for _, ch in ipairs(channels) do
    ch:close()
    for item in ch do received(item) end
  end
  for item = 1, next_item do
    assert((sent[item] == "yes") == (got[item] == true), ("item %d: sent %s"):format(item, sent[item]))
  end
  assert(inside == 0 and locked == 0)
  assert(sem:try_acquire() and sem:try_acquire() and not sem:try_acquire())
  assert(mutex:try_lock())
  mutex:unlock()
end

describe("random programs", function()
  it("lose nothing, double nothing and leave nothing locked", function()
    local only = tonumber(os.getenv("UNSYNC_SEED"))
    for seed = only or 1, only or tonumber(os.getenv("UNSYNC_SEEDS")) or 200 do
      local ok, err = pcall(program, seed)
      assert(ok, ("UNSYNC_SEED=%d: %s"):format(seed, tostring(err)))
    end
  end)
end)
