-- --trace FILE: what runs where and when, in a format that ui.perfetto.dev loads.
local script = require("spec.support.script")
local trace = require("spec.support.trace")

local count = 0
local function run(code, options)
  options = options or {}
  count = count + 1
  local path = options.path or script.path(("trace%d.json"):format(count))
  options.options = {"--trace", path}
  local ran = script.run(code, options)
  return ran, path
end

--- The events of a script that ended as it should.
local function events_of(code, whole)
  local ran, path = run(code)
  assert.same({0, ""}, {ran.code, ran.err})
  local events = trace.read(path)
  trace.check(events, whole)
  return events
end

--- Where the thread of that name is: its pid and tid.
local function track(events, name)
  for _, event in ipairs(trace.find(events, {ph = "M", name = "thread_name"})) do
    if event.args.name == name then return event.pid, event.tid end
  end
end

describe("--trace", function()
  it("writes a span for each time a function on the loop goes on, on the loop's track", function()
    local events = events_of([[
      local unsync = require "unsync"
      unsync.io(function() unsync.sleep(0.001) unsync.yield() end, {name = "nap"})():await()
    ]], true)
    local pid, tid = track(events, "main loop")
    assert.equal(3, #trace.find(events, {ph = "B", name = "nap", pid = pid, tid = tid}))
    assert.equal(1, #trace.find(events, {ph = "b", cat = "task", name = "nap"}))
    assert.equal(1, #trace.find(events, {ph = "b", cat = "task", name = "sleep"}))
    assert.is_true(#trace.find(events, {ph = "b", cat = "task", name = "future"}) >= 1) -- main awaits it
  end)

  it("names a function without a name by where it is written", function()
    local events = events_of([[
      local unsync = require "unsync"
      unsync.spawn(function() unsync.yield() end):await()
    ]], true)
    local found = false
    for _, event in ipairs(trace.find(events, {ph = "B"})) do
      found = found or event.name:find("run%d+%.lua:2$") ~= nil
    end
    assert.is_true(found)
  end)

  for _, kind in ipairs {"thread", "cpu"} do
    it("writes a span for a call on its " .. kind .. ", its time in line, and arrows there and back", function()
      local events = events_of([[
        local unsync = require "unsync"
        local work = unsync.]] .. kind .. [[(function(n) for i = 1, n do n = n + i end return n end, {name = "work"})
        local calls = {}
        for i = 1, 20 do calls[i] = work(1000) end
        for _, call in ipairs(calls) do call:await() end
      ]], true)
      local main_pid, main_tid = track(events, "main loop")
      local spans = trace.find(events, {ph = "B", cat = "call", name = "work"})
      assert.equal(20, #spans)
      for _, span in ipairs(spans) do
        assert.are_not.equal(main_tid, span.tid)
        assert.equal(kind == "thread", span.pid == main_pid)
      end
      assert.equal(20, #trace.find(events, {ph = "b", cat = "call", name = "in line"}))
      assert.equal(20, #trace.find(events, {ph = "b", cat = "call", name = "work"}))
      local there, back = 0, 0
      for _, arrow in ipairs(trace.find(events, {ph = "s"})) do
        if arrow.tid == main_tid then there = there + 1 else back = back + 1 end
      end
      assert.same({20, 20}, {there, back})
    end)
  end

  it("follows functions that run in a thread and wait there", function()
    local events = events_of([[
      local unsync = require "unsync"
      unsync.thread(function() unsync.sleep(0.001) end, {name = "outer"})():await()
    ]], true)
    local tid = trace.find(events, {ph = "B", cat = "call", name = "outer"})[1].tid
    assert.equal(2, #trace.find(events, {ph = "B", cat = "task", name = "outer", tid = tid}))
  end)

  it("writes calls that worker processes make", function()
    local events = events_of([[
      local unsync = require "unsync"
      local inner = unsync.cpu(function() return 1 end, {name = "inner"})
      unsync.cpu(function() return inner():await() end, {name = "outer"})():await()
    ]], true)
    assert.equal(1, #trace.find(events, {ph = "B", name = "inner"}))
  end)

  it("knows of calls that fail, are cancelled in line or while they run, or take their process with them", function()
    events_of([[
      local unsync = require "unsync"
      local fail = unsync.thread(function() error("no") end, {name = "fail"})
      local spin = unsync.cpu(function() while true do end end, {name = "spin", grace = 0.01})
      local crash = unsync.cpu(function() os.exit(3) end, {name = "crash"})
      local one = unsync.thread(function() unsync.sleep(60) end, {name = "one", limit = 1})
      local stuck = unsync.thread(function() local s = ("a"):rep(20000) return s:find((".-"):rep(12) .. "b") end,
        {name = "stuck", grace = 0.01})
      pcall(function() fail():await() end)
      pcall(function() crash():await() end)
      local spinning, running, waiting, lost = spin(), one(), one(), stuck()
      unsync.sleep(0.05)
      for _, f in ipairs{spinning, running, waiting, lost} do
        f:cancel()
        pcall(f.await, f)
      end
    ]])
  end)

  it("is a whole document when the script fails, ends by os.exit, or is interrupted", function()
    local ran, path = run([[
      local unsync = require "unsync"
      local work = unsync.thread(function() return 1 end)
      work():await()
      error("no")
    ]])
    assert.equal(1, ran.code)
    trace.check(trace.read(path))
    ran, path = run([[
      local unsync = require "unsync"
      local busy = unsync.cpu(function() unsync.sleep(60) end)
      local f, g = busy(), unsync.thread(function() os.execute("sleep 0.01") end)
      g():await()
      os.exit(7)
    ]])
    assert.equal(7, ran.code)
    trace.check(trace.read(path))
    ran, path = run([[
      local unsync = require "unsync"
      local pid = io.open("/proc/self/stat"):read("n")
      unsync.spawn(function() os.execute("kill -INT " .. pid) end)
      unsync.sleep(60)
    ]])
    assert.equal(130, ran.code)
    trace.check(trace.read(path))
  end)

  it("leaves a document that can be loaded whatever kills the program", function()
    local ran, path = run([[
      local unsync = require "unsync"
      local tick = unsync.io(function() unsync.yield() end, {name = "tick"})
      for i = 1, 1000 do tick():await() end
      local pid = io.open("/proc/self/stat"):read("n")
      os.execute("kill -KILL " .. pid)
    ]])
    assert.equal(137, ran.code)
    assert.is_true(#trace.read(path) > 100)
    ran, path = run([[
      local pid = io.open("/proc/self/stat"):read("n")
      os.execute("kill -KILL " .. pid)
    ]])
    assert.equal(137, ran.code) -- before anything was written
    assert.same({}, trace.read(path))
  end)

  it("escapes what a name may hold", function()
    local events = events_of([[
      local unsync = require "unsync"
      local names = {'"quoted" \\ back', "line\nbreak \0 zero",
        "caf\u{e9} \u{1f600}", "no \xff UTF-8 \xed\xa0\x80", ("x"):rep(1000)}
      for _, name in ipairs(names) do unsync.io(function() end, {name = name})():await() end
    ]], true)
    assert.equal(1, #trace.find(events, {ph = "B", name = '"quoted" \\ back'}))
    assert.equal(1, #trace.find(events, {ph = "B", name = "caf\u{e9} \u{1f600}"}))
    assert.equal(1, #trace.find(events, {ph = "B", name = "no \u{fffd} UTF-8 \u{fffd}\u{fffd}\u{fffd}"}))
  end)

  it("refuses what it cannot write before the script runs", function()
    local here = script.path(".")
    local ran = run([[print("ran")]], {path = here})
    assert.same({1, ""}, {ran.code, ran.out})
    assert.equal(("unsync: cannot write the trace to '%s': Is a directory\n"):format(here), ran.err)
    ran = run([[print("ran")]], {path = here .. "/no/such/directory"})
    assert.same({1, ""}, {ran.code, ran.out})
    assert.truthy(ran.err:find("No such file or directory", 1, true))
    ran = script.run(nil, {options = {"--trace"}})
    assert.equal(1, ran.code)
    assert.truthy(ran.err:find("'--trace' needs the name of a file", 1, true))
  end)

  it("says once that the disk is full, and the script goes on to its own end", function()
    local ran = run([[
      local unsync = require "unsync"
      local tick = unsync.io(function() unsync.yield() end)
      for i = 1, 5000 do tick():await() end
      print("done")
      os.exit(4)
    ]], {path = "/dev/full"})
    assert.same({4, "done\n"}, {ran.code, ran.out})
    assert.equal("unsync: cannot write the trace to '/dev/full': No space left on device; the script goes on without\n",
      ran.err)
  end)

  it("keeps what was written before the disk was full a whole document", function()
    local ran, path = run([[
      local unsync = require "unsync"
      local tick = unsync.io(function() unsync.yield() end)
      for i = 1, 5000 do tick():await() end
    ]], {before = "ulimit -f 200; trap '' XFSZ"})
    assert.equal(0, ran.code)
    assert.truthy(ran.err:find("File too large; the script goes on without", 1, true))
    assert.is_true(#trace.read(path) > 100)
  end)

  it("takes little memory for a million events #slow #plain", function()
    local ran, path = run([[
      local unsync = require "unsync"
      local tick = unsync.io(function() unsync.yield() end)
      for i = 1, 100000 do tick():await() end
      local kib = io.open("/proc/self/status"):read("a"):match("VmHWM:%s*(%d+)")
      print(kib)
    ]])
    assert.equal(0, ran.code)
    assert.is_true(tonumber(ran.out) < 20000, ran.out)
    local lines = 0
    for _ in io.lines(path) do lines = lines + 1 end
    assert.is_true(lines > 1000000)
  end)
end)
