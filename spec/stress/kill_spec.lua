-- Worker processes that are killed at random moments, seeded: spec/stress/kill.lua says what must hold. UNSYNC_SEED=n
-- takes one seed alone, UNSYNC_SEEDS=n a quarter as many: each starts processes, which takes its time.
local script = require("spec.support.script")

--- So many seeds share a program.
local BATCH = 50

local env = {LUA_PATH = "./?.lua;;", UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins"}

--- A failure that nobody looked at is one of a call whose waiter was killed, or cancelled, in the same moment.
local function complaints(text)
  local found, inside = {}, false
  for line in text:gmatch("[^\n]+") do
    if line:find("^unsync: a failure that nobody looked at") then
      inside = line:find("crashed: the worker process", 1, true) or line:find("no worker process for", 1, true)
    elseif not line:find("^%s") and not line:find("^started at") and not line:find("^awaited in")
      and not line:find("^in ") then
      inside = false
    end
    if not inside then found[#found + 1] = line end
  end
  return table.concat(found, "\n")
end

describe("worker processes that are killed", function()
  it("take nothing with them but the calls that ran in them, and leave nothing behind", function()
    local only = tonumber(os.getenv("UNSYNC_SEED"))
    local first = only or 1
    local seeds = tonumber(os.getenv("UNSYNC_SEEDS"))
    local last = only or seeds and math.ceil(seeds / 4) or math.ceil(60 / script.slowness)
    for from = first, last, BATCH do
      local to = math.min(from + BATCH - 1, last)
      local ran = script.run(nil,
        {options = {"spec/stress/kill.lua", tostring(from), tostring(to)}, env = env, limit_s = 120})
      local wrong = complaints(ran.err)
      if wrong ~= "" or not ran.out:find("done\n", 1, true) then
        error(("seeds %d to %d, the last that ended is %s (UNSYNC_SEED=n takes one alone), exit code %d:\n%s"):format(
          from, to, ran.out:match("\n?(%d+) %d+ %d+\n[^\n]*$") or "none", ran.code, wrong ~= "" and wrong or ran.err))
      end
      assert(ran.code == 0 or ran.code == 1 and ran.err ~= "", ran.err) -- 1: a failure that nobody looked at
    end
  end)
end)
