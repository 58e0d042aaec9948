--- A context variable is seen by a task and all that it starts, on threads of execution that share everything else.
--[[ Output:
[none] ready
[7] load user of /a
[8] load user of /b
[7] answer 200
[8] answer 200
[7 as admin] audit
[none] done
2 tasks wait, both in examples/context.lua
]]
local unsync = require("unsync")

local request = unsync.var("none")

-- However deep inside, and whatever else runs at the same time: it knows for whom it works.
local function log(text) print(("[%s] %s"):format(request:get(), text)) end

local load_user = unsync.io(function(path)
  log("load user of " .. path)
  unsync.sleep(0.002)
  return path
end)

local function handle(id, path)
  return unsync.spawn(function()
    request:set(id)
    load_user(path):await()
    log("answer 200")
    if id == 7 then
      unsync.sleep(0.005)
      request:with(id .. " as admin", log, "audit")
    end
  end)
end

log("ready")
unsync.all({ handle(7, "/a"), handle(8, "/b") }):await()
log("done")

-- What is going on?
local gate = unsync.promise()
local waits = unsync.io(function() gate:await() end, { name = "waits" })
local both = { waits(), waits() }
local count, places = 0, {}
for _, task in ipairs(unsync.tasks()) do
  if task.name == "waits" and task.state == "waiting" then
    count = count + 1
    places[task.where:match("^[^:]+")] = true
  end
end
print(count .. " tasks wait, both in " .. next(places))
gate:resolve()
unsync.all(both):await()
