-- Channels within a state: what is sent is received once, in order; who waits is served in turn; close is seen by all.
local unsync = require("unsync")
local script = require("spec.support.script")

--- Lets all tasks go as far as they can.
local function settle()
  for _ = 1, 5 do unsync.yield() end
end

local function code_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return type(err) == "table" and err.code or err
end

describe("a channel without a capacity", function()
  it("hands each item over from hand to hand", function()
    local ch, log = unsync.channel(), {}
    local sender = unsync.spawn(function()
      for i = 1, 3 do
        ch:send(i)
        log[#log + 1] = "sent " .. i
      end
    end)
    settle()
    assert.same({}, log)
    for i = 1, 3 do assert.equal(i, ch:recv()) end
    sender:await()
    assert.same({"sent 1", "sent 2", "sent 3"}, log)
  end)

  it("serves receivers in the order they came", function()
    local ch, log = unsync.channel(), {}
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = unsync.spawn(function()
        local item = ch:recv()
        log[#log + 1] = i .. item
      end)
    end
    for _, item in ipairs({"a", "b", "c"}) do ch:send(item) end
    unsync.all(tasks):await()
    assert.same({"1a", "2b", "3c"}, log)
  end)

  it("serves senders in the order they came", function()
    local ch = unsync.channel()
    for i = 1, 3 do unsync.spawn(ch.send, ch, i) end
    assert.same({1, 2, 3}, {ch:recv(), ch:recv(), (ch:recv())})
  end)

  it("sends what it cannot take at once with neither loss nor a wait by try_send and try_recv", function()
    local ch = unsync.channel()
    assert.same({false, "full"}, {ch:try_send(1)})
    assert.same({false, "empty"}, {ch:try_recv()})
    local got = unsync.spawn(ch.recv, ch)
    assert.is_true(ch:try_send("x"))
    assert.equal("x", got:await())
    local sent = unsync.spawn(ch.send, ch, "y")
    assert.same({true, "y"}, {ch:try_recv()})
    sent:await()
  end)
end)

describe("a channel with a capacity", function()
  it("takes that many before a sender waits", function()
    local ch, sent = unsync.channel(3), 0
    local sender = unsync.spawn(function()
      for i = 1, 10 do
        ch:send(i)
        sent = i
      end
    end)
    assert.equal(3, sent)
    for i = 1, 10 do assert.equal(i, ch:recv()) end
    sender:await()
    assert.same({false, "empty"}, {ch:try_recv()})
  end)

  it("keeps its order as it grows and wraps around", function()
    local ch, next_in, next_out = unsync.channel(1000), 0, 0
    for round = 1, 60 do
      for _ = 1, round * 3 % 37 + 5 do
        next_in = next_in + 1
        assert(ch:try_send(next_in))
      end
      for _ = 1, round * 5 % 31 do
        if next_out < next_in then
          next_out = next_out + 1
          assert.equal(next_out, ch:recv())
        end
      end
    end
    ch:close()
    for item in ch do
      next_out = next_out + 1
      assert.equal(next_out, item)
    end
    assert.equal(next_in, next_out)
  end)

  it("holds nil, false and NaN as items like any others", function()
    local ch = unsync.channel(4)
    ch:send(nil)
    ch:send(false)
    ch:send(0 / 0)
    ch:send(nil)
    ch:close()
    local seen = {}
    for i, item in ch:items() do
      assert.equal(#seen + 1, i)
      seen[i] = tostring(item):gsub("-", "")
    end
    assert.same({"nil", "false", "nan", "nil"}, seen)
  end)

  it("passes tables on as they are", function()
    local ch, item = unsync.channel(1), {}
    ch:send(item)
    assert.equal(item, (ch:recv()))
  end)

  it("holds its items and nothing that has been received", function()
    local ch, weak = unsync.channel(2), setmetatable({}, {__mode = "v"})
    weak[1], weak[2] = {}, {}
    ch:send(weak[1])
    ch:send(weak[2])
    collectgarbage()
    assert.is_table(weak[1])
    ch:recv()
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
    assert.is_table(weak[2])
  end)
end)

describe("closing a channel", function()
  it("lets what is in it be received, then says closed", function()
    local ch = unsync.channel(2)
    ch:send("a")
    ch:send("b")
    ch:close()
    ch:close()
    assert.same({"a", n = 1}, table.pack(ch:recv()))
    assert.same({true, "b"}, {ch:try_recv()})
    assert.same({nil, "closed", n = 2}, table.pack(ch:recv()))
    assert.same({false, "closed"}, {ch:try_recv()})
    assert.same({false, "closed"}, {ch:try_send(1)})
    assert.equal("closed", code_of(ch.send, ch, 1))
  end)

  it("is seen by all who wait", function()
    local ch = unsync.channel()
    local receivers = {}
    for i = 1, 3 do receivers[i] = unsync.spawn(function() return table.pack(ch:recv()) end) end
    local loop = unsync.spawn(function() for _ in ch do error("no item") end return "ended" end)
    ch:close()
    for _, receiver in ipairs(receivers) do assert.same({nil, "closed", n = 2}, receiver:await()) end
    assert.equal("ended", loop:await())

    local full = unsync.channel()
    local sender = unsync.spawn(full.send, full, 1)
    full:close()
    assert.equal("closed", code_of(sender.await, sender))
    assert.same({nil, "closed", n = 2}, table.pack(full:recv()))
  end)

  it("comes with the end of the block that declared it <close>", function()
    local kept
    do
      local ch <close> = unsync.channel()
      kept = ch
    end
    assert.same({false, "closed"}, {kept:try_recv()})
  end)
end)

describe("a channel in a for loop", function()
  it("ends at nil", function()
    local ch, seen = unsync.channel(4), {}
    for _, item in ipairs({1, 2}) do ch:send(item) end
    ch:send(nil)
    ch:send(3)
    for item in ch do seen[#seen + 1] = item end
    assert.same({1, 2}, seen)
    assert.equal(3, ch:recv())
  end)

  it("may be read by a generator of the user's", function()
    local ch = unsync.channel()
    local doubled = coroutine.wrap(function() for item in ch do coroutine.yield(2 * item) end end)
    unsync.spawn(function()
      for i = 1, 3 do ch:send(i) end
      ch:close()
    end)
    assert.same({2, 4, 6}, {doubled(), doubled(), (doubled())})
  end)
end)

describe("a wait at a channel that is cancelled", function()
  it("loses no item: a receiver", function()
    local ch = unsync.channel()
    local first, second = unsync.spawn(ch.recv, ch), unsync.spawn(ch.recv, ch)
    settle()
    first:cancel()
    ch:send("x")
    assert.equal("x", second:await())
    assert.equal("cancelled", code_of(first.await, first))
  end)

  it("sends nothing: a sender", function()
    local ch = unsync.channel()
    local first, second = unsync.spawn(ch.send, ch, 1), unsync.spawn(ch.send, ch, 2)
    settle()
    first:cancel()
    assert.equal(2, ch:recv())
    assert.same({false, "empty"}, {ch:try_recv()})
    assert.equal("cancelled", code_of(first.await, first))
    second:await()
  end)

  it("keeps what it was given in the same moment", function()
    local ch = unsync.channel()
    local receiver = unsync.spawn(function()
      local item = ch:recv()
      return item, (pcall(unsync.sleep, 0))
    end)
    settle()
    ch:send("mine")
    receiver:cancel()
    assert.same({"mine", false}, {receiver:await()})
  end)

  it("puts back what it was given when Ctrl-C comes in the same moment", function()
    local ran = script.run([[
      local unsync = require("unsync")
      local uv = require("luv")
      local ch = unsync.channel()
      unsync.spawn(function()
        unsync.yield()
        ch:send("item")
        pcall(uv.kill, uv.getpid(), "sigint")
      end)
      print(pcall(ch.recv, ch))
      print(ch:try_recv())
    ]], {limit_s = 10})
    assert.same({"false\tinterrupted\ntrue\titem\n", 130}, {ran.out, ran.code})
  end)

  it("ends by a timeout", function()
    local ch = unsync.channel()
    assert.equal("timeout", code_of(unsync.timeout, 0.005, ch.recv, ch))
    assert.equal("timeout", code_of(unsync.timeout, 0.005, ch.send, ch, 1))
    assert.same({false, "empty"}, {ch:try_recv()})
  end)
end)

describe("channels between many tasks", function()
  it("lose nothing, double nothing, and hand out each sender's items in order", function()
    local ch, count, senders, receivers = unsync.channel(7), 200, {}, {}
    local seen, total = {}, 0
    for s = 1, 20 do
      senders[s] = unsync.spawn(function()
        for i = 1, count do
          ch:send({s, i})
          if (s + i) % 5 == 0 then unsync.yield() end
        end
      end)
    end
    for r = 1, 9 do
      receivers[r] = unsync.spawn(function()
        local last = {}
        for item in ch do
          local s, i = item[1], item[2]
          assert(i > (last[s] or 0), "out of order")
          assert(not seen[item], "doubled")
          last[s], seen[item] = i, true
          total = total + 1
          if i % 7 == 0 then unsync.yield() end
        end
      end)
    end
    unsync.all(senders):await()
    ch:close()
    unsync.all(receivers):await()
    assert.equal(20 * count, total)
  end)

  it("let other tasks have their turns", function()
    local ch, turns = unsync.channel(1), 0
    local busy = unsync.spawn(function()
      for _ = 1, 20000 do
        ch:send(1)
        ch:recv()
      end
    end)
    local other = unsync.spawn(function()
      while not busy:done() do
        turns = turns + 1
        unsync.yield()
      end
    end)
    busy:await()
    other:await()
    assert.is_true(turns > 10)
  end)

  it("lose no item to cancellations, in 2,000 rounds", function()
    local ch, sent, got = unsync.channel(), 0, 0
    for round = 1, 2000 do
      local receiver = unsync.spawn(function()
        ch:recv()
        got = got + 1
      end)
      local sender = unsync.spawn(function()
        ch:send(round)
        sent = sent + 1
      end)
      if round % 3 == 0 then receiver:cancel() end
      if round % 4 == 0 then sender:cancel() end
      if round % 2 == 0 then unsync.yield() end
    end
    settle()
    while true do
      local ok = ch:try_recv()
      if not ok then break end
      got = got + 1
      settle()
    end
    while sent < got do settle() end
    assert.equal(sent, got)
    ch:close()
  end)
end)

describe("a channel that nobody can serve", function()
  it("raises deadlock, not a hang", function()
    local ch = unsync.channel()
    local err = select(2, pcall(ch.recv, ch))
    assert.equal("deadlock", err.code)
    assert.matches("an item from a channel", err.message)
    assert.equal("deadlock", code_of(ch.send, ch, 1))
    assert.same({false, "empty"}, {ch:try_recv()})
  end)
end)

describe("bad input", function()
  it("is refused with a clear error", function()
    for _, capacity in ipairs({-1, 1.5, 0 / 0, math.huge, 2 ^ 40, "x", {}, true}) do
      assert.is_false((pcall(unsync.channel, capacity)), tostring(capacity))
    end
    assert.matches("negative", code_of(unsync.channel, -1))
    assert.matches("out of range", code_of(unsync.channel, 2 ^ 40))
    local ch = unsync.channel(2 ^ 30)
    assert.matches("bad argument", code_of(ch.send, ch))
    assert.matches("unsync.Channel expected", code_of(ch.send, {}, 1))
    assert.matches("unsync.Channel expected", code_of(ch.recv))
    assert.equal("channel: 0 of 1073741824 items", tostring(ch))
  end)
end)
