-- cpu functions: in worker processes, whose death hurts one call and nobody else.
local unsync = require("unsync")
local script = require("spec.support.script")
local gate = require("spec.support.gate")

local slow = script.slowness

local function error_of(future)
  local ok, err = pcall(future.await, future, 20 * slow)
  assert.is_false(ok)
  return err
end

local function within(future) return gate.within(future, 20) end

local pid = unsync.cpu(function() return require("luv").os_getpid() end)

--- A worker that spins until the gate opens, without waiting for it.
local busy = unsync.cpu(function(started, opened)
  started:resolve(require("luv").os_getpid())
  while not opened:done() do end
  return "went on"
end)

local function alive(number) return (require("luv").kill(number, 0)) == 0 end

describe("unsync.cpu", function()
  it("hears of the end of a short call while one that was given behind it takes long", function()
    local path = os.tmpname()
    os.remove(path)
    local call = unsync.cpu(function(n, waits_for)
      local file
      repeat file = not waits_for or io.open(waits_for) until file
      if waits_for then file:close() end
      return n
    end)
    local function all(n, long)
      local futures = {}
      for i = 1, n do futures[i] = call(i, i % 10 == 0 and long or nil) end
      return futures
    end
    for _, future in ipairs(all(200)) do future:await() end -- known to be short by now
    local futures = all(40, path)
    local function is_queued(future)
      for _, record in ipairs(unsync.tasks()) do
        if record.future == future then return record.state == "queued" end
      end
    end
    for i = 1, 9 do
      local ok, result = pcall(futures[i].await, futures[i], 20 * slow)
      -- A worker that the machine halts loses its calls to others: then this one may have come to lie behind long ones.
      if not ok and is_queued(futures[i]) then break end
      assert.equal(i, result)
    end
    assert.is_false(futures[10]:done())
    io.open(path, "w"):close()
    for i = 10, 40 do assert.equal(i, futures[i]:await(60 * slow)) end
    os.remove(path)
  end)

  it("lets others take what was given ahead to a worker whose call takes long, the last that waited too", function()
    local uv = require("luv")
    if (uv.available_parallelism and uv.available_parallelism() or #uv.cpu_info()) < 2 then return end
    local path = os.tmpname()
    os.remove(path)
    local call = unsync.cpu(function(n, waits_for)
      local file
      repeat file = not waits_for or io.open(waits_for) until file
      if waits_for then file:close() end
      return n
    end)
    for n = 1, 50 do call(n):await() end -- known to be short by now, and nothing lies ahead
    local futures = {}
    for n = 1, 8 do futures[n] = call(n, n == 3 and path or nil) end
    local results = {}
    for n = 1, 8 do
      if n ~= 3 then results[n] = select(2, pcall(futures[n].await, futures[n], 20 * slow)) end
    end
    results[3] = futures[3]:done()
    io.open(path, "w"):close()
    assert.same({1, 2, false, 4, 5, 6, 7, 8}, results)
    assert.equal(3, futures[3]:await(60 * slow))
    os.remove(path)
  end)

  it("returns every result in order, nils included", function()
    local same = unsync.cpu(function(...) return ... end)
    assert.same(table.pack(1, nil, 3, nil), table.pack(within(same(1, nil, 3, nil))))
    assert.same(table.pack(), table.pack(within(same())))
  end)

  it("passes an error on in kind and value", function()
    assert.equal("plain", error_of(unsync.cpu(function() error("plain", 0) end)()))
    local err = error_of(unsync.cpu(function() error({code = "mine", parts = {1, 2}}) end)())
    assert.same({code = "mine", parts = {1, 2}}, err)
    local failed = unsync.cpu(function() local x = nil; return x.field end, {name = "looker"})()
    assert.matches("attempt to index a nil value", error_of(failed))
    assert.matches("in cpu looker", failed:traceback())
  end)

  it("runs in other processes, which are kept for the next call", function()
    local first = within(pid())
    assert.not_equal(require("luv").os_getpid(), first)
    for _ = 1, 5 do assert.equal(first, within(pid())) end
  end)

  it("runs as many calls at once as there are cores", function()
    local uv = require("luv")
    local cores = uv.available_parallelism and uv.available_parallelism() or #uv.cpu_info()
    if cores < 2 then return end
    local one, two, opened = gate.new(), gate.new(), gate.new()
    local a, b = busy(one, opened), busy(two, opened)
    assert.not_equal(within(one), within(two))
    opened:resolve()
    assert.equal("went on", within(a))
    assert.equal("went on", within(b))
  end)

  it("keeps a worker's state between calls, but for fresh ones", function()
    local function count_calls()
      _G.counter = (_G.counter or 0) + 1
      return _G.counter
    end
    local count = unsync.cpu(count_calls)
    local before = within(count())
    assert.equal(before + 1, within(count()))
    local fresh = unsync.cpu(count_calls, {fresh = true})
    assert.equal(1, within(fresh()))
    assert.equal(1, within(fresh()))
  end)

  it("finds modules where the script does", function()
    script.file("cpu_spec_module.lua", "return {loaded = function() return 'here' end}")
    local path = package.path
    package.path = script.path("?.lua") .. ";" .. path
    local f = unsync.cpu(function() return require("cpu_spec_module").loaded() end)()
    package.path = path
    assert.equal("here", within(f))
  end)

  it("hands over strings of any size, and many at once", function()
    local echo = unsync.cpu(function(s) return s, #s end)
    for _, size in ipairs {0, 1, 4095, 4096, 65537, 4194303, 4194304, 4194305, 20000001} do
      local text = ("x"):rep(size)
      local back, length = within(echo(text))
      assert.equal(size, length)
      assert.is_true(back == text)
    end
    local sent, futures = ("long"):rep(500000), {}
    for i = 1, 20 do futures[i] = echo(sent) end
    for i = 1, 20 do assert.is_true(within(futures[i]) == sent) end
  end)

  it("runs short and long calls in any mixture, each once, in bounded time", function()
    local work = unsync.cpu(function(i, seconds)
      local deadline = os.clock() + seconds
      while os.clock() < deadline do end
      return i
    end)
    local futures = {}
    for i = 1, 600 do futures[i] = work(i, i % 100 == 50 and 0.03 or 0) end
    for i = 1, 600 do assert.equal(i, within(futures[i])) end
  end)
end)

describe("a worker process", function()
  it("inherits no descriptor but its own", function()
    local function links()
      local uv, found = require("luv"), {}
      local request = uv.fs_scandir("/proc/self/fd")
      while true do
        local name = uv.fs_scandir_next(request)
        if not name then break end
        found[tonumber(name)] = uv.fs_readlink("/proc/self/fd/" .. name) or "?"
      end
      return found
    end
    local path = script.file("inherited", "")
    local _ <close> = assert(io.open(path)) -- as any library opens one: without close-on-exec
    local _ <close> = assert(io.popen("cat", "w"))
    -- Every worker there is now may be older than the file: ask one that is not.
    error_of(unsync.cpu(function() os.exit(0) end)())
    local found = within(unsync.cpu(links)())
    assert.equal("/dev/null", found[0])
    local ours = {}
    for number, link in pairs(links()) do
      if number > 2 and link ~= "?" and not link:find("^anon_inode:") then ours[link] = number end
    end
    for number, link in pairs(found) do
      if number > 2 then assert.is_nil(ours[link], ("descriptor %d is %s"):format(number, link)) end
    end
  end)

  it("reads nothing from stdin and leads a group of its own", function()
    local look = unsync.cpu(function()
      local stat <close> = io.open("/proc/self/stat")
      local id, group = stat:read("a"):match("^(%d+) %b() %S %d+ (%d+)")
      return io.read(), id, group
    end)
    local line, id, group = within(look())
    assert.is_nil(line)
    assert.equal(id, group)
  end)

  it("has written its output when the call ends", function()
    local out = script.output([[
      local unsync = require "unsync"
      local say = unsync.cpu(function(text) print(text) io.stderr:write("") end)
      for i = 1, 5 do
        say("worker " .. i):await()
        print("script " .. i)
        io.stdout:flush()
      end]])
    local expected = {}
    for i = 1, 5 do expected[i] = ("worker %d\nscript %d\n"):format(i, i) end
    assert.equal(table.concat(expected), out)
  end)

  it("closes its state at the end, so that finalizers run", function()
    local path = script.path("finalized")
    script.output(([[
      local unsync = require "unsync"
      unsync.cpu(function(path)
        kept = setmetatable({}, {__gc = function()
          local file = io.open(path, "w")
          file:write("finalized")
          file:close()
        end})
      end)(%q):await()]]):format(path))
    assert.equal("finalized", script.read_file(path))
  end)

  it("is none of luv's business: children of the script are reaped as ever", function()
    local uv = require("luv")
    local done = gate.new()
    local handle
    handle = uv.spawn("/bin/sh", {args = {"-c", "exit 7"}}, function(code)
      handle:close()
      done:resolve(code)
    end)
    local dead = unsync.cpu(function() os.exit(5) end)()
    assert.equal(7, within(done))
    assert.equal(5, error_of(dead).exit_code)
  end)

  it("works where SIGCHLD is ignored", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local f = unsync.cpu(function(x) return x end)
      assert(f(1):await() == 1)
      local dead = unsync.cpu(function() os.exit(3) end)()
      local ok, err = pcall(dead.await, dead)
      assert(not ok and err.code == "crashed", err)
      assert(f(2):await() == 2)
      print "fine"]], {before = "trap '' CHLD"})
    assert.equal("fine\n", ran.out .. ran.err)
  end)
end)

describe("the death of a worker process", function()
  it("fails its own call with the signal, or the exit code", function()
    local kill = unsync.cpu(function(number)
      local uv = require("luv")
      uv.kill(uv.os_getpid(), number)
      while true do end
    end, {name = "victim"})
    local err = error_of(kill("sigkill"))
    assert.equal("crashed", err.code)
    assert.equal("SIGKILL", err.signal)
    assert.is_nil(err.exit_code)
    assert.matches("victim", tostring(err))
    err = error_of(unsync.cpu(function() os.exit(3) end)())
    assert.equal("crashed", err.code)
    assert.equal(3, err.exit_code)
    assert.is_nil(err.signal)
    assert.equal(0, error_of(unsync.cpu(function() os.exit(true) end)()).exit_code)
  end)

  it("names what ran in it, a function of a library and one that is wrapped twice included", function()
    local leave = unsync.cpu(os.exit)
    assert.equal("crashed: the worker process of os.exit ended with exit code 3", tostring(error_of(leave(3))))
    local named = unsync.cpu(unsync.io(function() os.exit(3) end, {name = "leave"}))
    assert.matches("of leave ended", tostring(error_of(named())), 1, true)
    assert.matches("^future: thread print ", tostring(unsync.thread(print)("")))
  end)

  it("fails what its tasks were to settle, wherever that went", function()
    local sent, go = unsync.promise(), unsync.promise()
    local lost = unsync.cpu(function(to, begin)
      to:resolve({unsync.spawn(function() unsync.promise():await(1000) end)})
      begin:await()
      require("luv").kill(require("luv").os_getpid(), "sigkill")
    end)(sent, go)
    local inner = within(sent)[1]
    assert.is_false(inner:done())
    go:resolve()
    assert.equal("crashed", error_of(lost).code)
    assert.equal("crashed", error_of(inner).code)
  end)

  it("is not noticed by the calls that wait, nor by those in other workers", function()
    local started, opened = gate.new(), gate.new()
    local other = busy(started, opened)
    within(started)
    local die = unsync.cpu(function() os.exit(1) end)
    local add = unsync.cpu(function(a, b) return a + b end)
    local dead, fine = {}, {}
    for i = 1, 10 do dead[i], fine[i] = die(), add(i, 1) end
    for i = 1, 10 do
      assert.equal("crashed", error_of(dead[i]).code)
      assert.equal(i + 1, within(fine[i]))
    end
    opened:resolve()
    assert.equal("went on", within(other))
  end)

  it("costs as many calls as workers died, whenever that was #slow", function()
    local uv = require("luv")
    local work = unsync.cpu(function(i, seconds)
      local deadline = os.clock() + seconds
      while os.clock() < deadline do end
      return i
    end)
    local me = uv.os_getpid()
    -- Those that have greeted have a second thread. One that dies before it has, several times over, is given up.
    local function is_ready(number)
      local threads, count = uv.fs_scandir(("/proc/%s/task"):format(number)), 0
      while threads and uv.fs_scandir_next(threads) do count = count + 1 end
      return count > 1
    end
    local function workers()
      local found, tasks = {}, uv.fs_scandir(("/proc/%d/task"):format(me))
      for task in function() return (uv.fs_scandir_next(tasks)) end do
        local file <close> = io.open(("/proc/%d/task/%s/children"):format(me, task))
        for number in (file and file:read("a") or ""):gmatch("%d+") do
          local line <close> = io.open(("/proc/%s/cmdline"):format(number))
          if line and line:read("a"):find("--worker", 1, true) and is_ready(number) then
            found[#found + 1] = tonumber(number)
          end
        end
      end
      return found
    end
    math.randomseed(1)
    local futures, kills = {}, 0
    for i = 1, 1000 do futures[i] = work(i, i % 3 == 0 and 0.002 or 0) end
    local killer = unsync.spawn(function()
      for _ = 1, 20 do
        unsync.sleep(math.random() * 0.02 * slow)
        local all = workers()
        if #all > 0 and uv.kill(all[math.random(#all)], "sigkill") == 0 then kills = kills + 1 end
      end
    end)
    local failed = 0
    for i = 1, 1000 do
      local ok, result = pcall(gate.within, futures[i], 60)
      if ok then assert.equal(i, result)
      else
        assert.equal("SIGKILL", result.signal)
        failed = failed + 1
      end
    end
    killer:await()
    assert.is_true(failed <= kills, ("%d calls failed, %d workers were killed"):format(failed, kills))
  end)

  it("takes along what the worker had started", function()
    local started = gate.new()
    local doomed = unsync.cpu(function(g)
      local uv = require("luv")
      local child = uv.spawn("/bin/sleep", {args = {"1000"}}, function() end)
      g:resolve(uv.os_getpid(), child:get_pid())
      while true do end
    end)(started)
    local worker, sleeper = within(started)
    assert.is_true(alive(worker) and alive(sleeper))
    require("luv").kill(worker, "sigkill")
    assert.equal("SIGKILL", error_of(doomed).signal)
    assert.is_true(script.eventually(function() return not alive(worker) end))
    -- A process that init has not reaped yet is dead all the same.
    assert.is_true(script.eventually(function()
      local file <close> = io.open(("/proc/%d/stat"):format(sleeper))
      return not file or file:read("a"):match("^%d+ %b() (%S)") == "Z"
    end))
  end)

  it("leaves no descriptor and no process behind", function()
    local die = unsync.cpu(function() os.exit(1) end)
    error_of(die())
    within(pid())
    local before = script.descriptors()
    for _ = 1, 20 do error_of(die()) end
    within(pid())
    assert.is_true(script.eventually(function() return script.descriptors() <= before + 3 end),
      ("%d descriptors, %d before"):format(script.descriptors(), before))
  end)

  it("by garbage in the shared memory is named so, and the next call has a new one", function()
    local scribble = unsync.cpu(function()
      local maps <close> = io.open("/proc/self/maps")
      local from = maps:read("a"):match("(%x+)%-%x+ rw%-s %x+ %x+:%x+ %d+%s+/memfd:unsync")
      local memory <close> = io.open("/proc/self/mem", "r+")
      memory:setvbuf("no")
      memory:seek("set", tonumber(from, 16))
      memory:write(("\xff"):rep(4096))
      return "never heard"
    end)
    local err = error_of(scribble())
    assert.equal("crashed", err.code)
    assert.matches("garbage", tostring(err))
    assert.is_number(within(pid()))
  end)
end)

describe("kill -9 of the host", function()
  it("leaves no process behind within a second", function()
    local path = script.path("left_behind")
    local uv = require("luv")
    local ready = gate.new()
    local out = uv.new_pipe()
    local host, host_pid
    host, host_pid = uv.spawn(script.program, {args = {"-e", ([[
      local unsync = require "unsync"
      local spin = unsync.cpu(function(path, i)
        local uv = require "luv"
        local child = uv.spawn("/bin/sleep", {args = {"1000"}}, function() end)
        local file = io.open(path .. i, "w")
        file:write(uv.os_getpid(), " ", child:get_pid())
        file:close()
        print "up"
        io.stdout:flush()
        if i == 1 then while true do end else unsync.sleep(1000) end
      end)
      spin(%q, 1)
      spin(%q, 2):await()]]):format(path, path)}, stdio = {nil, out, 2}}, function() host:close() end)
    local seen = ""
    out:read_start(function(_, data)
      seen = seen .. (data or "")
      if select(2, seen:gsub("up", "")) == 2 then ready:resolve() end
    end)
    within(ready)
    local numbers = {}
    for i = 1, 2 do
      for number in script.read_file(path .. i):gmatch("%d+") do numbers[#numbers + 1] = tonumber(number) end
    end
    assert.equal(4, #numbers)
    uv.kill(host_pid, "sigkill")
    local function gone()
      for _, number in ipairs(numbers) do
        local file <close> = io.open(("/proc/%d/stat"):format(number))
        if file and file:read("a"):match("^%d+ %b() (%S)") ~= "Z" then return false end
      end
      return true
    end
    assert.is_true(script.eventually(gone, 1))
    out:close()
  end)
end)

describe("the end of a script", function()
  it("does not wait for calls that nobody can want any more", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local f = unsync.cpu(function() while true do end end)
      f() f() f()
      unsync.cpu(function() end)
      error("enough", 0)]], {limit_s = 20})
    assert.equal(1, ran.code)
    assert.matches("enough", ran.err)
  end)
end)

describe("a worker process that cannot be started", function()
  local code = [[
    local unsync = require "unsync"
    local f = unsync.cpu(function(x) return x end, {name = "wanted"})
    local futures = {f(1), f(2), f(3)}
    for i = 1, 3 do
      local ok, err = pcall(futures[i].await, futures[i])
      print(ok, not ok and err.code or "", err)
    end]]

  local function says(worker, ...)
    local ran = script.run(code, {env = {UNSYNC_WORKER = worker}})
    assert.equal(0, ran.code)
    for _, text in ipairs {...} do assert.matches(text, ran.out, 1, true) end
    assert.equal(3, select(2, ran.out:gsub("%f[^\n\0]false", "")))
  end

  it("fails the calls that wait with what went wrong", function()
    says("/no/such/unsync", "ENOENT", "wanted", "/no/such/unsync", "No such file or directory")
    says(script.file("not_a_program", "text"), "EACCES", "Permission denied")
    says("/bin/false", "crashed", "ended with exit code 1 before it was ready")
  end)

  it("says so where it is of another build", function()
    local other = script.file("other_build", ("#!/bin/sh\nexec %s --worker $2 another\n"):format(
      script.quote(require("luv").fs_realpath(script.program))))
    os.execute("chmod +x " .. script.quote(other))
    says(other, "crashed", "another build")
  end)

  it("says so where there are no descriptors left", function()
    local ran = script.run(code, {before = "ulimit -n 18"})
    if not ran.out:find("true") then assert.matches("EMFILE", ran.out) end
    assert.equal(0, ran.code)
  end)
end)

describe("futures and worker processes", function()
  it("a future of the script can be awaited in a worker", function()
    local opened = gate.new()
    local waiting = unsync.cpu(function(f) return "got", f:await() end)(opened)
    opened:resolve("a", nil, {"b"})
    assert.same(table.pack("got", "a", nil, {"b"}), table.pack(within(waiting)))
  end)

  it("so can one that has failed", function()
    local opened = gate.new()
    local waiting = unsync.cpu(function(f) return pcall(f.await, f) end)(opened)
    opened:reject({code = "E"})
    assert.same(table.pack(false, {code = "E"}), table.pack(within(waiting)))
  end)

  it("a promise is settled once, wherever that is", function()
    local settle = unsync.cpu(function(p, value) return p:resolve(value), p:resolve("again") end)
    local p = unsync.promise()
    assert.same({true, false}, {within(settle(p, "first"))})
    assert.equal("first", within(p))
    assert.same({false, false}, {within(settle(p, "second"))})
    assert.equal("first", within(p))
    local rejected = unsync.promise()
    within(unsync.cpu(function(q) q:reject("no") end)(rejected))
    assert.equal("no", error_of(rejected))
  end)

  it("a future that comes home is the same one", function()
    local same = unsync.cpu(function(f) return f end)
    local pending, settled = unsync.promise(), unsync.resolved(1)
    assert.is_true(within(same(pending)) == pending)
    assert.is_true(within(same(settled)) == settled)
    pending:resolve()
  end)

  it("a promise made in a worker works at home, and in another worker", function()
    local made = within(unsync.cpu(function() return require("unsync").promise() end)())
    assert.equal("pending", made:status())
    local waiting = unsync.cpu(function(p) return p:await() end)(made)
    assert.is_true(made:resolve("from home"))
    assert.equal("from home", within(waiting))
    assert.equal("from home", within(made))
  end)

  it("two workers meet in one", function()
    local p = unsync.promise()
    local first = unsync.cpu(function(f) return f:await() end)(p)
    local second = unsync.cpu(function(f) return f:resolve("hello") end)(p)
    assert.is_true(within(second))
    assert.equal("hello", within(first))
  end)

  it("do not pile up", function()
    local touch = unsync.cpu(function(f) return f:done() end)
    for _ = 1, 500 do
      local p = unsync.promise()
      within(touch(p))
      p:resolve()
    end
    collectgarbage()
    local kib = script.resident_kib()
    for _ = 1, 3000 do
      local p = unsync.promise()
      within(touch(p))
      p:resolve(("x"):rep(1000))
    end
    collectgarbage()
    if slow > 1 then return end -- checkers keep books of their own
    assert.is_true(script.resident_kib() < kib + 4000, ("%d KiB, %d before"):format(script.resident_kib(), kib))
  end)
end)

describe("calls made in a worker process", function()
  it("are served by the script's pool", function()
    local inner = unsync.cpu(function(x) return x * 2, require("luv").os_getpid() end)
    local outer = unsync.cpu(function(x)
      local y, other = inner(x):await()
      return y + 1, other ~= require("luv").os_getpid()
    end)
    assert.same({41, true}, {within(outer(20))})
  end)

  it("do not starve, however deep: who waits lends its place", function()
    local sum
    sum = unsync.cpu(function(n) return n == 0 and 0 or sum(n - 1):await() + n end)
    assert.equal(210, within(sum(20)))
  end)

  it("fail with `limit` where too many wait", function()
    local down
    down = unsync.cpu(function(n) return n == 0 and 0 or down(n - 1):await() end, {name = "down"})
    local err = error_of(down(80))
    assert.equal("limit", err.code)
    assert.equal(5, within(unsync.cpu(function() return 5 end)()))
  end)

  it("pass errors and deaths on", function()
    local bad = unsync.cpu(function() error({code = "deep"}) end)
    local dead = unsync.cpu(function() os.exit(9) end)
    local outer = unsync.cpu(function(which) return which():await() end)
    assert.equal("deep", error_of(outer(bad)).code)
    assert.equal(9, error_of(outer(dead)).exit_code)
  end)

  it("end with the worker that made them", function()
    local started = gate.new()
    local inner = unsync.cpu(function(g)
      g:resolve(require("luv").os_getpid())
      while true do end
    end)
    local outer = unsync.cpu(function(g)
      inner(g)
      g:await()
      os.exit(4)
    end)(started)
    local number = within(started)
    assert.equal(4, error_of(outer).exit_code)
    -- The inner call is stopped; its worker goes on, or is replaced.
    assert.is_number(number)
    local futures = {}
    for i = 1, 4 do futures[i] = pid() end
    for i = 1, 4 do assert.is_number(within(futures[i])) end
  end)

  it("can be thread calls as well", function()
    local outer = unsync.cpu(function(x) return require("unsync").thread(function(y) return y + 1 end)(x):await() end)
    assert.equal(2, within(outer(1)))
  end)
end)

--- The time that a process has computed, in the kernel's ticks.
local function computed(number)
  local file <close> = io.open(("/proc/%d/stat"):format(number))
  local user, system = file:read("a"):match("%) %S" .. (" %S+"):rep(10) .. " (%d+) (%d+)")
  return user + system
end

describe("stopping a call in a worker process", function()
  local function stopped(future)
    future:cancel("enough")
    local err = error_of(future)
    assert.equal("cancelled", err.code)
    assert.equal("cancelled", future:status())
    return err.stopped_by
  end

  it("reaches a wait, and a loop of plain Lua", function()
    local started = gate.new()
    local waits = unsync.cpu(function(g)
      unsync.spawn(function()
        unsync.yield() -- until the other one sleeps
        g:resolve()
      end)
      unsync.sleep(1000)
    end)(started)
    within(started)
    local how = stopped(waits)
    assert.is_true(how == "await" or how == "hook", how) -- the other one may not have come so far as to sleep
    started = gate.new()
    local spins = unsync.cpu(function(g)
      g:resolve()
      while true do end
    end)(started)
    within(started)
    how = stopped(spins)
    -- ThreadSanitizer holds signals back until the next call that it knows, and plain Lua makes none.
    assert.is_true(how == "hook" or (script.build:find("tsan") and how == "sigterm"), how)
  end)

  it("takes what waits out of the queue", function()
    local opened, futures, started = gate.new(), {}, {}
    for i = 1, 8 do
      started[i] = gate.new()
      futures[i] = busy(started[i], opened)
    end
    assert.equal("queue", stopped(futures[8]))
    opened:resolve()
    for i = 1, 7 do assert.equal("went on", within(futures[i])) end
    assert.is_false(started[8]:done())
  end)

  it("kills what does not listen, and what that has started #slow", function()
    local stuck = function(g, ignore)
      local uv = require("luv")
      if ignore then
        local signal = uv.new_signal()
        signal:start("sigterm", function() end)
      end
      local child = uv.spawn("/bin/sleep", {args = {"1000"}}, function() end)
      g:resolve(uv.os_getpid(), child:get_pid())
      return (("a"):rep(40):find(("a?"):rep(40) .. ("a"):rep(40))) -- years of C
    end
    for _, ignore in ipairs {false, true} do
      local started = gate.new()
      -- Long enough for a process to die of SIGTERM, on a busy machine too.
      local future = unsync.cpu(stuck, {grace = ignore and 0.05 or 1})(started, ignore)
      local worker, sleeper = within(started)
      local before = computed(worker)
      assert.is_true(script.eventually(function() return computed(worker) > before + 2 end)) -- so it is in there
      assert.equal(ignore and "sigkill" or "sigterm", stopped(future))
      assert.is_true(script.eventually(function()
        local file <close> = io.open(("/proc/%d/stat"):format(sleeper))
        return not file or file:read("a"):match("^%d+ %b() (%S)") == "Z"
      end))
    end
    assert.is_number(within(pid()))
  end)
end)
