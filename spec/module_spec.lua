-- Stock lua5.4 requires unsync: the same promises, in a state that somebody else closes.
local script = require("spec.support.script")

local here = io.popen("pwd"):read("l")
local cpath = here .. "/build/?.so"

local function stock(code, options)
  options = options or {}
  options.program = options.program or "lua5.4"
  options.env = options.env or {}
  options.env.LUA_CPATH = options.env.LUA_CPATH or cpath .. ";;"
  options.env.LUA_PATH = options.env.LUA_PATH or ";;"
  return script.run(code, options)
end

--- It ends well, without a word on stderr; returns what it printed.
local function output(code, options)
  local ran = stock(code, options)
  if ran.code ~= 0 or ran.err ~= "" then
    error(("exit code %d, stdout:\n%s\nstderr:\n%s"):format(ran.code, ran.out, ran.err), 2)
  end
  return ran.out
end

local function has(part, text)
  if not text:find(part, 1, true) then error(("no %q in:\n%s"):format(part, text), 2) end
end

describe("unsync in stock lua5.4 #plain", function()
  it("runs io, thread and cpu functions, and promises, awaited at the top level", function()
    assert.equal("42\t2\t3\n1\tnil\t3\n", output([[
      local unsync = require "unsync"
      local io = unsync.io(function(n) unsync.sleep(0.01) return n * 2 end)
      local function next_one(n) return n + 1 end
      print(io(21):await(), unsync.thread(next_one)(1):await(), unsync.cpu(next_one)(2):await())
      local p = unsync.promise()
      unsync.spawn(function() unsync.sleep(0.01) p:resolve(1, nil, 3) end)
      print(p:await())
    ]]))
  end)

  it("waits inside whatever the main script calls", function()
    assert.equal("true\t1\n1,2,3\nab\n", output([[
      local unsync = require "unsync"
      local function wait(...) unsync.sleep(0.001) return ... end
      print(pcall(wait, 1))
      local t = {3, 1, 2}
      table.sort(t, function(a, b) return wait(a < b) end)
      print(table.concat(t, ","))
      print((string.gsub("AB", "%u", function(c) return wait(c:lower()) end)))
    ]]))
  end)

  it("waits inside the script's own coroutines, past their consumers", function()
    assert.equal("1 2 3 \nnormal\ndone\n", output([[
      local unsync = require "unsync"
      local function items()
        return coroutine.wrap(function()
          for i = 1, 3 do unsync.sleep(0.001) coroutine.yield(i) end
        end)
      end
      for i in items() do io.write(i, " ") end
      print()
      local co co = coroutine.create(function() unsync.sleep(0.02) return "done" end)
      unsync.spawn(function() unsync.sleep(0.005) print(coroutine.status(co)) end)
      print(select(2, coroutine.resume(co)))
    ]]))
  end)

  it("waits while a module is required", function()
    local module = script.file("waiting_module.lua", [[
      local unsync = require "unsync"
      unsync.sleep(0.005)
      return {name = ...}
    ]])
    assert.equal("waiting_module\n", output([[
      require "unsync"
      print(require("waiting_module").name)
    ]], {env = {LUA_PATH = module:gsub("[^/]*$", "?.lua")}}))
  end)

  it("says why a wait can never end", function()
    has("deadlock", output([[
      local unsync = require "unsync"
      local ok, why = pcall(function() return unsync.promise():await() end)
      print(ok, why.code)
    ]]))
  end)

  it("may be required in a coroutine, in which nothing can wait until it is left", function()
    assert.equal("unyieldable\n7\n", output([[
      local unsync
      local old = coroutine.wrap(function()
        unsync = require "unsync"
        local ok, why = pcall(unsync.sleep, 0.001)
        print(why.code)
      end)
      old()
      print(unsync.io(function() unsync.sleep(0.001) return 7 end)():await())
    ]]))
  end)

  it("loads whichever part is required first", function()
    for _, part in ipairs({"core", "http", "fs", "net", "dns", "process", "signal"}) do
      local written = part == "core" or io.open("lua/unsync/" .. part .. ".lua")
      if written then
        assert.equal("table\ttable\ttrue\n", output(([[
          local part = require "unsync.%s"
          print(type(part), type(require "unsync"), require "unsync.%s" == part)
        ]]):format(part, part)))
      end
    end
  end)

  it("shares its loop with luv", function()
    assert.equal("ticked\n", output([[
      local unsync = require "unsync"
      local uv = require "luv"
      local p = unsync.promise()
      local timer = uv.new_timer()
      timer:start(5, 0, function() timer:close() p:resolve("ticked") end)
      print(p:await())
    ]]))
  end)

  it("finds its worker program although the script changes the directory", function()
    assert.equal("5\n", output([[
      local unsync = require "unsync"
      require("luv").chdir("/")
      print(unsync.cpu(function() return 5 end)():await())
    ]], {env = {LUA_CPATH = "./build/?.so;;"}}))
  end)

  it("names the program that no worker could be started from", function()
    local ran = stock([[
      local unsync = require "unsync"
      unsync.cpu(function() end)():await()
    ]], {env = {UNSYNC_WORKER = "/nowhere/unsync"}})
    assert.equal(1, ran.code)
    has("/nowhere/unsync", ran.err)
  end)

  describe("at the end of the script", function()
    it("waits for what was started, where unsync is to be closed", function()
      assert.equal("end\nrest\n", output([[
        local unsync <close> = require "unsync"
        unsync.spawn(function() unsync.sleep(0.02) print("rest") end)
        print("end")
      ]]))
    end)

    it("then fails where the host would end with an exit code", function()
      local ran = stock([[
        local unsync <close> = require "unsync"
        unsync.spawn(error, "unseen")
        unsync.spawn(function() unsync.promise():await() end)
      ]])
      assert.equal(1, ran.code)
      has("a failure that nobody looked at", ran.err)
      has("unseen", ran.err)
      has("deadlock", ran.err)
      has("2 failures that nobody looked at", ran.err)
    end)

    it("waits for nothing once the script has failed", function()
      local ran = stock([[
        local unsync <close> = require "unsync"
        unsync.spawn(unsync.sleep, 30)
        error("boo")
      ]], {limit_s = 10})
      assert.equal(1, ran.code)
      has("boo", ran.err)
      assert.is_true(ran.seconds < 10 * script.slowness)
    end)

    it("drops what nobody awaits, and names it", function()
      local ran = stock([[
        local unsync = require "unsync"
        unsync.io(function() unsync.sleep(30) end, {name = "sleeper"})()
        unsync.spawn(error, "unseen")
        unsync.cpu(function() while true do end end)()
        print("end")
      ]], {limit_s = 20})
      assert.equal(0, ran.code)
      assert.equal("end\n", ran.out)
      has("what was still under way ends with it", ran.err)
      has("io sleeper, waiting at", ran.err)
      has("1 call or request", ran.err)
      has("unseen", ran.err)
    end)

    it("leaves os.exit as it is", function()
      assert.equal(3, stock([[
        local unsync = require "unsync"
        unsync.spawn(unsync.sleep, 30)
        unsync.thread(function(n) return n end)(1):await()
        os.exit(3)
      ]]).code)
      assert.equal(4, stock([[
        local unsync = require "unsync"
        unsync.spawn(unsync.sleep, 30)
        unsync.spawn(function() unsync.sleep(0.001) os.exit(4, true) end)
        unsync.sleep(30)
      ]]).code)
    end)

    it("leaves no process behind", function()
      local pid = output([[
        local unsync = require "unsync"
        print(unsync.cpu(function() return io.open("/proc/self/stat"):read("n") end)():await())
      ]]):match("%d+")
      assert.is_nil(io.open("/proc/" .. pid .. "/stat"))
    end)

    it("is not held up, nor brought down, by a thread that stands in foreign code", function()
      local ran = stock([[
        local unsync = require "unsync"
        local started = unsync.promise()
        unsync.thread(function() started:resolve() require("socket").sleep(60) end)()
        started:await()
      ]], {limit_s = 20})
      assert.equal(0, ran.code)
      assert.is_true(ran.seconds < 20 * script.slowness)
    end)

    it("lets older finalizers call what it replaced", function()
      local code = [[
        local later = setmetatable({}, {__gc = function()
          local wrapped = coroutine.wrap(function() coroutine.yield(1) end)
          print("older", wrapped(), pcall(error, "x"))
          local ok, why = pcall(unsync.spawn, print) print(ok, why.code)
          ok, why = pcall(unsync.thread, print) print(ok, why.code)
          ok, why = pcall(declared, 1) print(ok, why.code)
          ok, why = pcall(waited.await, waited) print(ok, why.code)
          print(sent:resolve(5), tostring(sent):match("done"), job:cancel(), os.execute("true"))
          table.sort({2, 1}, function(a, b) return a < b end) string.gsub("a", "a", function() end)
        end})
        keep = later
        unsync = require "unsync"
        declared = unsync.thread(function(p) return p end)
        waited = unsync.promise()
        sent = unsync.promise()
        declared(sent):await()
        job = unsync.thread(function() local t = os.clock() while os.clock() - t < 0.1 do end end)()
      ]]
      local ran = stock(code)
      assert.equal(0, ran.code)
      assert.equal("older\t1\tfalse\tx\n" .. ("false\tclosed\n"):rep(3) ..
        "false\tunyieldable\ntrue\tdone\tfalse\ttrue\texit\t0\n", ran.out)
    end)

    it("refuses to wait in a finalizer", function()
      assert.equal("unyieldable\n", output([[
        local unsync = require "unsync"
        do local _ = setmetatable({}, {__gc = function()
          local ok, why = pcall(unsync.sleep, 0.001)
          print(why.code)
        end}) end
        collectgarbage()
      ]]))
    end)

    it("has lost no memory #slow", function()
      if not os.execute("command -v valgrind >/dev/null") then return pending("no valgrind") end
      output([[
        local unsync = require "unsync"
        local function double(n) return n * 2 end
        for i = 1, 20 do assert(unsync.thread(double)(i):await() == 2 * i) end
        assert(unsync.cpu(double)(1):await() == 2)
        local p = unsync.promise()
        unsync.thread(function() p:resolve(1) end)():await()
        assert(p:await() == 1)
        assert(not pcall(unsync.sleep, {}))
      ]], {wrapper = "valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite " ..
        "--show-leak-kinds=definite --fair-sched=try --log-file=" .. script.path("valgrind.log"), limit_s = 120})
    end)
  end)

  it("changes nothing in the host, where unsync is to be closed", function()
    assert.equal("end\nrest\n", script.output([[
      local unsync <close> = require "unsync"
      unsync.spawn(function() unsync.sleep(0.01) print("rest") end)
      print("end")
    ]]))
  end)

  it("is refused by other Luas", function()
    if not os.execute("command -v lua5.1 >/dev/null") then return pending("no other Lua") end
    local ran = stock([[require "unsync"]], {program = "lua5.1", env = {LUA_CPATH = cpath}})
    assert.equal(1, ran.code)
    has("error loading module 'unsync'", ran.err)
  end)

  it("fails tasks that cannot be resumed where C's stack is used up, inside of timeouts and shields too", function()
    assert.equal("5 times C stack overflow\n100 timeouts later all is well\n", output([[
      local unsync = require "unsync"
      local function body()
        return unsync.timeout(3600, unsync.shield, unsync.timeout, 3600, function()
          while true do pcall(unsync.sleep, 0.001) end
        end)
      end
      local futures = {}
      for i = 1, 5 do futures[i] = unsync.spawn(body) end
      local endless = setmetatable({}, {__index = function(t, k) return t[k + 1] end})
      xpcall(function() return endless[1] end, function() unsync.sleep(0.01) end)
      local count = 0
      for i = 1, 5 do
        if futures[i]:error() == "C stack overflow" then count = count + 1 end
      end
      print(count .. " times C stack overflow")
      for i = 1, 100 do assert(i == unsync.timeout(3600, function() unsync.yield() return i end)) end
      print "100 timeouts later all is well"
    ]]))
  end)
end)
