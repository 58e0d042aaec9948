-- Random trees of calls on every executor, with cancels, timeouts, crashes, promises, channels, permits and context at
-- random points: spec/stress/tree.lua says what must hold. UNSYNC_SEED=n replays one, UNSYNC_SEEDS=n runs so many.
local script = require("spec.support.script")

--- So many seeds share a program: what one leaves would show in the next.
local BATCH = 50

local env = {
  LUA_PATH = "./?.lua;;",
  UNSYNC_GRACE = tostring(0.5 * script.slowness),
  -- A worker process that a tree ends by os.exit has joined none of its threads.
  TSAN_OPTIONS = (os.getenv("TSAN_OPTIONS") or "") .. ":report_thread_leaks=0",
}

--- Failures that nobody looked at may be planned ones: whoever waited for them was cancelled in the same moment.
local function complaints(text)
  local found, inside = {}, false
  for line in text:gmatch("[^\n]+") do
    if line:find("^unsync: a failure that nobody looked at") then
      inside = line:find("planned failure of call", 1, true) or line:find("crashed: the worker process", 1, true)
        or line:find("timeout: call %d+ did not end in time")
    elseif not line:find("^%s") and not line:find("^in ") and not line:find("^stack traceback:")
      and not line:find("^awaited in") and not line:find("^started at") then
      inside = false
    end
    if not inside then found[#found + 1] = line end
  end
  return table.concat(found, "\n")
end

describe("random trees of calls on all executors", function()
  it("end each task once, hold nothing, leave nothing behind", function()
    local only = tonumber(os.getenv("UNSYNC_SEED"))
    local first = only or 1
    local last = only or tonumber(os.getenv("UNSYNC_SEEDS") or "200")
    for from = first, last, BATCH do
      local to = math.min(from + BATCH - 1, last)
      local ran = script.run(nil,
        {options = {"spec/stress/run.lua", tostring(from), tostring(to)}, env = env, limit_s = 60})
      local wrong = complaints(ran.err)
      local seed = ran.out:match("(%d+)\n[^%d]*$")
      if wrong ~= "" or not ran.out:find("done\n", 1, true) then
        error(("seeds %d to %d, the last that ended is %s (UNSYNC_SEED=n replays one), exit code %d:\n%s"):format(
          from, to, seed or "none", ran.code, wrong ~= "" and wrong or ran.err))
      end
      assert(ran.code == 0 or ran.code == 1 and ran.err ~= "", ran.err) -- 1: a planned failure that nobody looked at
    end
  end)
end)
