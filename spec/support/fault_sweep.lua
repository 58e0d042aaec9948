--- fault_sweep [STEP [FIRST [PROGRAM [WHAT…]]]]: every STEP-th allocation of host and worker fails, each in a run of
--- its own, over spec/support/faults_script.lua and faults_wide.lua; once alone, then with a few that follow, and with
--- all that come after it. Says how they ended; exit code 1 if some ended badly. WHAT are of "script:host:2" and the
--- like, to run these alone. `make faults` takes every one, in a build that the environment can make fail; with
--- UNSYNC_BUILD=build/asan those in that build, whose program is PROGRAM then.
local unsync = require("unsync")
local faults = require("spec.support.faults")

local step, first = math.tointeger(tonumber(arg[1] or 1)), math.tointeger(tonumber(arg[2] or 1))
local program = arg[3] or "build/faults/unsync"
local wanted = {}
for i = 4, #arg do wanted[arg[i]] = true end
local bad = false

-- Lua asks once more after a collection, so one that fails for it takes two.
local how_many = {[2] = "one fails", [8] = "four fail", [1000000000] = "all fail from there"}

local function sweep(which, who, count, made)
  local numbers = {}
  for number = first, made + made // 20, step do numbers[#numbers + 1] = number end
  local ended = {fine = 0, ["with errors"] = 0, ["not at all"] = 0, badly = 0}
  for outcome in unsync.map(function(number)
    local setting = ("%s:%d:%d"):format(who, number, count)
    local ran = faults.run({UNSYNC_FAIL_ALLOC = setting}, program, which)
    local complaint = faults.complaint(ran, faults.memory)
    if complaint then return {"badly", faults.told(which .. " UNSYNC_FAIL_ALLOC=" .. setting, complaint, ran)} end
    if ran.code ~= 0 then return {"not at all"} end
    return {ran.out:find("emory") and "with errors" or "fine"}
  end, numbers, {concurrency = 2}) do
    ended[outcome[1]] = ended[outcome[1]] + 1
    if outcome[2] then
      bad = true
      if ended.badly <= 5 then print(outcome[2]) end
    end
  end
  print(("%-6s %-6s %5d allocations, %5d runs, %s: %d went on with errors, %d ended with an error, " ..
    "%d did not notice, %d ended badly"):format(which, who, made, #numbers, how_many[count], ended["with errors"],
      ended["not at all"], ended.fine, ended.badly))
end

for _, which in ipairs({"script", "wide"}) do
  local made = faults.count_allocations(program, which)
  for _, who in ipairs({"host", "worker"}) do
    for _, count in ipairs({2, 8, 1000000000}) do
      if #arg < 4 or wanted[("%s:%s:%d"):format(which, who, count)] then sweep(which, who, count, made[who]) end
    end
  end
end
os.exit(bad and 1 or 0, true)
