-- Stale wake-ups: a wait is raced by its timeout, a cancellation, and what it waits for, from here and from threads.
-- What loses the race must never resume a later wait. UNSYNC_ROUNDS says how many rounds.
local script = require("spec.support.script")
local unsync = require("unsync")

local ROUNDS = tonumber(os.getenv("UNSYNC_ROUNDS")) or 100000 // script.slowness ^ 2
local LANES = 50 -- so many rounds are under way at a time: most wait for the clock's next tick

local function random_of(seed)
  local state = seed
  return function(n)
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return (state >> 8) % n + 1
  end
end

--- Each wait is given a value of its own: a result that belongs to an earlier one is a stale wake-up.
describe("a wait that lost its race", function()
  it("never wakes the next one", function()
    local random = random_of(7)
    local settle = unsync.thread(function(promise, value)
      promise:resolve(value)
      return value
    end, {limit = 4})
    local calls, threads = {}, 0

    local function race(round)
      local channel, event, promise = unsync.channel(random(2) - 1), unsync.event(), unsync.promise()
      local how, limit = random(6), random(3) == 1 and 0 or 1e-5 * random(4)
      local waits = 0

      local waiter = unsync.spawn(function()
        for step = 1, 3 do
          local ok, value
          if how == 1 then
            ok, value = pcall(unsync.timeout, limit, channel.recv, channel)
          elseif how == 2 then
            ok, value = pcall(promise.await, promise, limit)
          elseif how == 3 then
            ok, value = pcall(unsync.timeout, limit, event.wait, event)
            if ok then value = round end
          elseif how == 4 then
            local source, item = unsync.select({channel, promise, timeout = limit})
            ok, value = source ~= nil, item
          elseif how == 5 then
            ok, value = pcall(unsync.sleep, limit)
            if ok then value = round end
          else
            ok, value = pcall(unsync.timeout, limit, function()
              unsync.yield()
              return promise:await()
            end)
          end
          waits = waits + 1
          if ok then
            assert(value == round, ("round %d, wait %d: woken with %s"):format(round, step, tostring(value)))
          elseif type(value) == "table" then
            assert(value.code == "timeout" or value.code == "cancelled", value)
          end
        end
      end)

      local act = random(5)
      if act == 1 then unsync.yield() end
      if act == 2 then waiter:cancel() end
      if random(2) == 1 then channel:try_send(round) end
      if random(2) == 1 then event:set() end
      if random(20) == 1 then
        threads = threads + 1
        calls[threads % 8] = settle(promise, round)
      elseif random(2) == 1 then
        promise:resolve(round)
      end
      if act == 3 then
        unsync.yield()
        waiter:cancel()
      end
      local ok, err = pcall(waiter.await, waiter)
      assert(ok and waits == 3 or not ok and err.code == "cancelled", err)
    end
    unsync.scope(function(s)
      for lane = 1, LANES do
        s:spawn(function()
          for round = lane, ROUNDS, LANES do race(round) end
        end)
      end
    end)
    for _, call in pairs(calls) do call:await() end
    assert(threads > ROUNDS // 50)
  end)
end)
