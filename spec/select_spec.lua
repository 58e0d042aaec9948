-- select: one wait for whichever comes first; what was not chosen is untouched.
local unsync = require("unsync")

local function settle()
  for _ = 1, 5 do unsync.yield() end
end

local function pack(...) return table.pack(...) end

describe("unsync.select", function()
  it("returns a channel that has an item, and the item", function()
    local a, b = unsync.channel(1), unsync.channel(1)
    b:send("x")
    assert.same({b, "x", n = 2}, pack(unsync.select({a, b})))
    a:send(nil)
    assert.same({a, nil, n = 2}, pack(unsync.select({a, b})))
  end)

  it("waits for the first item to come", function()
    local a, b = unsync.channel(), unsync.channel()
    local chosen = unsync.spawn(function() return unsync.select({a, b}) end)
    settle()
    b:send(7)
    assert.same({b, 7}, {chosen:await()})
    assert.same({false, "full"}, {a:try_send(1)}) -- it waits there no more
    assert.same({false, "full"}, {b:try_send(1)})
  end)

  it("serves the first of several that are ready, and no other", function()
    local a, b = unsync.channel(1), unsync.channel(1)
    a:send(1)
    b:send(2)
    assert.same({a, 1}, {unsync.select({a, b})})
    assert.same({true, 2}, {b:try_recv()})
  end)

  it("sends where there is room, and returns the channel", function()
    local full, open = unsync.channel(), unsync.channel(1)
    assert.same({open, n = 1}, pack(unsync.select({{send = full, value = 1}, {send = open, value = 2}})))
    assert.equal(2, open:recv())
  end)

  it("waits for room, and sends what was not chosen to nobody", function()
    local a, b = unsync.channel(), unsync.channel()
    local chosen = unsync.spawn(function()
      return unsync.select({{send = a, value = "a"}, {send = b, value = "b"}})
    end)
    settle()
    assert.equal("b", b:recv())
    assert.equal(b, (chosen:await()))
    assert.same({false, "empty"}, {a:try_recv()})
  end)

  it("sends and receives at the same channel, never with itself", function()
    local ch = unsync.channel()
    local function both(value)
      return unsync.spawn(function() return unsync.select({ch, {send = ch, value = value}}) end)
    end
    local one = both(1)
    settle()
    assert.is_false(one:done())
    local two = both(2)
    assert.same({ch, 1}, {two:await()})
    assert.same({ch, n = 1}, pack(one:await()))
  end)

  it("returns a future that is settled, with its results", function()
    local slow, ready = unsync.promise(), unsync.resolved(1, nil, 3)
    assert.same({ready, 1, nil, 3, n = 4}, pack(unsync.select({slow, ready})))
    local later = unsync.spawn(function() return unsync.select({slow, unsync.channel()}) end)
    settle()
    slow:resolve("now")
    assert.same({slow, "now"}, {later:await()})
  end)

  it("returns a failed future alone: its await raises", function()
    local failed = unsync.rejected("no")
    assert.same({failed, n = 1}, pack(unsync.select({failed})))
    assert.same({false, "no"}, {pcall(failed.await, failed)})
  end)

  it("takes calls in threads and processes", function()
    local here = unsync.channel()
    local there = unsync.thread(function(x) return x * 2 end)(21)
    assert.same({there, 42}, {unsync.select({here, there})})
    there = unsync.cpu(function(x) return x * 2 end)(4)
    assert.same({there, 8}, {unsync.select({here, there, timeout = 20})})
  end)

  it("returns nil and timeout when its time is over", function()
    local ch = unsync.channel()
    local start = unsync.now()
    assert.same({nil, "timeout", n = 2}, pack(unsync.select({ch, timeout = 0.01})))
    assert.is_true(unsync.now() - start >= 0.01)
    assert.same({nil, "timeout", n = 2}, pack(unsync.select({ch, timeout = 0})))
    assert.same({false, "full"}, {ch:try_send(1)})
  end)

  it("sleeps where there is only a timeout", function()
    local start = unsync.now()
    assert.same({nil, "timeout", n = 2}, pack(unsync.select({timeout = 0.01})))
    assert.is_true(unsync.now() - start >= 0.01)
    assert.same({nil, "timeout", n = 2}, pack(unsync.select({timeout = 0})))
  end)

  it("says of a closed channel what recv and send say", function()
    local ch = unsync.channel()
    local waiting = unsync.spawn(function() return pack(unsync.select({ch})) end)
    local sending = unsync.spawn(function() return unsync.select({{send = ch, value = 1}, unsync.promise()}) end)
    settle() -- the two do not meet: the one that came later was served at once
    assert.same({ch, 1, n = 2}, waiting:await())
    assert.equal(ch, (sending:await()))

    waiting = unsync.spawn(function() return pack(unsync.select({ch})) end)
    ch:close()
    assert.same({ch, nil, "closed", n = 3}, waiting:await())
    assert.same({ch, nil, "closed", n = 3}, pack(unsync.select({ch})))
    local ok, err = pcall(unsync.select, {{send = ch, value = 1}})
    assert.same({false, "closed"}, {ok, err.code})
    ch = unsync.channel()
    sending = unsync.spawn(function() return unsync.select({{send = ch, value = 1}}) end)
    ch:close()
    ok, err = pcall(sending.await, sending)
    assert.same({false, "closed"}, {ok, err.code})
  end)

  it("loses nothing when it is cancelled", function()
    local a, b = unsync.channel(), unsync.channel()
    local waiting = unsync.spawn(function() return unsync.select({a, {send = b, value = 1}}) end)
    settle()
    waiting:cancel()
    assert.same({false, "full"}, {a:try_send(1)})
    assert.same({false, "empty"}, {b:try_recv()})
    settle()
    assert.is_true(waiting:cancelled())
  end)

  it("keeps what it was given in the same moment as a cancellation", function()
    local ch = unsync.channel()
    local waiting = unsync.spawn(function() return unsync.select({ch}) end)
    settle()
    ch:send("x")
    waiting:cancel()
    assert.same({ch, "x"}, {waiting:await()})
  end)

  it("leaves a future that it waited for alone", function()
    local work = unsync.spawn(unsync.sleep, 0.02)
    local waiting = unsync.spawn(function() return unsync.select({work}) end)
    settle()
    waiting:cancel()
    settle()
    assert.is_false(work:done())
    work:await()
  end)

  it("is a deadlock where nothing can come", function()
    local ok, err = pcall(unsync.select, {unsync.channel(), unsync.promise()})
    assert.same({false, "deadlock"}, {ok, err.code})
  end)

  it("loses and doubles nothing among many, in 3,000 rounds", function()
    local channels, sent, got = {}, 0, 0
    for i = 1, 5 do channels[i] = unsync.channel(i % 3) end
    local receivers = {}
    for r = 1, 4 do
      receivers[r] = unsync.spawn(function()
        local open = table.move(channels, 1, 5, 1, {})
        while #open > 0 do
          local source, item, closed = unsync.select(open)
          if closed then
            for i, ch in ipairs(open) do
              if ch == source then
                table.remove(open, i)
                break
              end
            end
          else
            got = got + item
          end
        end
      end)
    end
    local senders = {}
    for s = 1, 3 do
      senders[s] = unsync.spawn(function()
        for i = 1, 1000 do
          local cases = {timeout = i % 5 == 0 and 0 or nil}
          for c = 1, 5 do cases[c] = {send = channels[(i + s + c) % 5 + 1], value = 1} end
          local source = unsync.select(cases)
          if source then sent = sent + 1 end
          if i % 9 == 0 then unsync.yield() end
        end
      end)
    end
    unsync.all(senders):await()
    for _, ch in ipairs(channels) do ch:close() end
    unsync.all(receivers):await()
    assert.is_true(sent > 2000)
    assert.equal(sent, got)
  end)

  it("raises over nothing, and for what cannot be waited for, before it has done anything", function()
    local function refused(list, pattern)
      local ok, err = pcall(unsync.select, list)
      assert.is_false(ok)
      assert.matches(pattern, tostring(err))
    end
    local ch = unsync.channel(1)
    ch:send(1)
    refused({}, "nothing to wait for")
    refused(nil, "table expected")
    refused(ch, "table expected")
    refused({ch, 7}, "item 2 is a number")
    refused({ch, {send = 1}}, "item 2: 'send' is a number")
    refused({ch, {}}, "item 2: 'send' is a nil")
    refused({ch, timeout = -1}, "timeout")
    refused({ch, timeout = 0 / 0}, "timeout")
    refused({ch, timeout = "soon"}, "'timeout' is a string")
    assert.same({true, 1}, {ch:try_recv()})
    assert.same({nil, "timeout"}, {unsync.select({timeout = 0, ch})})
  end)
end)
