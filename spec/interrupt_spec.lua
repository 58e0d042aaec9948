-- Ctrl-C and SIGTERM, and a script that fails: what it has started is asked to stop, wherever it runs, and cleans up.
local script = require("spec.support.script")

-- Each worker says that it has begun, and what it puts away. Three seconds would be too long to wait for any of them.
local head = [[
  local unsync, uv = require "unsync", require "luv"
  local begun, pid = unsync.channel(10), uv.os_getpid()
  local function work(name, busy)
    return function()
      local _ <close> = setmetatable({}, {__close = function()
        unsync.shield(unsync.sleep, 0.01)
        print("put away " .. name)
      end})
      begun:send(name)
      while busy do tostring(0.5) end -- ThreadSanitizer lets signals in at calls of C alone
      unsync.sleep(3600)
    end
  end
  local function start_all()
    unsync.spawn(work("io"))
    for _, busy in ipairs({false, true}) do
      unsync.thread(work("thread " .. tostring(busy), busy))()
      unsync.cpu(work("cpu " .. tostring(busy), busy), {grace = 60})()
    end
  end
  local function wait_for_all() for _ = 1, 5 do begun:recv() end end
  local send = unsync.thread(function(name) require("luv").kill(pid, name) end)
]]
local put_away = {"put away cpu false", "put away cpu true", "put away io", "put away thread false",
  "put away thread true"}

local function run(code)
  local ran = script.run(head .. code, {limit_s = 60, env = {UNSYNC_GRACE = "30"}})
  local lines = {}
  for line in ran.out:gmatch("[^\n]+") do lines[#lines + 1] = line end
  table.sort(lines)
  return ran.code, lines, ran.err
end

describe("what a script has started", function()
  for name, code in pairs({sigint = 130, sigterm = 143}) do
    it("is cancelled by " .. name .. " when the script itself has ended, calls in workers too", function()
      local ended, lines, err = run(([[
        start_all()
        unsync.spawn(function() wait_for_all() send(%q) end)
      ]]):format(name))
      assert.same({code, put_away}, {ended, lines})
      -- It may come while the task that asked for it still runs: then it is raised there, and told.
      if err ~= "" then assert.matches("^unsync: a failure that nobody looked at, of io: [^\n]*interrupted", err) end
    end)

    it("is cancelled by " .. name .. " while the script waits", function()
      local ended, lines, err = run(([[
        start_all()
        wait_for_all()
        send(%q)
        unsync.sleep(3600)
      ]]):format(name))
      assert.same({code, put_away}, {ended, lines})
      assert.matches("interrupted", err)
    end)
  end

  it("is cancelled when the script has caught the interrupt, and then ends", function()
    local ended, lines, err = run([[
      start_all()
      wait_for_all()
      local _, err = pcall(function()
        send("sigint")
        unsync.sleep(3600)
      end)
      print(err.code)
    ]])
    local expected = {"interrupted", table.unpack(put_away)}
    assert.same({130, expected, ""}, {ended, lines, err})
  end)

  it("is cancelled when the script fails", function()
    local ended, lines, err = run([[
      start_all()
      wait_for_all()
      error("the script fails", 0)
    ]])
    assert.same({1, put_away}, {ended, lines})
    assert.matches("the script fails", err)
  end)

  it("does not keep an interrupted program, whatever it is", function()
    local ended, lines, err = run([[
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      server:listen(8, function() end) -- and never an answer
      require("unsync.http").get(("http://127.0.0.1:%d/"):format(server:getsockname().port))
      uv.new_timer():start(3600000, 0, function() end)
      unsync.spawn(function() os.execute("exec sleep 3600") end)
      unsync.all({unsync.spawn(unsync.sleep, 3600), unsync.promise()})
      local timer = uv.new_timer() -- comes when the script has ended
      timer:start(1, 0, function()
        timer:close()
        uv.kill(pid, "sigint")
      end)
    ]])
    assert.same({130, {}, ""}, {ended, lines, err})
  end)
end)
