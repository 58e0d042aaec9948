-- SIGINT, SIGTERM and SIGUSR1 are the program's, but for as long as a script watches them through luv.
local script = require("spec.support.script")

local head = [[
  local unsync, uv = require "unsync", require "luv"
  local function send(name) uv.kill(uv.os_getpid(), name) end
  --- Runs for long enough to be interrupted.
  local function go_on() for _ = 1, 10000 do local _ = {} end end
]]

local function run(code)
  return script.run(head .. code, {limit_s = 30})
end

local ends = {sigint = 130, sigterm = 143}

for name, code in pairs(ends) do
  describe(name .. " of a script that watches it", function()
    local watched = ([[
      local name = %q
      local got = unsync.promise()
      local watcher = uv.new_signal()
    ]]):format(name)

    it("comes to the script, and interrupts nothing", function()
      local ran = run(watched .. [[
        watcher:start(name, function(which) got:resolve(which) end)
        send(name)
        go_on()
        print(got:await())
        watcher:close()
      ]])
      assert.same({0, name .. "\n", ""}, {ran.code, ran.out, ran.err})
    end)

    for how, stop in pairs({
      ["stopped"] = "watcher:stop()",
      ["stopped by uv.signal_stop"] = "uv.signal_stop(watcher)",
      ["closed"] = "watcher:close()",
      ["closed by uv.close"] = "uv.close(watcher)",
    }) do
      it("is the program's again once the watcher is " .. how, function()
        local ran = run(watched .. [[
          watcher:start(name, function(which) got:resolve(which) end)
          send(name)
          got:await()
        ]] .. stop .. [[

          send(name)
          go_on()
          print("not reached")
        ]])
        assert.same({code, ""}, {ran.code, ran.out})
        assert.matches("interrupted", ran.err)
      end)
    end

    it("is the program's again after one that was for once", function()
      local ran = run(watched .. [[
        uv.signal_start_oneshot(watcher, name, function(which) got:resolve(which) end)
        send(name)
        print(got:await())
        unsync.yield()
        send(name)
        go_on()
        print("not reached")
      ]])
      assert.same({code, name .. "\n"}, {ran.code, ran.out})
    end)

    it("stays the script's until the last watcher has stopped", function()
      local ran = run(watched .. [[
        local other = uv.new_signal()
        local count = 0
        other:start(name, function() count = count + 1 end)
        watcher:start(name, function() end)
        watcher:stop()
        send(name)
        while count == 0 do unsync.sleep(0.001) end
        print(count)
        other:stop()
        send(name)
        go_on()
        print("not reached")
      ]])
      assert.same({code, "1\n"}, {ran.code, ran.out})
    end)

    it("can be had again", function()
      local ran = run(watched .. [[
        for _ = 1, 3 do
          local again = unsync.promise()
          watcher:start(name, function() again:resolve() end)
          send(name)
          again:await()
          watcher:stop()
        end
        print("end")
      ]])
      assert.same({0, "end\n", ""}, {ran.code, ran.out, ran.err})
    end)
  end)
end

describe("a signal that another thread is given", function()
  local plugin = ("unsync.plugin(%q)\n"):format(script.build .. "/spec/plugins/raise.so")

  for name, number in pairs({sigint = 2, sigterm = 15}) do
    it("interrupts the script, be it that it waits or that it computes: " .. name, function()
      for _, rest in ipairs({"unsync.sleep(60)", "while true do local _ = {} end"}) do
        local ran = run(plugin .. ("unsync.thread('raise.here')(%d)\n"):format(number) .. rest)
        assert.same({ends[name], ""}, {ran.code, ran.out})
        assert.matches("interrupted", ran.err)
      end
    end)
  end
end)

describe("SIGUSR1 of a script that watches it", function()
  it("prints no tasks meanwhile, and does so afterwards", function()
    local ran = run([[
      local got = unsync.promise()
      local watcher = uv.new_signal()
      watcher:start("sigusr1", function() got:resolve() end)
      send("sigusr1")
      got:await()
      io.stderr:write("until here nothing\n")
      watcher:stop()
      send("sigusr1")
      go_on()
      print("end")
    ]])
    assert.same({0, "end\n"}, {ran.code, ran.out})
    assert.matches("^until here nothing\nunsync: the tasks of process", ran.err)
  end)

  it("does so in a worker process too", function()
    local ran = run([[
      print(unsync.cpu(function()
        local unsync, uv = require "unsync", require "luv"
        local got = unsync.promise()
        local watcher = uv.new_signal()
        watcher:start("sigusr1", function() got:resolve("watched") end)
        uv.kill(uv.os_getpid(), "sigusr1")
        local result = got:await()
        watcher:close()
        uv.kill(uv.os_getpid(), "sigusr1")
        for _ = 1, 10000 do local _ = {} end
        return result
      end)():await())
    ]])
    assert.same({0, "watched\n"}, {ran.code, ran.out})
    assert.matches("^unsync: the tasks of process", ran.err)
  end)
end)

describe("a signal that the parent ignores", function()
  it("stays ignored after a script has watched it", function()
    local ran = script.run(head .. [[
      local watcher = uv.new_signal()
      watcher:start("sigint", function() end)
      watcher:stop()
      send("sigint")
      go_on()
      print("end")
    ]], {wrapper = [[sh -c 'trap "" INT; exec "$@"' sh]], limit_s = 30})
    assert.same({0, "end\n"}, {ran.code, ran.out})
  end)
end)
