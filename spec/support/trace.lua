--- Reads a file that --trace wrote, and holds it to the Trace Event Format.
local cjson = require("cjson")
local script = require("spec.support.script")

local trace = {}

local phases = {M = true, B = true, E = true, b = true, e = true, n = true, s = true, f = true}

--- The events of the file, which must be one whole document.
function trace.read(path)
  local document = cjson.decode(script.read_file(path))
  assert(type(document.traceEvents) == "table", "traceEvents")
  return document.traceEvents
end

local function key(...)
  return table.concat({...}, "/")
end

--- Raises for what no viewer would make sense of: fields that are missing or of another type, times that go back on a
--- track, spans that do not nest. With `whole`: spans and arrows that do not end, too.
function trace.check(events, whole)
  local last, open, async, arrows = {}, {}, {}, {}
  local function spans(of, where) of[where] = of[where] or {} return of[where] end
  for i, event in ipairs(events) do
    local at = ("event %d (%s)"):format(i, cjson.encode(event))
    assert(phases[event.ph], at)
    assert(math.type(event.pid) and event.pid > 0 and math.type(event.tid) and event.tid > 0, at)
    local track = key(event.pid, event.tid)
    if event.ph == "M" then
      assert(event.name == "process_name" or event.name == "thread_name", at)
      assert(type(event.args.name) == "string", at)
    else
      assert(type(event.ts) == "number" and event.ts >= 0, at)
      if event.ph ~= "E" then assert(type(event.name) == "string" and type(event.cat) == "string", at) end
    end
    if event.ph == "b" or event.ph == "e" or event.ph == "n" then
      assert(event.id ~= nil, at)
      track = key(event.cat, event.id)
    end
    if event.ts then
      assert(event.ts >= (last[track] or 0), at .. ": before the one before it")
      last[track] = event.ts
    end
    if event.ph == "B" then
      table.insert(spans(open, track), event)
    elseif event.ph == "E" then
      assert(table.remove(spans(open, track)), at .. ": ends nothing")
    elseif event.ph == "b" then
      table.insert(spans(async, track), event)
    elseif event.ph == "e" then
      local begun = table.remove(spans(async, track))
      assert(begun and begun.name == event.name, at .. ": ends another span")
    elseif event.ph == "s" then
      assert(event.id ~= nil and not arrows[event.id], at .. ": a number that is used already")
      assert(#spans(open, track) > 0, at .. ": begins in no span")
      arrows[event.id] = "begun"
    elseif event.ph == "f" then
      assert(arrows[event.id] == "begun" and event.bp == "e", at .. ": ends no arrow")
      assert(#spans(open, track) > 0, at .. ": ends in no span")
      arrows[event.id] = "ended"
    end
  end
  for track, left in pairs(open) do assert(#left == 0, track .. ": spans that do not end") end
  if not whole then return end
  for track, left in pairs(async) do assert(#left == 0, track .. ": spans that do not end") end
  for id, state in pairs(arrows) do assert(state == "ended", "arrow " .. id .. " does not end") end
end

--- Those with these fields.
function trace.find(events, wanted)
  local found = {}
  for _, event in ipairs(events) do
    local fits = true
    for name, value in pairs(wanted) do fits = fits and event[name] == value end
    if fits then found[#found + 1] = event end
  end
  return found
end

return trace
