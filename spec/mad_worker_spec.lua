-- A worker process that has lost its mind writes over the memory it shares with its host, and says what makes no sense.
-- Its own call fails, or does not; the host stays whole, every other call gets its result, and nothing is left open.
local script = require("spec.support.script")

local usual_rounds = math.max(4, 40 // script.slowness)

-- Each kind in a program of its own: what goes wrong there, a crash or a hang, is that kind's.
local function survives(task, plain, arguments, fewer)
  local rounds = fewer or usual_rounds
  local ran = script.run(([[
    local unsync = require "unsync"
    local script = require "spec.support.script"
    local mad = unsync.cpu("mad.%s", {timeout = 2 * script.slowness, grace = 0.05})
    local sane = unsync.cpu(function(n, promise) -- asks its host for something, too
      if promise then promise:resolve(n) end
      return n, ("x"):rep(n %% 3000), {n}
    end)
    sane(1):await()
    local before
    for seed = 1, %d do
      local lost = mad(seed, %s) -- a channel, so that it has a number to speak of
      local error_text = not pcall(lost.await, lost) and tostring(lost:error())
      local known = not error_text or "%s" == "answer" -- which may say anything of itself
      for _, word in ipairs({"crashed", "timeout", "interrupted", "damaged", "unsendable"}) do
        known = known or error_text:find(word) ~= nil
      end
      assert(known, error_text)
      local list = {}
      for n = 1, 20 do list[n] = sane(n, unsync.promise()) end
      for n = 1, 20 do
        local ok, number, text, table = pcall(list[n].await, list[n])
        -- A call that its mad worker had begun goes down with it.
        if %s then assert(not ok or number == n and #text == n %% 3000 and table[1] == n) end
        assert(ok or type(number) == "table" or type(number) == "string")
      end
      if seed == %d // 2 then before = script.descriptors() end
    end
    -- Every worker is a new one in the end, or sane: with new ones, all is as it was.
    assert(script.eventually(function()
      local fine = sane(7)
      return pcall(fine.await, fine, 5) and script.descriptors() <= before + 12
    end, 20), "descriptors " .. before .. " " .. script.descriptors())
    print("whole")
  ]]):format(task, rounds, arguments or "unsync.channel(1)", task, tostring(plain), rounds), {
    env = {LUA_PATH = "./?.lua;;", UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"}, limit_s = 120})
  assert.equal("0 whole\n", ran.code .. " " .. ran.out, ran.err)
end

-- The mad call lies in front of others that are larger than the ring, while all workers are busy: they are given ahead.
local function survives_ahead(task)
  local ran = script.run(([[
    local unsync = require "unsync"
    local script = require "spec.support.script"
    local mad = unsync.cpu("mad.%s", {timeout = 2 * script.slowness, grace = 0.05})
    local quick = unsync.cpu(function(n) return n end)
    local long = unsync.cpu(function(text) return #text end)
    local text = ("x"):rep(6 << 20)
    local function finish(list, expected)
      for n = 1, #list do
        local ok, value = pcall(list[n].await, list[n])
        assert(ok and value == (expected or n) or not ok and value.code == "crashed", tostring(value))
      end
    end
    for seed = 1, %d do
      local channel, before, behind = unsync.channel(1), {}, {}
      for n = 1, 40 do before[n] = quick(n) end
      local lost = mad(seed, channel)
      for n = 1, 4 do behind[n] = long(text, channel) end
      pcall(lost.await, lost)
      finish(before)
      finish(behind, #text)
    end
    print("whole")
  ]]):format(task, usual_rounds), {
    env = {LUA_PATH = "./?.lua;;", UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"}, limit_s = 120})
  assert.equal("0 whole\n", ran.code .. " " .. ran.out, ran.err)
end

describe("a worker process that has lost its mind", function()
  it("writes any words on the board", function() survives("board", false) end)
  it("writes any frame into its ring", function() survives("ring", true) end)
  it("says anything over its control socket", function() survives("control", true) end)
  it("says how its call ended, twice, and in any way", function() survives("answer", false) end)
  it("ends a call, or gives back what came with it, before it has all of it", function() survives_ahead("early") end)
  it("leaves its process group, and never ends", function()
    local ran = script.run([[
      local unsync = require "unsync"
      local lost = unsync.cpu("mad.stray", {timeout = 0.2, grace = 0.05})(1)
      print(select(2, pcall(lost.await, lost)).stopped_by)
    ]], {env = {UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"}, limit_s = 60})
    assert.equal("0 sigkill\n", ran.code .. " " .. ran.out, ran.err)
  end)
  for how, task in pairs({["speaks without a pause"] = "talkative", ["fills what wakes its host"] = "full"}) do
    it(how, function()
      local ran = script.run(([[
        local unsync = require "unsync"
        local lost = unsync.cpu("mad.%s", {timeout = 1, grace = 0.05})(1)
        local sane = unsync.cpu(function(promise) promise:resolve(1) end)
        for _ = 1, 20 do
          local promise = unsync.promise()
          sane(promise):await()
          promise:await()
        end
        print(select(2, pcall(lost.await, lost)).code)
      ]]):format(task), {env = {UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"}, limit_s = 60})
      assert.equal("0 timeout\n", ran.code .. " " .. ran.out, ran.err)
    end)
  end
  it("promises more than its ring holds, and leaves it at that", function()
    survives("half", false, "false, unsync.channel(1)")
  end)
  it("says half a word over its control socket", function() survives("half", true, "true, unsync.channel(1)", 4) end)
  -- Races on purpose, within the worker itself: not for ThreadSanitizer.
  local torn = script.build:find("tsan") and pending or it
  torn("changes what it has written while it is read", function() survives("torn", false) end)
  torn("says of its results that they are longer than they are", function() survives("longer", false) end)
end)
