--- Gates: how specs make two sides meet, instead of sleeping and hoping. A gate is a promise; it opens once.
local unsync = require("unsync")

local gate = {}

--- A gate, which may be sent to threads and processes: `g:await()` waits for it, `g:resolve(...)` opens it.
gate.new = unsync.promise

--- What `future` results in, unless it takes more than `seconds`: a hang is a failure with a name.
function gate.within(future, seconds, message)
  local script = require("spec.support.script")
  local ok = pcall(future.await, future, seconds * script.slowness)
  if not ok and not future:done() then
    error((message or "not settled") .. " after " .. seconds * script.slowness .. " s", 2)
  end
  return future:await()
end

return gate
