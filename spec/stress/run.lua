--- The program that performs trees of calls: `unsync spec/stress/run.lua FIRST LAST`. Each seed must leave nothing
--- behind; what is wrong is written to stderr as a line that begins with "broken:" and names the seed.
local script = require("spec.support.script")
local tree = require("spec.stress.tree")
local unsync = require("unsync")

local first, last = tonumber(arg[1]), tonumber(arg[2] or arg[1])

--- Values that the registry holds: what is in flight is pinned there.
local function pinned()
  local count = 0
  for key, value in pairs(debug.getregistry()) do
    if math.type(key) == "integer" and math.type(value) ~= "integer" then count = count + 1 end
  end
  return count
end

local function live() return #unsync.tasks() end

-- Workers of both kinds, and what the first calls load, are there from the start.
for seed = 1000001, 1000005 do tree.run(seed) end
local descriptors = script.descriptors() -- luv keeps a value of its own in the registry from now on
local tasks, pins = live(), pinned()

for seed = first, last do
  local function broken(what, now, before)
    io.stderr:write(("broken: seed %d: %s: %d, were %d\n"):format(seed, what, now, before))
  end
  tree.run(seed)
  -- What was cancelled and abandoned ends on its own, soon after the future that it had.
  script.eventually(function() return live() <= tasks end)
  if live() > tasks then broken("live tasks", live(), tasks) end
  if pinned() > pins then
    collectgarbage()
    collectgarbage()
    script.eventually(function() return pinned() <= pins end)
    if pinned() > pins then broken("values in the registry", pinned(), pins) end
  end
  io.stdout:write(seed, "\n")
end

-- Processes that were killed have been replaced or will be, at the next call: never more descriptors than before.
if not script.eventually(function() return script.descriptors() <= descriptors end) then
  io.stderr:write(("broken: seeds %d to %d: descriptors: %d, were %d\n"):format(
    first, last, script.descriptors(), descriptors))
end
print("done")
