--- How busted reports to .ci/tests: for people, the failures, on stdout; for the script, one line for each step
--- ("start", "ok", "wrong", "skip", a tab, the test's name) and "end", in the file that UNSYNC_TALLY names, written
--- at once, so that a crash shows where it was.
local busted = require("busted")
local base = require("busted.outputHandlers.base")

local pretty = require("pl.pretty")

---@param options table  busted's own
return function(options)
  local handler = base()
  local path = os.getenv("UNSYNC_TALLY")
  local tally = path and assert(io.open(path, "a"))
  if tally then tally:setvbuf("no") end

  local function note(what, name)
    if tally then tally:write(what, "\t", (name:gsub("%s+", " ")), "\n") end
  end

  local function describe(failure)
    local message = failure.message
    if type(message) ~= "string" then
      local meta = getmetatable(message)
      message = meta and meta.__tostring and tostring(message) or pretty.write(message)
    end
    local trace = failure.element.trace or failure.trace or {}
    io.write(("%s:%s: %s\n"):format(trace.short_src or "?", trace.currentline or "?", failure.name))
    io.write("  ", (message:gsub("\n", "\n  ")), "\n")
    if failure.isError and failure.trace and failure.trace.traceback then
      io.write("  ", (failure.trace.traceback:gsub("^\n", ""):gsub("\n", "\n  ")), "\n")
    end
    io.flush()
  end

  busted.subscribe({ "test", "start" }, function(element)
    note("start", handler.getFullName(element))
    return nil, true
  end)

  busted.subscribe({ "test", "end" }, function(element, _, status)
    local name = handler.getFullName(element)
    if status == "success" then
      note("ok", name)
      if options.verbose then io.write("ok ", name, "\n") end
    elseif status == "pending" then
      note("skip", name)
      io.write("skipped: ", name, "\n")
    else
      note("wrong", name)
      local list = status == "failure" and handler.failures or handler.errors
      describe(list[#list])
    end
    return nil, true
  end)

  -- Outside a test: a file that does not load, a failing before_each, setup or teardown.
  local function outside(element)
    if element.descriptor ~= "it" then
      note("wrong", handler.getFullName(element))
      describe(handler.errors[#handler.errors])
    end
    return nil, true
  end
  busted.subscribe({ "error" }, outside)
  busted.subscribe({ "failure" }, outside)

  busted.subscribe({ "suite", "end" }, function()
    note("end", "")
    return nil, true
  end)

  return handler
end
