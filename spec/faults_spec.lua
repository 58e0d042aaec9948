-- Whatever fails, memory or a call of the system, ends in a Lua error that says what, or in a clean exit: never in a
-- crash, a hang or a leak. Each run is a process of its own.
local unsync = require("unsync")
local script = require("spec.support.script")
local faults = require("spec.support.faults")

-- Which of the allocations fail: the same ones each time, spread over all. UNSYNC_SEED=n takes others; `make faults`
-- takes every one.
local seed = tonumber(os.getenv("UNSYNC_SEED") or "1")

-- ThreadSanitizer has nothing to see in it.
local where = script.build:find("tsan") and pending or describe

where("an allocation that fails", function()
  -- A build that the environment can make fail. The one for AddressSanitizer sees leaks, too.
  local program = script.build == "build" and "build/faults/unsync" or script.program

  local function ends_well(which, who, count)
    local made = faults.count_allocations(program, which)[who]
    math.randomseed(seed)
    local runs, numbers = script.slowness > 1 and 12 or 30, {}
    for i = 1, runs do numbers[i] = math.random((i - 1) * made // runs + 1, i * made // runs) end
    for complaint in unsync.map(function(number)
      local setting = ("%s:%d:%d"):format(who, number, count)
      local ran = faults.run({UNSYNC_FAIL_ALLOC = setting}, program, which)
      local why = faults.complaint(ran, faults.memory)
      return why and faults.told(which .. " UNSYNC_FAIL_ALLOC=" .. setting, why, ran) or ""
    end, numbers, {concurrency = 2}) do
      assert.equal("", complaint)
    end
  end

  for which, what in pairs({script = "of a script that uses every executor", wide = "of one that uses the rest"}) do
    describe(what, function()
      it("in the host", function() ends_well(which, "host", 2) end)
      it("in the host, and a few that come after it", function() ends_well(which, "host", 8) end)
      it("in the host, and all that come after it", function() ends_well(which, "host", 1000000000) end)
      it("in a worker process", function() ends_well(which, "worker", 2) end)
      it("in a worker process, and all that come after it", function() ends_well(which, "worker", 1000000000) end)
    end)
  end

  it("is never taken for garbage of the worker whose message the host reads", function()
    local path = script.file("sender.lua", [[
      local unsync = require "unsync"
      local channel = unsync.channel(10)
      local send = unsync.cpu(function(c, how)
        local long = ("long"):rep(50000) -- kept apart from the message that brings it
        for _ = 1, 3 do c[how](c, long) end
      end)
      local ok, err = pcall(function() send(channel, arg[1]):await() end)
      print(ok or tostring(err):gsub("\n.*", ""))
    ]])
    local log = script.path("sender.allocations")
    for _, how in ipairs({"send", "try_send"}) do
      local function run(env)
        return script.run(nil, {options = {path, how}, env = env, program = program})
      end
      script.write_file(log, "")
      assert.equal("true\n", run({UNSYNC_FAIL_ALLOC_LOG = log}).out)
      local made = math.tointeger(tonumber(script.read_file(log):match("host (%d+)")))
      local numbers, told = {}, 0
      for number = made - 40, made do numbers[#numbers + 1] = number end
      for ran in unsync.map(function(number) return run({UNSYNC_FAIL_ALLOC = ("host:%d:1"):format(number)}) end,
        numbers, {concurrency = 2}) do
        assert.is_true(ran.code <= 1, ran.err)
        assert.is_nil(ran.out:find("garbage"), ran.out)
        if ran.out:find("emory") then told = told + 1 end
      end
      assert.is_true(told > 0)
    end
  end)
end)

describe("a call of the system that fails #plain", function()
  -- There libuv ends the process by itself: its own pipe for signals, the first that anybody makes, and what it writes
  -- into it at once.
  local libuv_aborts = {["pipe2 1"] = true, ["write 1"] = true}

  for name, failure in pairs(faults.calls) do
    it("says so: " .. name, function()
      for _, who in ipairs({"host", "worker"}) do
        local _, calls, usually_open = faults.run_with_call(name, 0, who)
        for number = 1, math.min(calls, 30) do
          if not libuv_aborts[name .. " " .. number] then
            local ran, _, open = faults.run_with_call(name, number, who)
            local why = faults.complaint(ran, {failure[2], "emory"})
            if not why and open > usually_open then why = "a descriptor was left open" end
            assert.is_nil(why, why and faults.told(("%s %d in the %s"):format(name, number, who), why, ran))
          end
        end
      end
    end)
  end

  it("fails the call that could not be taken, which can be cancelled all the same", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local lost = unsync.cpu(function() end)()
      lost:cancel()
      print(pcall(lost.await, lost))
    ]], {env = {LD_PRELOAD = "build/spec/preload/faults.so", UNSYNC_FAULT = "epoll_create1:2:24:host"}})
    assert.equal(0, ran.code, ran.err)
    assert.matches("^false\t", ran.out)
  end)
end)
