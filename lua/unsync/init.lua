--- unsync: the implementer of a function decides how it runs; the caller just calls it.
--- The public table, nothing else: what needs C is in unsync.core, what needs none in the modules beside this one.
local core = require("unsync.core")

---@class unsync
local unsync = {
  io = core.io,
  thread = core.thread,
  cpu = core.cpu,
  spawn = core.spawn,
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
  plugin = core.plugin,
  Future = core.Future,
}

for _, part in ipairs({ "wrap" }) do
  for name, fn in pairs(require("unsync." .. part)) do
    unsync[name] = fn
  end
end

return unsync
