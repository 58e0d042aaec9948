-- The watchdog: a loop that is held while something else is due is told so, while it is held; and no other is.
local script = require("spec.support.script")

-- What every script begins with: `told` is true once a report is out, `busy` holds the loop until then, `burn` takes so
-- much time of the processor.
local prelude = ([[
  local unsync = require "unsync"
  local function told(text)
    local file <close> = io.open("/proc/self/fd/2")
    return file:read("a"):find(text or "event loop has been held", 1, true) ~= nil
  end
  local limit = unsync.now() + %d
  local function busy(text)
    while not told(text) and unsync.now() < limit do end
    return told(text)
  end
  local function burn(seconds)
    local stop = os.clock() + seconds
    while os.clock() < stop do end
  end
]]):format(60 * script.slowness):gsub("\n%s*", " ")

local function run(code, options)
  options = options or {}
  options.env = options.env or {UNSYNC_STALL = false}
  options.limit_s = 120
  return script.run(prelude .. code, options)
end

--- The report of a script that prints "told".
local function report(code, options)
  local ran = run(code, options)
  assert.same({0, "told\n"}, {ran.code, ran.out}, ran.err)
  assert.truthy(ran.err:find("^unsync: the event loop has been held for %d+%.%d%d s"), ran.err)
  return ran.err
end

local function has(text, part)
  assert.truthy(text:find(part, 1, true), ("%q is not in:\n%s"):format(part, text))
end

describe("a loop that is held while something else is due is reported while it is held", function()
  it("by a computation, while a timer is due, with the stack", function()
    local text = report([[
      unsync.spawn(function() unsync.sleep(0.01) end)
      local function crunch()
        local done = busy()
        return done
      end
      if crunch() then print("told") end
    ]])
    has(text, "while a timer has expired. It is held by task main:")
    has(text, "in upvalue 'busy'")
    assert.truthy(text:find("run%d+%.lua:3: in local 'crunch'\n\t[^\n]*run%d+%.lua:6: in main chunk"), text)
  end)

  it("while a task is ready", function()
    has(report([[
      unsync.spawn(unsync.yield)
      if busy() then print("told") end
    ]]), "while a task is ready")
    has(report([[
      local function hold() if busy() then print("told") end end
      unsync.spawn(function() unsync.yield() hold() end)
      unsync.spawn(function() unsync.yield() end)
    ]]), "while a task is ready")
  end)

  it("while the end of a call has come", function()
    has(report([[
      unsync.thread(function() end)()
      if busy() then print("told") end
    ]]), "while a message has come")
  end)

  it("while a descriptor of luv's is readable, or a timer of it is due", function()
    has(report([[
      local uv = require "luv"
      local ends = uv.pipe({nonblock = true}, {nonblock = true})
      local pipe = uv.new_pipe()
      pipe:open(ends.read)
      pipe:read_start(function() pipe:close() end)
      unsync.sleep(0.01)
      uv.fs_write(ends.write, "x")
      if busy() then print("told") end
      uv.fs_close(ends.write)
    ]]), "a descriptor is ready")
    has(report([[
      local uv = require "luv"
      local timer = uv.new_timer()
      local fired
      repeat -- until the loop has looked at it in time
        fired = false
        timer:start(300, 0, function() fired = true end)
        unsync.sleep(0.001)
      until not fired
      if busy() then print("told") end
      timer:close()
    ]]), "a timer has expired")
  end)

  it("by C code that blocks, without an end to its wait", function()
    local text = report([[
      unsync.spawn(function() unsync.sleep(0.01) end)
      local sleep = require("socket").sleep
      while not told() and unsync.now() < limit do sleep(0.5) end
      if told() then print("told") end
    ]])
    has(text, "[C]: in local 'sleep'")
    has(text, "in main chunk")
  end)

  it("by C code that computes", function()
    local text = report([[
      unsync.spawn(function() unsync.sleep(0.01) end)
      local text = ("a"):rep(100)
      while not told() and unsync.now() < limit do text:find(".-.-.-b") end
      if told() then print("told") end
    ]])
    has(text, "in main chunk")
  end)

  it("in a coroutine of the script's own, by a callback, or in a task inside another", function()
    local text = report([[
      unsync.spawn(function() unsync.sleep(0.01) end)
      local generator = coroutine.wrap(function() coroutine.yield(busy()) end)
      if generator() then print("told") end
    ]])
    has(text, "(a coroutine, resumed in:)")
    has(text, "in local 'generator'")
    has(report([[
      local uv = require "luv"
      local timer = uv.new_timer()
      timer:start(1, 0, function()
        timer:close()
        unsync.spawn(function() unsync.sleep(0.01) end)
        if busy() then print("told") end
      end)
    ]]), "It is held by a callback of luv:")
    has(report([[
      unsync.spawn(function() unsync.sleep(0.01) end)
      unsync.io(function() if busy() then print("told") end end, {name = "inner"})()
    ]]), "It is held by task inner:")
  end)

  it("in a thread and in a worker process, whose loops are their own", function()
    for _, kind in ipairs {"thread", "cpu"} do
      local text = report([[
        local done = unsync.]] .. kind .. [[(function()
          unsync.spawn(function() unsync.sleep(0.01) end)
          return busy()
        end, {name = "worker-function"})():await()
        if done then print("told") end
      ]])
      has(text, "s in a worker while a timer has expired. It is held by task worker-function:")
    end
  end)

  it("once for each time that it is held, and the same place not again and again", function()
    local ran = run([[
      unsync.every(0.01)()
      unsync.spawn(function() for i = 1, 5 do unsync.sleep(0.01) end end)
      for i = 1, 4 do
        burn(0.15)
        unsync.sleep(0.02)
      end
    ]], {env = {UNSYNC_STALL = "0.05"}})
    assert.equal(0, ran.code)
    local _, count = ran.err:gsub("run%d+%.lua:4: in main chunk", "")
    assert.equal(1, count, ran.err)
  end)

  it("after UNSYNC_STALL seconds, whether or not something is due", function()
    has(report([[if busy() then print("told") end]], {env = {UNSYNC_STALL = "0.05"}}), "s. It is held by task main:")
  end)

  it("in the trace", function()
    local trace = require("spec.support.trace")
    local path = script.path("stall.json")
    report([[
      unsync.spawn(function() unsync.sleep(0.01) end)
      if busy() then print("told") end
    ]], {env = {UNSYNC_STALL = false}, options = {"--trace", path}})
    local events = trace.read(path)
    trace.check(events)
    local began = trace.find(events, {ph = "b", cat = "stall", name = "loop held"})
    assert.equal(1, #began)
    has(trace.find(events, {ph = "n", cat = "stall", id = began[1].id})[1].args.text, "in main chunk")
  end)
end)

describe("no loop is reported", function()
  local function silent(code, options)
    local ran = run(code, options)
    assert.same({0, ""}, {ran.code, ran.err})
  end

  it("where nothing else is due, however long a script computes", function()
    silent([[burn(0.3)]])
    silent([[
      unsync.thread(function() end)():await()
      unsync.spawn(function() unsync.sleep(1000) end):detach()
      unsync.sleep(0.01)
      burn(0.4)
      os.exit(0)
    ]])
  end)

  it("while it waits for a call, a sleep or a descriptor", function()
    silent([[
      local nap = unsync.thread(function() require("socket").sleep(0.4) end)
      local all = {nap(), nap(), unsync.cpu(function(burn) burn(0.4) end)(burn)}
      unsync.spawn(function() unsync.sleep(0.5) end)
      os.execute("sleep 0.4")
      for _, f in ipairs(all) do f:await() end
    ]])
  end)

  it("while the program ends, and waits for its threads", function()
    silent([[
      local f = unsync.thread(function() local s = ("a"):rep(20000) return s:find((".-"):rep(12) .. "b") end)()
      unsync.thread(function() require("socket").sleep(0.3) end)()
      f:cancel()
      pcall(f.await, f)
    ]])
  end)

  it("with UNSYNC_STALL=0", function()
    silent([[
      unsync.spawn(unsync.yield)
      burn(0.3)
    ]], {env = {UNSYNC_STALL = "0"}})
  end)

  it("and a script that starts nothing has no thread for it", function()
    silent([[
      local count = 0
      for _ in io.popen("ls /proc/$PPID/task"):lines() do count = count + 1 end
      assert(count == 1, count)
    ]])
  end)
end)

it("UNSYNC_STALL that is no number is an error that says so", function()
  for _, wrong in ipairs {"abc", "-1", "1s"} do
    local ran = run([[print("ran")]], {env = {UNSYNC_STALL = wrong}})
    assert.same({1, ""}, {ran.code, ran.out})
    assert.equal(("unsync: UNSYNC_STALL is no number of seconds: '%s'\n"):format(wrong), ran.err)
  end
end)
