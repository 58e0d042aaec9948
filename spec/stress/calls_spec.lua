-- Stress: a hundred thousand mixed calls leave nothing behind; processes that are killed take nothing else with them.
local unsync = require("unsync")
local script = require("spec.support.script")
local uv = require("luv")

local env = {
  LUA_PATH = "./?.lua;;",
  UNSYNC_PLUGIN_PATH = script.build .. "/plugins",
}

local function alive(pid)
  local fine, state = pcall(script.read_file, ("/proc/%s/stat"):format(pid))
  return fine and not state:match("%) Z ")
end

--- Starts a script that prints lines and then goes on; calls `fn` with its pid and its lines up to "ready", and kills
--- what is left of it then.
local function with_host(code, fn)
  local path = script.file("started.lua", code)
  local pipe = assert(io.popen(("echo $$; exec env LUA_PATH='./?.lua;;' %s %s 2>/dev/null"):format(
    script.quote(script.program), script.quote(path))))
  local pid = pipe:read("l")
  local lines = {}
  for line in pipe:lines() do
    if line == "ready" then break end
    lines[#lines + 1] = line
  end
  local ok, err = pcall(fn, tonumber(pid), lines)
  uv.kill(tonumber(pid), 9)
  pipe:close()
  if not ok then error(err, 0) end
end

describe("100,000 mixed calls on all executors #slow #plain", function()
  it("end with nothing pending, and no descriptor, thread, process or memory left over", function()
    local out = script.output([[
      local unsync = require "unsync"
      local script = require "spec.support.script"
      local random = math.random
      math.randomseed(42)
      local up = {3, {4}}
      local calls = {}
      local function each(fn) calls[#calls + 1] = fn end
      local function expect(future, ...)
        local want, got = table.pack(...), table.pack(pcall(future.await, future))
        assert(got[1], got[2])
        assert(got.n == want.n + 1, "count of results")
        for i = 1, want.n do assert(got[i + 1] == want[i], "a result") end
      end
      for _, wrap in ipairs({unsync.io, unsync.thread, unsync.cpu}) do
        local add = wrap(function(a, b) return a + b, nil, a end)
        each(function(i) expect(add(i, 1), i + 1, nil, i) end)
        local sum = wrap(function(t) local s = up[1] for _, v in ipairs(t) do s = s + v end return s end)
        each(function(i) expect(sum({i, i, i}), 3 * i + 3) end)
        local fail = wrap(function(x) error({code = x}) end)
        each(function(i)
          local future = fail(i)
          local ok, err = pcall(future.await, future)
          assert(not ok and err.code == i, "an error")
        end)
        local text = wrap(function(s) return #s, s .. "!" end)
        local long = ("x"):rep(5000)
        each(function() expect(text(long), 5000, long .. "!") end)
        local inner = unsync.thread(function(x) return x + 1 end)
        local nested = wrap(function(x) return inner(x):await() + 1 end)
        each(function(i) if i % 8 == 0 then expect(nested(i), i + 2) end end)
        local waits = wrap(function() require "unsync".yield() require "unsync".sleep(0) return "waited" end)
        each(function() expect(waits(), "waited") end)
        local settle = wrap(function(p, v) return p:resolve(v) end)
        each(function(i)
          if i % 4 > 0 then return end
          local promise = unsync.promise()
          local call = settle(promise, i)
          expect(promise, i)
          expect(call, true)
        end)
        local refused = wrap(function() return io.tmpfile() end)
        if wrap ~= unsync.io then
          each(function(i)
            if i % 16 > 0 then return end
            local future = refused()
            local ok, err = pcall(future.await, future)
            assert(not ok and err.code == "unsendable", "a refusal")
          end)
        end
      end
      local native = pcall(unsync.thread, "hash.sha256")
      if native then
        for _, wrap in ipairs({unsync.thread, unsync.cpu}) do
          local sha = wrap("hash.sha256")
          local want = sha("abc"):await()
          each(function() expect(sha("abc"), want) end)
        end
      end
      each(function(i) expect(unsync.all({unsync.resolved(i), unsync.spawn(function() return i end)})
        :and_then(function(t) return t[1] + t[2] end), 2 * i) end)
      each(function()
        local never = unsync.promise()
        local ok, err = pcall(never.await, never, 0)
        assert(not ok and err.code == "timeout")
      end)

      local function run(count)
        local done, tasks = 0, {}
        for lane = 1, 64 do
          tasks[lane] = unsync.spawn(function()
            while done < count do
              done = done + 1
              calls[random(#calls)](done)
            end
          end)
        end
        for lane = 1, 64 do tasks[lane]:await() end
      end
      local function children()
        local count, pipe = 0, io.popen("cat /proc/$PPID/task/*/children 2>/dev/null")
        for _ in pipe:read("a"):gmatch("%d+") do count = count + 1 end
        pipe:close()
        return count - 1 -- cat's shell
      end
      run(10000)
      unsync.sleep(1.5) -- the surplus of threads goes after a second
      local lua, resident = script.lua_kib(), script.resident_kib()
      local descriptors, threads, processes = script.descriptors(), script.threads(), children()
      run(100000)
      local calm = script.eventually(function() return script.threads() <= threads + 1 end, 10)
      io.write(("lua %d resident %d descriptors %d processes %d threads %s native %s\n"):format(
        math.ceil(script.lua_kib() - lua), script.resident_kib() - resident, script.descriptors() - descriptors,
        children() - processes, calm, native))
    ]], {env = env, limit_s = 200})
    local lua, resident, descriptors, processes, threads = out:match(
      "^lua (%-?%d+) resident (%-?%d+) descriptors (%-?%d+) processes (%-?%d+) threads (%a+)")
    assert.is_true(tonumber(lua) < 500, out)
    assert.is_true(tonumber(resident) < 20000, out)
    assert.is_true(tonumber(descriptors) <= 10 + 6 * math.max(0, tonumber(processes)), out) -- a process has some
    assert.is_true(tonumber(processes) <= 2, out) -- as many as there are cores may wait for work
    assert.equal("true", threads, out)
  end)
end)

describe("a worker process that is killed", function()
  it("fails the call that ran in it, and no other", function()
    local pid, stop = unsync.promise(), unsync.promise()
    local killed = unsync.cpu(function()
      pid:resolve(math.tointeger(require("luv").os_getpid()))
      while true do end -- luacheck: ignore
    end)()
    local other = unsync.cpu(function() return stop:await() end)()
    uv.kill(pid:await(), 9)
    local ok, err = pcall(killed.await, killed)
    assert.is_false(ok)
    assert.equal("crashed", err.code)
    assert.equal("SIGKILL", err.signal)
    stop:resolve("not noticed")
    assert.equal("not noticed", other:await())
    assert.equal(1, unsync.cpu(function() return 1 end)():await())
  end)

  it("at random, during 1,000 calls, fails just the calls that ran in it #slow #plain", function()
    local out = script.output([[
      local unsync = require "unsync"
      local uv = require "luv"
      math.randomseed(7)
      local work = unsync.cpu(function(i)
        local until_then = os.clock() + 0.002
        while os.clock() < until_then do end
        return i
      end)
      work(0):await()
      local kills, running = 0, true
      local killer = unsync.spawn(function()
        while running do
          unsync.sleep(0.02)
          local pids = {}
          local children = io.popen("cat /proc/$PPID/task/*/children 2>/dev/null"):read("a")
          for name in children:gmatch("%d+") do
            local file = io.open("/proc/" .. name .. "/cmdline")
            local command = file and file:read("a") or ""
            if file then file:close() end
            -- One that dies before it has its second thread has not greeted; several in a row are given up.
            local threads, count = uv.fs_scandir("/proc/" .. name .. "/task"), 0
            while threads and uv.fs_scandir_next(threads) do count = count + 1 end
            if command:match("unsync") and count > 1 then pids[#pids + 1] = tonumber(name) end
          end
          if #pids > 0 and uv.kill(pids[math.random(#pids)], 9) == 0 then kills = kills + 1 end
        end
      end)
      local fine, crashed, next_call = 0, 0, 0
      local lanes = {}
      for lane = 1, 8 do
        lanes[lane] = unsync.spawn(function()
          while next_call < 1000 do
            next_call = next_call + 1
            local i = next_call
            local future = work(i)
            local ok, value = pcall(future.await, future)
            if ok then
              assert(value == i)
              fine = fine + 1
            else
              assert(type(value) == "table" and value.code == "crashed" and value.signal == "SIGKILL", tostring(value))
              crashed = crashed + 1
            end
          end
        end)
      end
      for lane = 1, 8 do lanes[lane]:await() end
      running = false
      killer:await()
      assert(fine + crashed == 1000, fine + crashed)
      assert(kills > 10, kills .. " kills")
      assert(crashed <= kills, crashed .. " of " .. kills)
      assert(crashed > 0)
      print("ok", work(5):await())
    ]], {env = env, limit_s = 60})
    assert.equal("ok\t5\n", out)
  end)
end)

describe("a host that is killed", function()
  it("leaves no process behind: no worker, and nothing that a worker started #slow", function()
    with_host([[
      local unsync = require "unsync"
      local told = {}
      for i = 1, 2 do
        local pid, child = unsync.promise(), unsync.promise()
        if i == 1 then
          unsync.cpu(function()
            pid:resolve(math.tointeger(require("luv").os_getpid()))
            local pipe = io.popen("echo $$; exec sleep 1000")
            child:resolve(pipe:read("l"))
            pipe:read("a")
          end)()
        else
          unsync.cpu(function()
            pid:resolve(math.tointeger(require("luv").os_getpid()))
            child:resolve()
            while true do end
          end)()
        end
        told[#told + 1] = pid:await()
        told[#told + 1] = child:await()
      end
      for _, pid in ipairs(told) do print(pid) end
      print("ready")
      io.stdout:flush()
      unsync.sleep(1000)
    ]], function(host, lines)
      assert.equal(3, #lines)
      for _, pid in ipairs(lines) do assert.is_true(alive(pid), pid) end
      uv.kill(host, 9)
      assert.is_true(script.eventually(function()
        for _, pid in ipairs(lines) do
          if alive(pid) then return false end
        end
        return not alive(host)
      end, 1))
    end)
  end)

  it("in any other way leaves none either: an error, os.exit, an abort #slow", function()
    for _, how in ipairs({"error('x')", "os.exit(3)", "os.exit(3, true)", "uv.kill(uv.os_getpid(), 6)", "return"}) do
      with_host([[
        local unsync = require "unsync"
        local uv = require "luv"
        local pid = unsync.promise()
        unsync.cpu(function()
          pid:resolve(math.tointeger(require("luv").os_getpid()))
          ]] .. (how == "return" and "" or "while true do end") .. [[
        end)()
        print(pid:await())
        print("ready")
        io.stdout:flush()
        ]] .. how, function(host, lines)
        assert.equal(1, #lines)
        assert.is_true(script.eventually(function() return not alive(host) and not alive(lines[1]) end, 5), how)
      end)
    end
  end)
end)
