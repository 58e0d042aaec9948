--- unsync: the implementer of a function decides how it runs; the caller just calls it.
--- The public table, nothing else: what needs C is in unsync.core, what needs none in the modules beside this one.
local core = require("unsync.core")

---@class unsync
local unsync = {
  io = core.io,
  thread = core.thread,
  cpu = core.cpu,
  spawn = core.spawn,
  place = core.place,
  promise = core.promise,
  resolved = core.resolved,
  rejected = core.rejected,
  is_future = core.is_future,
  sleep = core.sleep,
  yield = core.yield,
  now = core.now,
  once = core.once,
  timeout = core.timeout,
  shield = core.shield,
  all = core.all,
  settled = core.settled,
  any = core.any,
  race = core.race,
  var = core.var,
  current = core.current,
  plugin = core.plugin,
  channel = core.channel,
  select = core.select,
  semaphore = core.semaphore,
  mutex = core.mutex,
  event = core.event,
  barrier = core.barrier,
  rate = core.rate,
  Future = core.Future,
}

unsync.wrap = require("unsync.wrap").wrap
unsync.as_completed = require("unsync.combine").as_completed
unsync.map = require("unsync.combine").map
unsync.scope = require("unsync.scope").scope
unsync.retry = require("unsync.retry").retry

--- Parts that most programs do not use are loaded when they are first looked at.
local later = { every = true, http = true, tasks = true, testing = true, why = "inspect" }

local meta = {}

function meta.__index(self, name)
  if not later[name] then
    return nil
  end
  local module = later[name] == true and name or later[name]
  local part = require("unsync." .. module)
  self[name] = module == name and part or part[name]
  return rawget(self, name)
end

--- `local unsync <close> = require "unsync"`: where stock Lua runs the script, the end of the block waits for all
--- that was started. In the host it changes nothing: that waits anyway.
meta.__close = core.finish

-- Lua calls a function, in an error, after the first module that holds it: what is public is held by this one alone.
local public = {}
for name, value in pairs(unsync) do
  if rawequal(core[name], value) then
    public[name], core[name] = value, nil
  end
end
setmetatable(core, { __index = public })

return setmetatable(unsync, meta)
