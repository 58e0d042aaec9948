--- One case of what crosses, and what its checks need. `spec` has the functions that carry: spec/c/codec_world.h.

-- luacheck: globals spec

local case = {}

--- All of them: names in the order in which they were defined, and bodies by name.
case.names, case.bodies = {}, {}

function case.define(name, body)
  assert(not case.bodies[name], name)
  case.names[#case.names + 1] = name
  case.bodies[name] = body
end

function case.eq(got, wanted)
  if not rawequal(got, wanted) then error(("got %s, wanted %s"):format(tostring(got), tostring(wanted)), 2) end
end

--- The error of what must be refused.
function case.refused(...)
  local results = table.pack(pcall(...))
  if results[1] then error("was not refused", 2) end
  return results[2]
end

--- The same, as `unsendable` with that path and with that text in its message.
function case.refused_with(path, text, ...)
  local err = case.refused(...)
  if type(err) ~= "table" then error("a plain error: " .. tostring(err), 2) end
  if err.code ~= "unsendable" then error(("code %s: %s"):format(tostring(err.code), tostring(err)), 2) end
  if err.path ~= path then error(("path %s, wanted %s"):format(tostring(err.path), path), 2) end
  if not err.message:find(text, 1, true) then error(("'%s' does not say '%s'"):format(err.message, text), 2) end
  case.eq(tostring(err), err.message)
end

return case
