--- unsync test: specs in the host; what they leave behind, what holds them, what ends them.
local script = require("spec.support.script")

local count = 0

--- Writes specs, runs `unsync test` on them, and returns how that went; `text` is all that it wrote.
local function run(specs, options)
  count = count + 1
  local paths = {}
  for i, code in ipairs(type(specs) == "table" and specs or { specs }) do
    paths[i] = script.file(("command%d_%d_spec.lua"):format(count, i), code)
  end
  local words = { "test" }
  table.move(options or {}, 1, #(options or {}), 2, words)
  table.move(paths, 1, #paths, #words + 1, words)
  local ran = script.run(nil, { options = words })
  ran.text = ran.out .. ran.err
  ran.paths = paths
  return ran
end

local function has(ran, text)
  assert.truthy(ran.text:find(text, 1, true), ("%q is not in:\n%s"):format(text, ran.text))
end

local short = ("--limit=%g"):format(0.5 * script.slowness)

describe("unsync test", function()
  it("lets tests and what stands around them wait, each test being a task", function()
    local ran = run([[
      local unsync = require("unsync")
      local log, value = {}, unsync.var("none")
      setup(function() unsync.sleep(0) log[#log + 1] = "setup" end)
      before_each(function() unsync.sleep(0) log[#log + 1] = "before" value:set("mine") end)
      after_each(function() unsync.sleep(0) log[#log + 1] = "after" end)
      it("one", function()
        assert.equal("mine", value:get())
        finally(function() unsync.sleep(0) log[#log + 1] = "finally" end)
        log[#log + 1] = unsync.thread(function() return "one" end)():await()
      end)
      it("two", function() log[#log + 1] = unsync.io(function() unsync.yield() return "two" end)():await() end)
      it("three", function()
        assert.equal("setup before one finally after before two after before", table.concat(log, " "))
      end)
      pending("four")
      teardown(function() unsync.sleep(0) assert.equal("none", value:get()) end)
    ]])
    has(ran, "3 successes / 0 failures / 0 errors / 1 pending")
    assert.equal(0, ran.code)
  end)

  it("says what failed, and where, and its exit code says so too", function()
    local ran = run([[
      local unsync = require("unsync")
      it("is wrong", function()
        unsync.sleep(0)
        assert.equal(1, 2)
      end)
      it("breaks", function() unsync.spawn(function() error("broken") end):await() end)
    ]])
    assert.equal(1, ran.code)
    has(ran, "0 successes / 1 failure / 1 error")
    has(ran, ran.paths[1] .. ":4: Expected objects to be equal")
    has(ran, "broken")
  end)

  it("fails a test for the tasks and calls that it leaves running, by name and place, and ends them", function()
    local ran = run([[
      local unsync = require("unsync")
      local ended
      it("leaves a task", function()
        unsync.io(function()
          local _ <close> = setmetatable({}, { __close = function() ended = true end })
          unsync.sleep(1000)
        end, { name = "forgotten" })()
      end)
      it("finds it gone", function() assert.is_true(ended) end)
      it("leaves a call", function()
        unsync.thread(function(p) p:await() end, { name = "stuck" })(unsync.promise())
      end)
      it("leaves what a task of its own has started", function()
        unsync.spawn(function() unsync.spawn(unsync.sleep, 1000) end):await()
      end)
    ]])
    assert.equal(1, ran.code)
    has(ran, "1 success / 3 failures / 0 errors")
    has(ran, "left running: io forgotten, started at " .. ran.paths[1] .. ":4, waiting for sleep at " .. ran.paths[1])
    has(ran, "left running: thread stuck, started at " .. ran.paths[1] .. ":11")
    has(ran, "left running: io task, started at " .. ran.paths[1] .. ":14")
  end)

  it("looks at what a test leaves that was cancelled itself", function()
    local ran = run([[
      local unsync = require("unsync")
      it("is cancelled", function()
        unsync.spawn(unsync.sleep, 1000)
        unsync.current():cancel()
      end)
      it("runs", function() unsync.sleep(0) end)
    ]])
    assert.equal(1, ran.code)
    has(ran, "1 success / 1 failure / 0 errors")
    has(ran, "left running: io task, started at " .. ran.paths[1] .. ":3")
  end)

  it("fails a test for failures that nobody looked at, and no other", function()
    local ran = run([[
      local unsync = require("unsync")
      it("lets one go", function() unsync.spawn(function() error("unseen") end) end)
      it("lets one go later", function()
        local f = unsync.io(function() unsync.yield() error("unseen too") end)()
        unsync.yield()
        unsync.yield()
        return f
      end)
      it("is well", function() pcall(error, "x") end)
    ]])
    assert.equal(1, ran.code)
    has(ran, "1 success / 2 failures / 0 errors")
    has(ran, "started at " .. ran.paths[1] .. ":2")
    has(ran, "unseen too")
  end)

  it("fails a test for timers and descriptors that it leaves open, and for a test clock", function()
    local ran = run([[
      local unsync = require("unsync")
      it("leaves a timer", function()
        local uv = require("luv")
        local timer = uv.new_timer()
        timer:start(1000000, 0, print)
      end)
      it("leaves a file", function() leaked = io.open("/etc/passwd") end)
      it("leaves a pipe", function() leaked = io.popen("cat", "w") end)
      it("leaves the clock", function() leaked = require("unsync.testing").clock() end)
      it("has real time again", function() unsync.sleep(0.001) end)
    ]])
    assert.equal(1, ran.code)
    has(ran, "1 success / 4 failures / 0 errors")
    has(ran, "left open: luv timer, made at " .. ran.paths[1] .. ":4")
    has(ran, "/etc/passwd")
    has(ran, ", pipe:[")
    has(ran, "left open: a test clock")
  end)

  it("does not take its own threads, processes and connections for the test's", function()
    local ran = run([[
      local unsync = require("unsync")
      local http_server = require("spec.support.http_server")
      local server
      setup(function() server = http_server.start() end)
      teardown(function() server.close() end)
      it("uses them all", function()
        local calls = {}
        for n = 1, 6 do
          calls[n] = (n % 2 == 0 and unsync.thread or unsync.cpu)(function() return require("unsync").sleep(0) end)()
        end
        unsync.all(calls):await()
        pcall(function() unsync.http.get("http://127.0.0.1:1/"):await() end)
        assert.is_true(os.execute("true"))
        local slow = unsync.thread(function() require("unsync").sleep(100) end)()
        slow:cancel()
        assert.equal(200, unsync.http.get(server.url .. "/"):await().status)
        local function get(url) return require("unsync.http").get(url):await().status end
        assert.equal(200, (unsync.thread(get)(server.url .. "/"):await()))
        assert.equal("", (unsync.thread(function() return io.tmpfile():read("a") end)():await()))
      end)
      it("leaves the server of its file alone", function() end)
    ]])
    has(ran, "2 successes / 0 failures / 0 errors")
    assert.equal(0, ran.code)
  end)

  it("takes what a setup leaves for the file's, unless a teardown ends it, and lets be what it is told to", function()
    local specs = { [[
      local unsync = require("unsync")
      local server
      setup(function() server = unsync.spawn(unsync.sleep, 1000) end)
      it("uses it", function() unsync.yield() end)
      teardown(function() server:cancel() end)
    ]], [[
      local unsync = require("unsync")
      setup(function() unsync.spawn(unsync.sleep, 1000) end)
      it("uses it", function() unsync.yield() end)
    ]] }
    local ran = run(specs)
    assert.equal(1, ran.code)
    has(ran, "2 successes / 0 failures / 1 error")
    has(ran, "left running: io task, started at " .. ran.paths[2] .. ":2")
    assert.equal(0, run(specs, { "--no-leaks" }).code)
    ran = run([[
      local unsync = require("unsync")
      local background
      it("makes what others use", function()
        background = unsync.spawn(unsync.sleep, 1000)
        require("unsync.testing").keep()
      end)
      it("uses it", function() assert.is_false(background:done()) end)
    ]])
    assert.equal(0, ran.code, ran.text)
  end)

  it("ends a test that waits too long, with the tree of what lives", function()
    local ran = run([[
      local unsync = require("unsync")
      it("waits", function() unsync.io(function() unsync.sleep(1000) end, { name = "sleeper" })():await() end)
      it("is not held up", function() end)
    ]], { short })
    assert.equal(1, ran.code)
    has(ran, "1 success / 1 failure / 0 errors")
    has(ran, "timeout: not done after")
    has(ran, "io the test, waiting for future at " .. ran.paths[1] .. ":2")
    has(ran, "io sleeper, started at " .. ran.paths[1] .. ":2, waiting for sleep")
  end)

  it("ends a test that computes without end, and one that sets up so #plain", function()
    local ran = run([[
      it("computes", function() while true do end end)
      it("is not held up", function() end)
      describe("with a setup", function()
        setup(function() while true do end end)
        it("never runs", function() end)
      end)
    ]], { short })
    assert.equal(1, ran.code)
    has(ran, "io the test, running at " .. ran.paths[1] .. ":1")
    has(ran, "1 success / 1 failure / 1 error")
  end)

  it("names a test that cannot be ended, kills its process, and runs the other files", function()
    local ran = run({ [[
      it("fails before", function() error("first of all") end)
      it("holds on", function() while true do pcall(function() while true do end end) end end)
      it("is lost", function() end)
    ]], [[
      it("is in another file", function() end)
    ]] }, { short })
    assert.equal(1, ran.code)
    has(ran, "a spec held the loop")
    has(ran, "in the test 'holds on' of " .. ran.paths[1])
    has(ran, "what follows in " .. ran.paths[1] .. " was not run")
    has(ran, "first of all")
    has(ran, "1 success / 0 failures / 0 errors")
  end)

  it("says at once what can never end", function()
    local ran = run([[
      local unsync = require("unsync")
      it("waits for nothing", function() unsync.promise():await() end)
    ]])
    assert.equal(1, ran.code)
    has(ran, "deadlock")
  end)

  it("names a file that does not compile, and runs the others", function()
    local ran = run({ "describe('broken', function(", "it('is fine', function() end)" })
    assert.equal(1, ran.code)
    has(ran, ran.paths[1])
    has(ran, "1 success / 0 failures / 1 error")
  end)

  it("lets no spec end the process", function()
    local ran = run([[
      it("exits", function() os.exit(0) end)
      it("hides it", function() pcall(os.exit, 0) end)
      it("is run", function() end)
    ]])
    assert.equal(1, ran.code)
    has(ran, "1 success / 2 failures / 0 errors")
    has(ran, ran.paths[1] .. ":1: os.exit(0) was called")
  end)

  it("names what is lost where the process ends or crashes all the same, and runs the other files", function()
    local ran = run({ [[
      it("crashes", function()
        os.execute("kill -SEGV $PPID")
        require("unsync").sleep(1000)
      end)
    ]], [[
      it("ends it from a thread", function()
        require("unsync").thread(function() os.exit(0) end)():await()
      end)
    ]], [[
      it("is run", function() end)
    ]] })
    assert.equal(1, ran.code)
    has(ran, "a spec crashed with SIGSEGV, in the test 'crashes' of " .. ran.paths[1])
    has(ran, "a spec ended the process with exit code 0, in the test 'ends it from a thread' of " .. ran.paths[2])
    has(ran, "1 success / 0 failures / 0 errors")
  end)

  local racy = [[
    local unsync = require("unsync")
    describe("a counter", function()
      it("counts (all)", function()
        local counter = 0
        unsync.scope(function(s)
          for n = 1, 4 do
            s:spawn(function()
              unsync.sleep(0)
              local before = counter
              if n == 2 then unsync.yield() end
              counter = before + 1
            end)
          end
        end)
        print("counted " .. counter)
        assert.equal(4, counter)
      end)
    end)
  ]]

  it("finds, with many seeds, an order in which it fails, and shows it again with that one", function()
    local ran = run(racy, { "--repeat=12" })
    assert.equal(1, ran.code)
    local failed = {}
    for seed in ran.text:match("of 12 seeds failed: ([%d ]+)"):gmatch("%d+") do failed[#failed + 1] = seed end
    assert.is_true(#failed > 0 and #failed < 12, ran.text)
    local seed = failed[1]
    has(ran, ("seed %s: unsync test --seed=%s --filter='a counter counts %%(all%%)' %s"):format(seed, seed,
      ran.paths[1]))
    local counted = ran.text:match("counted (%d)")
    for _ = 1, 3 do
      local again = run(racy, { "--seed", seed, "--filter=a counter counts %(all%)" })
      assert.equal(1, again.code)
      assert.equal(counted, again.text:match("counted (%d)"))
    end
  end)

  it("says that all seeds passed, and prints nothing of them", function()
    local ran = run("it('is fine', function() print('noise') end)", { "--seed=7", "--repeat=3" })
    assert.equal(0, ran.code)
    assert.equal("all 3 seeds passed: 7 to 9\n", ran.text)
  end)

  it("takes busted's options", function()
    local specs = [[
      it("one #a", function() end)
      it("two #b", function() end)
    ]]
    has(run(specs, { "--filter", "one" }), "1 success / 0 failures")
    has(run(specs, { "--tags=b" }), "1 success / 0 failures")
    local tap = run(specs, { "-o", "TAP" })
    has(tap, "ok 2 - two #b")
    assert.equal(0, tap.code)
  end)

  it("refuses options that make no sense", function()
    local function refused(text, ...)
      local ran = script.run(nil, { options = { "test", ... } })
      assert.equal(1, ran.code)
      assert.equal(1, ran.err:find("unsync test: " .. text, 1, true), ran.err)
      has({ text = ran.err }, "usage: unsync test")
    end
    refused("bad number for '--limit': '-1'", "--limit=-1")
    refused("bad number for '--repeat': '0'", "--repeat", "0")
    refused("bad number for '--seed': 'x'", "--seed=x")
    refused("'--seed' needs a number", "--seed")
    local ran = run("", { "--no-such-option" })
    assert.equal(1, ran.code)
    has(ran, "no-such-option")
    ran = script.run(nil, { options = { "test", "/no/such/file_spec.lua" } })
    assert.equal(1, ran.code)
  end)

  it("says which package is missing where there is no busted", function()
    local ran = script.run(nil, { options = { "test" }, env = { LUA_PATH = "/nowhere/?.lua", LUA_PATH_5_4 = false } })
    assert.equal(1, ran.code)
    has({ text = ran.err }, "lua-busted")
  end)

  it("prints how it is used", function()
    local ran = script.run(nil, { options = { "test", "--help" } })
    assert.equal(0, ran.code)
    assert.equal(1, ran.out:find("usage: unsync test", 1, true))
  end)

  it("stops at Ctrl-C: what ran is cleaned up, what is left is not run", function()
    local unsync = require("unsync")
    local path = script.file("interrupted_spec.lua", [[
      local unsync = require("unsync")
      it("is interrupted", function()
        local _ <close> = setmetatable({}, { __close = function() io.stdout:write("cleaned up\n") end })
        io.stdout:write("started\n")
        io.stdout:flush()
        unsync.sleep(1000)
      end)
      it("is not run", function() io.stdout:write("run\n") end)
    ]])
    -- In a group of its own, which gets the signal as it does from a terminal.
    local command = ("echo $$; exec setsid --wait sh -c 'echo $$; exec %s test %s'"):format(script.program, path)
    local pipe = assert(io.popen(command .. " 2>&1"))
    pipe:read("l")
    local group = pipe:read("l")
    assert.equal("started", pipe:read("l"))
    os.execute("kill -INT -" .. group)
    local rest = unsync.timeout(60 * script.slowness, function() return pipe:read("a") end)
    local _, _, code = pipe:close()
    assert.equal(130, code, rest)
    assert.truthy(rest:find("cleaned up", 1, true), rest)
    assert.falsy(rest:find("run\n", 1, true), rest)
  end)
end)
