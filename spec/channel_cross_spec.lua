-- Channels between states: what is sent is received once, whoever has the other end: the script, a thread, a process.
local unsync = require("unsync")
local script = require("spec.support.script")

local function code_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return type(err) == "table" and err.code or err
end

--- Waits until `condition` holds, for what another state does.
local function eventually(condition)
  assert.is_true(script.eventually(condition, 20))
end

for _, place in ipairs({"thread", "cpu"}) do
  local away = unsync[place]

  describe("a channel in a " .. place .. " function", function()
    local produce = away(function(ch, n)
      for i = 1, n do ch:send(i) end
      ch:close()
      return n
    end)
    local consume = away(function(ch)
      local items = {}
      for i, item in ch:items() do items[i] = item == nil and "nil" or item end
      return items
    end)

    it("is sent to by it, and received from here", function()
      for _, capacity in ipairs({0, 1, 16}) do
        local ch, seen = unsync.channel(capacity), {}
        local producer = produce(ch, 50)
        for item in ch do seen[#seen + 1] = item end
        assert.equal(50, producer:await())
        assert.equal(50, #seen)
        for i, item in ipairs(seen) do assert.equal(i, item) end
        assert.same({nil, "closed", n = 2}, table.pack(ch:recv()))
        assert.same({false, "closed"}, {ch:try_recv()})
        assert.equal("closed", code_of(ch.send, ch, 1))
      end
    end)

    it("is received from by it, and sent to from here", function()
      for _, capacity in ipairs({0, 1, 16}) do
        local ch = unsync.channel(capacity)
        local consumer = consume(ch)
        for i = 1, 50 do ch:send(i) end
        ch:close()
        local items = consumer:await()
        assert.equal(50, #items)
        for i, item in ipairs(items) do assert.equal(i, item) end
      end
    end)

    it("carries any value that crosses, nil too", function()
      local echo = away(function(there, back)
        for _, item in there:items() do back:send(item) end
        back:close()
      end)
      local there, back = unsync.channel(), unsync.channel(3)
      local task = echo(there, back)
      local shared = {}
      local items = {1, -2.5, 2 ^ 53 | 0, 1 / 0, true, false, "short", ("long"):rep(20000), {1, {2}, x = "y"},
        {shared, shared}, math.mininteger, "", ("x"):rep(40), ("x"):rep(41)}
      for _, item in ipairs(items) do
        there:send(item)
        local got = back:recv()
        assert.same(item, got)
        assert.equal(math.type(item), math.type(got))
      end
      there:send(nil)
      assert.same({nil, n = 1}, table.pack(back:recv()))
      there:send({shared, shared})
      local twice = back:recv()
      assert.equal(twice[1], twice[2])
      there:send(function(x) return x + #items end)
      assert.equal(15, back:recv()(1))
      there:close()
      task:await()
    end)

    it("goes on where it was in use: with items in it, and with tasks that wait", function()
      local ch, log = unsync.channel(2), {}
      local senders = {}
      for i = 1, 5 do
        senders[i] = unsync.spawn(function()
          ch:send(i)
          log[#log + 1] = i
        end)
      end
      unsync.yield()
      assert.same({1, 2}, log)
      local consumer = consume(ch)
      unsync.all(senders):await()
      ch:close()
      assert.same({1, 2, 3, 4, 5}, consumer:await())

      local empty, got = unsync.channel(), {}
      local receivers = {}
      for i = 1, 3 do receivers[i] = unsync.spawn(function() got[i] = empty:recv() end) end
      unsync.yield()
      local producer = produce(empty, 3)
      unsync.all(receivers):await()
      assert.same({1, 2, 3}, got)
      producer:await()
    end)

    it("is one and the same channel, however it crosses", function()
      local ch = unsync.channel(10)
      local by_upvalue = away(function() ch:send("upvalue") end)
      local by_result = away(function(c) return c, {c} end)
      by_upvalue():await()
      local back, boxed = by_result(ch):await()
      assert.equal(ch, back)
      assert.equal(ch, boxed[1])
      local carrier = unsync.channel(1)
      local by_item = away(function(c) c:recv():send("item") end)
      local task = by_item(carrier)
      carrier:send(ch)
      task:await()
      local variable = unsync.var()
      local by_context = away(function() variable:get():send("context") end)
      variable:with(ch, function() by_context():await() end)
      assert.same({"upvalue", "item", "context"}, {ch:recv(), ch:recv(), (ch:recv())})
    end)

    it("may be made there, and come home with items and waits", function()
      local ch = away(function()
        local made = unsync.channel(2)
        made:send("a")
        made:send({"b"})
        return made
      end)():await()
      assert.equal("a", (ch:recv()))
      assert.same({"b"}, (ch:recv()))
      assert.same({false, "empty"}, {ch:try_recv()})
      assert.same({true, n = 1}, table.pack(ch:try_send(1)))
      assert.matches("1 of 2", tostring(ch))

      local answers = unsync.channel()
      local served = away(function(to)
        local requests = unsync.channel()
        local server = unsync.spawn(function()
          for request in requests do request.reply:send(request.x * 2) end
        end)
        to:send(requests)
        server:await()
      end)(answers)
      local requests = answers:recv()
      for x = 1, 3 do
        local reply = unsync.channel()
        requests:send({x = x, reply = reply})
        assert.equal(2 * x, (reply:recv()))
      end
      requests:close()
      served:await()
    end)

    it("holds a sender back while it is full", function()
      local ch, log = unsync.channel(2), unsync.channel(100)
      local producer = away(function(c, l)
        for i = 1, 6 do
          c:send(i)
          l:send(i)
        end
      end)(ch, log)
      for i = 1, 6 do
        eventually(function() return tostring(log):match("%d+") == tostring(math.min(i + 1, 6) - 0) end)
        assert.equal(i, (ch:recv()))
      end
      producer:await()
    end)

    it("serves who waits in the order they came, whatever state they are in", function()
      local ch, ready = unsync.channel(), unsync.channel(10)
      local take = away(function(c, r)
        local task = unsync.spawn(c.recv, c)
        r:send("waits")
        return (task:await())
      end)
      local first = unsync.spawn(ch.recv, ch)
      unsync.yield()
      local second = take(ch, ready)
      ready:recv()
      local third = unsync.spawn(ch.recv, ch)
      unsync.yield()
      local fourth = take(ch, ready)
      ready:recv()
      for i = 1, 4 do ch:send(i) end
      assert.same({1, 2, 3, 4}, {first:await(), second:await(), third:await(), (fourth:await())})

      local give = away(function(c, r, item)
        local task = unsync.spawn(c.send, c, item)
        r:send("waits")
        task:await()
      end)
      unsync.spawn(ch.send, ch, 1)
      unsync.yield()
      local two = give(ch, ready, 2)
      ready:recv()
      unsync.spawn(ch.send, ch, 3)
      unsync.yield()
      assert.same({1, 2, 3}, {ch:recv(), ch:recv(), (ch:recv())})
      two:await()
    end)

    it("is closed for all, and for all who wait", function()
      local ch, ready = unsync.channel(), unsync.channel(10)
      local receiver = away(function(c, r)
        local tasks = {}
        for i = 1, 3 do tasks[i] = unsync.spawn(function() return table.pack(c:recv()) end) end
        r:send("waits")
        local seen = {}
        for i = 1, 3 do seen[i] = tasks[i]:await() end
        return seen
      end)(ch, ready)
      ready:recv()
      ch:close()
      local closed = {nil, "closed", n = 2}
      assert.same({closed, closed, closed}, receiver:await())

      local full = unsync.channel()
      local closer = away(function(c, r)
        r:recv()
        c:close()
        return {c:try_send(1)}
      end)(full, ready)
      local sender = unsync.spawn(full.send, full, 1)
      unsync.yield()
      ready:send("go")
      assert.equal("closed", code_of(sender.await, sender))
      assert.same({false, "closed"}, closer:await())
    end)

    it("never waits in try_send and try_recv", function()
      local ch = unsync.channel(1)
      local try = away(function(c)
        return {{c:try_recv()}, {c:try_send("x")}, {c:try_send("y")}, {c:try_recv()}, {c:try_recv()}}
      end)
      assert.same({{false, "empty"}, {true}, {false, "full"}, {true, "x"}, {false, "empty"}}, try(ch):await())
    end)

    it("says unsendable at the send, with the path, and nothing has happened", function()
      local ch = unsync.channel(5)
      produce(ch, 0):await()
      ch = unsync.channel(5)
      away(function(_) end)(ch):await()
      local thread = coroutine.create(print)
      for _, send in ipairs({ch.send, ch.try_send}) do
        local err = select(2, pcall(send, ch, {deep = {thread}}))
        assert.equal("unsendable", err.code)
        assert.equal("item.deep[1]", err.path)
      end
      assert.same({false, "empty"}, {ch:try_recv()})
      local there = away(function(c)
        local _, err = pcall(c.send, c, {coroutine.create(print)})
        return err.code, err.path
      end)
      assert.same({"unsendable", "item[1]"}, {there(ch):await()})
    end)

    it("does not cross with an item that cannot, and stays as it was", function()
      local ch, item = unsync.channel(3), {coroutine.create(print)}
      ch:send("first")
      ch:send(item)
      local sender = unsync.spawn(function() for i = 1, 2 do ch:send(i) end end)
      local err = select(2, pcall(consume, {ch = ch}))
      assert.equal("unsendable", err.code)
      assert.equal("argument 1.ch", err.path)
      assert.matches("item%[1%]: coroutine", err.message)
      assert.equal("first", (ch:recv()))
      assert.equal(item, (ch:recv()))
      local consumer = consume(ch)
      sender:await()
      ch:close()
      assert.same({1, 2}, consumer:await())
    end)

    it("cannot be used by an item that is being packed, whatever that tries, and stays as it was", function()
      local ch, tried = unsync.channel(2), {}
      local function try(name, ...) tried[name] = select(2, pcall(...)) end
      local item = setmetatable({}, {__unsync_pack = function()
        try("close", ch.close, ch)
        try("send", ch.try_send, ch, 1)
        local inside = unsync.spawn(function()
          try("close in a task", ch.close, ch)
          try("recv", ch.recv, ch)
          try("select", unsync.select, {ch, timeout = 0})
        end)
        inside:error()
        return nil, "not today"
      end})
      ch:send(item)
      for _, start in ipairs({function(fn) fn() end, function(fn) unsync.spawn(fn):await() end}) do
        start(function()
          local err = select(2, pcall(consume, ch))
          assert.equal("unsendable", err.code)
          assert.matches("not today", err.message)
        end)
        for _, name in ipairs({"close", "send", "close in a task", "recv", "select"}) do
          assert.matches("is being sent to another state", tostring(tried[name]), name)
        end
        tried = {}
      end
      assert.equal(item, (ch:recv()))
      assert.same({true}, {ch:try_send(1)})
    end)

    it("loses no item to a wait that is cancelled or timed out, here or there", function()
      local ch = unsync.channel()
      local try = away(function(c, name, ...)
        local ok, err = pcall(unsync.timeout, 0.002, c[name], c, ...)
        local waiting = unsync.spawn(c[name], c, ...)
        unsync.yield()
        waiting:cancel()
        return ok, err.code, select(2, pcall(waiting.await, waiting)).code
      end)
      assert.same({false, "timeout", "cancelled"}, {try(ch, "recv"):await()})
      assert.same({false, "full"}, {ch:try_send("nobody waits")})
      assert.same({false, "timeout", "cancelled"}, {try(ch, "send", "late"):await()})
      assert.same({false, "empty"}, {ch:try_recv()})
      assert.equal("timeout", code_of(unsync.timeout, 0.002, ch.recv, ch))
      assert.equal("timeout", code_of(unsync.timeout, 0.002, ch.send, ch, 1))
      local producer = produce(ch, 3)
      assert.same({1, 2, 3}, {ch:recv(), ch:recv(), (ch:recv())})
      producer:await()
    end)

    it("takes part in a select, at either end", function()
      local a, b = unsync.channel(), unsync.channel()
      local choose = away(function(x, y, n)
        local seen = {}
        for _ = 1, n do
          local source, item = unsync.select({x, y})
          seen[#seen + 1] = (source == x and "x" or "y") .. tostring(item)
        end
        return seen
      end)
      local chosen = choose(a, b, 4)
      a:send(1)
      b:send(2)
      b:send(3)
      a:send(4)
      assert.same({"x1", "y2", "y3", "x4"}, chosen:await())

      local offer = away(function(x, y, n)
        local sent = {x = 0, y = 0}
        for i = 1, n do
          local source = unsync.select({{send = x, value = i}, {send = y, value = i}})
          local name = source == x and "x" or "y"
          sent[name] = sent[name] + 1
        end
        return sent
      end)
      local offered = offer(a, b, 6)
      local order = {a, b, b, a, b, a}
      for i = 1, 6 do assert.equal(i, (order[i]:recv())) end
      assert.same({x = 3, y = 3}, offered:await())

      local mixed = away(function(c, ready)
        local own, promise = unsync.channel(), unsync.promise()
        local seen = {}
        unsync.spawn(own.send, own, "own")
        seen[1] = select(2, unsync.select({c, promise, own}))
        promise:resolve("promise")
        seen[2] = select(2, unsync.select({c, own, promise}))
        seen[3] = select(2, unsync.select({c, own, timeout = 0.002}))
        ready:send("waits")
        seen[4] = select(2, unsync.select({own, c}))
        return seen
      end)
      local ready = unsync.channel()
      local waits = mixed(a, ready)
      ready:recv()
      a:send("from home")
      assert.same({"own", "promise", "timeout", "from home"}, waits:await())
    end)
  end)
end

describe("a process that dies", function()
  local uv = require("luv")

  it("while it waits leaves the others in line, and its item unsent", function()
    local ch, ready = unsync.channel(), unsync.channel()
    local hold = unsync.cpu(function(c, r, verb, ...)
      local task = unsync.spawn(c[verb], c, ...)
      r:send(require("luv").os_getpid())
      return (task:await())
    end)
    local dying = hold(ch, ready, "recv")
    local pid = ready:recv()
    local mine = unsync.spawn(ch.recv, ch)
    unsync.yield()
    uv.kill(pid, "sigkill")
    assert.equal("crashed", code_of(dying.await, dying))
    ch:send("for the next in line")
    assert.equal("for the next in line", mine:await())

    dying = hold(ch, ready, "send", "never sent")
    pid = ready:recv()
    local sender = unsync.spawn(ch.send, ch, "sent")
    unsync.yield()
    uv.kill(pid, "sigkill")
    assert.equal("crashed", code_of(dying.await, dying))
    assert.equal("sent", (ch:recv()))
    assert.same({false, "empty"}, {ch:try_recv()})
    sender:await()
  end)

  it("with an item on its way to it has not got it", function()
    for _ = 1, 20 do
      local ch, ready = unsync.channel(5), unsync.channel()
      local dying = unsync.cpu(function(c, r)
        local task = unsync.spawn(c.recv, c)
        r:send(require("luv").os_getpid())
        while not task:done() do end -- never gets as far as taking it
      end)(ch, ready)
      local pid = ready:recv()
      ch:send("first")
      ch:send("second")
      uv.kill(pid, "sigkill")
      assert.equal("crashed", code_of(dying.await, dying))
      assert.same({"first", "second"}, {ch:recv(), (ch:recv())})
    end
  end)

  it("with several on their way leaves them in their order, for who waits and for who comes", function()
    for waiting = 0, 3 do
      local ch, ready, got = unsync.channel(5), unsync.channel(), {}
      local dying = unsync.cpu(function(c, r)
        for _ = 1, 3 do unsync.spawn(c.recv, c) end
        r:send(require("luv").os_getpid())
        while true do end -- never gets as far as taking them
      end)(ch, ready)
      local pid = ready:recv()
      for i = 1, 3 do ch:send(i) end
      local tasks = {}
      for i = 1, waiting do tasks[i] = unsync.spawn(function() got[i] = ch:recv() end) end
      unsync.yield()
      uv.kill(pid, "sigkill")
      assert.equal("crashed", code_of(dying.await, dying))
      if waiting > 0 then unsync.all(tasks):await() end
      for i = waiting + 1, 3 do got[i] = ch:recv() end
      assert.same({1, 2, 3}, got)
    end
  end)

  it("that had taken an item has it, and no other", function()
    local ch, ready = unsync.channel(5), unsync.channel()
    for i = 1, 3 do ch:send(i) end
    local dying = unsync.cpu(function(c, r)
      local item = c:recv()
      r:send({item, require("luv").os_getpid()})
      c:recv()
      r:recv() -- which nobody sends
    end)
    local task = dying(ch, ready)
    local first = ready:recv()
    assert.equal(1, first[1])
    uv.kill(first[2], "sigkill")
    assert.equal("crashed", code_of(task.await, task))
    local left = {}
    ch:close()
    for item in ch do left[#left + 1] = item end
    assert.is_true(left[#left] == 3 and #left <= 2)
  end)

  it("leaves a channel that others go on with", function()
    local ch, pids = unsync.channel(), unsync.channel()
    local chatter = unsync.cpu(function(c, p, name)
      p:send(require("luv").os_getpid())
      for i = 1, 1000000 do c:send(name .. i) end
    end)
    local one = chatter(ch, pids, "a")
    local pid = pids:recv()
    local two = chatter(ch, pids, "b")
    pids:recv()
    for _ = 1, 20 do ch:recv() end
    uv.kill(pid, "sigkill")
    assert.equal("crashed", code_of(one.await, one))
    for _ = 1, 20 do assert.equal("b", ch:recv():sub(1, 1)) end
    two:cancel()
    assert.equal("cancelled", code_of(two.await, two))
  end)
end)

describe("what a process may take without asking", function()
  local uv = require("luv")

  --- Takes `first` items, says so, waits for a word, takes `second` more, and ends.
  local take = unsync.cpu(function(ch, steps, first, second)
    local items = {}
    for i = 1, first do items[i] = ch:recv() end
    steps:send(require("luv").os_getpid())
    if steps:recv() == "die" then while true do end end
    for i = 1, second do items[first + i] = ch:recv() end
    return items
  end)

  --- A channel with the items `from` to `to`, and with room for no more.
  local function full(from, to)
    local ch = unsync.channel(to - from + 1)
    for i = from, to do ch:send(i) end
    return ch
  end

  it("is there for whoever comes first, in its order", function()
    for first = 1, 8 do
      local ch, steps = full(1, 20), unsync.channel()
      local task = take(ch, steps, first, 5)
      steps:recv()
      for i = first + 1, first + 5 do assert.same({true, i}, {ch:try_recv()}) end
      assert.equal(first + 6, (ch:recv()))
      steps:send("go on")
      local items = task:await()
      assert.equal(first + 7, items[first + 1])
      assert.equal(first + 5, #items)
      ch:close()
      local left = 0
      for _ in ch do left = left + 1 end
      assert.equal(20 - first - 6 - 5, left)
    end
  end)

  it("takes up room until it is taken, and whoever waits for that is told", function()
    local ch, steps = full(1, 10), unsync.channel()
    local task = take(ch, steps, 3, 7)
    steps:recv()
    for i = 11, 13 do assert.is_true(ch:try_send(i)) end
    assert.same({false, "full"}, {ch:try_send(14)})
    local sender = unsync.spawn(function() for i = 14, 20 do ch:send(i) end end)
    unsync.yield()
    assert.is_false(sender:done())
    steps:send("go on")
    sender:await()
    assert.equal(10, #task:await())
    ch:close()
    local items = {}
    for item in ch do items[#items + 1] = item end
    assert.same({11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, items)
  end)

  it("is left by one that dies", function()
    for first = 1, 8 do
      local ch, steps = full(1, 20), unsync.channel()
      local task = take(ch, steps, first, 0)
      local pid = steps:recv()
      local sender = unsync.spawn(ch.send, ch, 21)
      steps:send("die")
      uv.kill(pid, "sigkill")
      assert.equal("crashed", code_of(task.await, task))
      sender:await()
      for i = first + 1, 21 do assert.same({true, i}, {ch:try_recv()}) end
      assert.same({false, "empty"}, {ch:try_recv()})
    end
  end)

  it("comes once, to several processes and the script at once", function()
    local ch, results = unsync.channel(50), unsync.channel(50)
    local worker = unsync.cpu(function(from, to)
      for item in from do to:send(item) end
    end)
    local workers = {worker(ch, results), worker(ch, results)}
    local here = unsync.spawn(function() for item in ch do results:send(item) end end)
    local sender = unsync.spawn(function()
      for i = 1, 3000 do ch:send(i % 3 == 0 and {i} or i) end
      ch:close()
    end)
    unsync.spawn(function()
      sender:await()
      here:await()
      unsync.all(workers):await()
      results:close()
    end)
    local seen, count = {}, 0
    for item in results do
      local i = type(item) == "table" and item[1] or item
      assert.is_nil(seen[i])
      seen[i], count = true, count + 1
    end
    assert.equal(3000, count)
  end)
end)

describe("a channel between states that nobody else can serve any more", function()
  it("is a deadlock, not a hang", function()
    for _, wrap in ipairs({unsync.thread, unsync.cpu}) do
      local ch = unsync.channel()
      wrap(function(c) return c:try_recv() end)(ch):await()
      assert.equal("deadlock", code_of(ch.recv, ch))
      assert.equal("deadlock", code_of(ch.send, ch, 1))
      local crashed = unsync.cpu(function(_) require("luv").kill(require("luv").os_getpid(), "sigkill") end)(ch)
      assert.equal("crashed", code_of(crashed.await, crashed))
      assert.equal("deadlock", code_of(ch.send, ch, 1))
      assert.equal("deadlock", code_of(unsync.select, {ch, {send = ch, value = 1}}))
      assert.same({false, "empty"}, {ch:try_recv()})
    end
  end)
end)

describe("bad input", function()
  it("is refused there as it is here", function()
    local there = unsync.cpu(function(ch)
      local function text_of(...) return tostring(select(2, pcall(...))) end
      return text_of(ch.send, ch), text_of(ch.send, {}, 1), text_of(unsync.channel, -1),
        text_of(unsync.channel, 2 ^ 40), text_of(ch.recv), tostring(ch)
    end)
    local ch = unsync.channel(2 ^ 30)
    local results = table.pack(there(ch):await())
    assert.matches("bad argument", results[1])
    assert.matches("unsync.Channel expected", results[2])
    assert.matches("negative", results[3])
    assert.matches("out of range", results[4])
    assert.matches("unsync.Channel expected", results[5])
    assert.equal("channel: 0 of 1073741824 items", results[6])
    assert.equal(results[6], tostring(ch))
  end)

  it("says what there is instead of semaphores and their like", function()
    for _, name in ipairs({"semaphore", "mutex", "event", "barrier", "rate"}) do
      local thing = unsync[name](1, 1)
      for _, wrap in ipairs({unsync.thread, unsync.cpu}) do
        local err = select(2, pcall(wrap(function() end), {thing = thing}))
        assert.equal("unsendable", err.code)
        assert.equal("argument 1.thing", err.path)
        assert.matches("between states use a .*channel", err.message)
      end
      local ch = unsync.channel(1)
      unsync.thread(function(_) end)(ch):await()
      assert.equal("unsendable", code_of(ch.send, ch, thing))
    end
  end)
end)
