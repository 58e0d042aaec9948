--- fault_sweep [STEP [FIRST [PROGRAM]]]: every STEP-th allocation of the host and of a worker fails, each in a run of
--- its own, over spec/support/faults_script.lua; once alone, and once with all that come after it. Says how the runs
--- ended; exit code 1 if some ended badly. `make faults` runs it over every one, in a build that the environment can
--- make fail.
local unsync = require("unsync")
local faults = require("spec.support.faults")

local step, first = math.tointeger(tonumber(arg[1] or 1)), math.tointeger(tonumber(arg[2] or 1))
local program = arg[3] or "build/faults/unsync"
local counts = faults.count_allocations(program)
local bad = false

for _, who in ipairs({"host", "worker"}) do
  for _, count in ipairs({2, 1000000000}) do
    local numbers = {}
    for number = first, counts[who] + counts[who] // 20, step do numbers[#numbers + 1] = number end
    local ended = {fine = 0, ["with errors"] = 0, ["not at all"] = 0, badly = 0}
    for outcome in unsync.map(function(number)
      local ran = faults.run({UNSYNC_FAIL_ALLOC = ("%s:%d:%d"):format(who, number, count)}, program)
      local complaint = faults.complaint(ran, faults.memory)
      if complaint then
        return {"badly", faults.told(("%s:%d:%d"):format(who, number, count), complaint, ran)}
      end
      if ran.code ~= 0 then return {"not at all"} end
      return {ran.out:find("emory") and "with errors" or "fine"}
    end, numbers, {concurrency = 2}) do
      ended[outcome[1]] = ended[outcome[1]] + 1
      if outcome[2] then
        bad = true
        if ended.badly <= 5 then print(outcome[2]) end
      end
    end
    print(("%-6s %5d allocations, %5d runs, %s: %d went on with errors, %d ended with an error, %d did not notice, " ..
      "%d ended badly"):format(who, counts[who], #numbers, count == 2 and "one fails" or "all fail from there",
        ended["with errors"], ended["not at all"], ended.fine, ended.badly))
  end
end
os.exit(bad and 1 or 0, true)
