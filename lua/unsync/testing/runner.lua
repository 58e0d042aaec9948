--- runner: busted, in our host: what `unsync test` runs in a process of its own. Each test is a task.
---
---   - busted's own machinery runs in the root task, and waits there for the test that runs. What it is told to do
---     around a test (before_each, the test, finally, after_each) runs in the test's task.
---   - That a test has ended is told when it has been looked at, so that what it left behind is its failure.
---   - The process at the other end is told of each start and end: it names what is lost when this one goes.
--- Who that is: lua/unsync/testing/command.lua.
local unsync = require("unsync")
require("unsync.testing")
local leaks = require("unsync.testing.leaks")
local control = require("unsync.core.testing")
local found = require("unsync.core.leaks")
local watch = require("unsync.core.watch")

local runner = {}

local Exit = { __tostring = function(self) return "exit code " .. self.code end }

---@class unsync.testing.Settings
---@field notes integer  descriptor for notes
---@field limit number  seconds for each test, 0: none
---@field seed integer?
---@field leaks boolean

local settings
local failure_meta -- of what busted takes for a failure, rather than an error
local running      -- what is known of the test that runs
local interrupted  -- Ctrl-C

local exit = os.exit

local lost_touch -- nobody reads the notes

--- One line; its own ends of lines are written as bytes 31.
local function note(...)
  local line = table.concat({ ... }, "\t"):gsub("\n", "\31")
  lost_touch = not watch.note(settings.notes, line .. "\n") or lost_touch
end

local function full_name(busted, element)
  local names = {}
  while element and element.descriptor ~= "file" and (element.name or element.descriptor) do
    table.insert(names, 1, element.name or element.descriptor)
    element = busted.context.parent(element)
  end
  if names[1] == "suite" then table.remove(names, 1) end
  return table.concat(names, " ")
end

local function file_of(busted, element)
  while element and element.descriptor ~= "file" do element = busted.context.parent(element) end
  return element and element.name or "?"
end

-- ---- seeds ----

--- Each test has dice of its own, by its name: it falls alike whether others run before it or not.
local function seed_of(name)
  local hash = 0xcbf29ce484222325 ~ settings.seed
  for i = 1, #name do hash = (hash ~ name:byte(i)) * 0x100000001b3 end
  return hash ~ (hash >> 29)
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- How to see the same again.
local function replay(busted, element)
  local pattern = full_name(busted, element):gsub("%p", "%%%0")
  return ("seed %d: unsync test --seed=%d --filter=%s %s"):format(settings.seed, settings.seed, quote(pattern),
    file_of(busted, element))
end

-- ---- a test that takes too long ----

--- All tasks but the root, which waits for the test.
local function tree()
  local lines, all = {}, unsync.tasks()
  for i = 2, math.min(#all, 41) do
    local task = all[i]
    lines[#lines + 1] = ("%s%s (%.1f s)"):format(("  "):rep(math.max(task.depth, 1)), leaks.describe(task), task.age)
  end
  if #all > 41 then lines[#lines + 1] = ("  and %d more"):format(#all - 41) end
  return table.concat(lines, "\n")
end

local function too_long()
  local test = running
  local text = ("timeout: not done after %g s; what lives:\n%s"):format(settings.limit, tree())
  if test then test.timed_out = test.timed_out or text end
  return setmetatable({ code = "timeout", message = text }, failure_meta)
end

local function limited(test, fn, ...)
  if settings.limit == 0 or running then return fn(...) end
  running = test
  watch.start(settings.limit, too_long)
  local results = table.pack(pcall(fn, ...))
  watch.stop()
  running = nil
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- ---- one test ----

--- Tells busted of a failure of the element itself, not of something that was called for it.
local function publish_failure(busted, kind, element, message)
  busted.context.push(element)
  local trace = element.trace or { short_src = file_of(busted, element), currentline = 0 }
  busted.publish({ kind, element.descriptor }, element, busted.context.parent(element), message,
    { short_src = trace.short_src, currentline = trace.currentline, traceback = "", message = message })
  busted.context.pop()
end

local function join(lines) return table.concat(lines, "\n") end

--- What is wrong beside what has been told. What failed already has not come to tidy up, and is not blamed for that.
local function check(before, outer, failed)
  if not settings.leaks then
    if control.stopped() then control.run() end
    return {}
  end
  local left, failures = leaks.find(before, outer)
  if failed then return failures end
  return table.move(failures, 1, #failures, #left + 1, left)
end

local function run_test(busted, execute, element, test)
  local before = settings.leaks and leaks.look() or nil
  test.before = before
  if settings.seed then
    local seed = seed_of(full_name(busted, element))
    control.shuffle(seed)
    math.randomseed(seed)
  end
  local ok, err = pcall(limited, test, execute, element)
  control.shuffle(nil)
  control.inline("thread", false)
  control.inline("cpu", false)
  local failed = test.status ~= nil and test.status ~= "success" and test.status ~= "pending"
  -- Shielded: a test may have had itself cancelled.
  test.problems = unsync.shield(check, before, runner.file_before, failed or test.timed_out or test.exited)
  if not ok then table.insert(test.problems, 1, tostring(err)) end
  if failed then return end
  if test.timed_out then table.insert(test.problems, 1, test.timed_out) end
  if test.exited then table.insert(test.problems, 1, test.exited) end
end

local start_test = unsync.io(run_test, { name = "the test" })
local held -- the test whose end is not told yet

local function as_task(busted, execute)
  return function(element)
    if interrupted or lost_touch then return end
    local test = { element = element }
    held = test
    local future = start_test(busted, execute, element, test)
    local ok, err = pcall(future.await, future)
    held = nil
    interrupted = interrupted or watch.signalled()
    if not ok then
      future:cancel(tostring(err))
      unsync.shield(pcall, future.await, future, 2)
      test.problems = test.status and {} or { tostring(err) }
    end
    if #test.problems > 0 then
      publish_failure(busted, "failure", element, join(test.problems))
      if test.status == "success" or test.status == "pending" then test.status = "failure" end
    end
    if test.ending then
      test.ending[5] = test.status
      busted.told_end(table.unpack(test.ending, 1, 5))
    end
    note("end")
  end
end

--- Around a file: what its set-ups leave when its tear-downs have run.
local function as_file(busted, execute)
  return function(element)
    note("file", element.name)
    local before = settings.leaks and leaks.look() or nil
    runner.file_before = before
    execute(element)
    runner.file_before = nil
    local problems = check(before)
    if #problems > 0 then publish_failure(busted, "error", element, join(problems)) end
    note("end")
  end
end

-- ---- busted, as it is, with our hands on five of its functions ----

local blocks = { strict_setup = true, strict_teardown = true, lazy_setup = true, lazy_teardown = true, describe = true,
  file = true }

local function take(busted)
  local register, publish, safe, safe_publish = busted.register, busted.publish, busted.safe, busted.safe_publish

  function busted.register(descriptor, executor, attributes)
    if type(executor) == "function" then
      if descriptor == "it" then executor = as_task(busted, executor) end
      if descriptor == "file" then executor = as_file(busted, executor) end
    end
    return register(descriptor, executor, attributes)
  end

  function busted.publish(channel, element, parent, message, ...)
    local what = channel[1]
    if settings.seed and (what == "failure" or what == "error") and channel[2] == "it" then
      message = tostring(message) .. "\n" .. replay(busted, element)
    end
    if (what == "failure" or what == "error") and element then
      local at = element.trace or {}
      note("failed", ("%s @ %s\n%s\n%s"):format(at.short_src or element.name or "?", at.currentline or "?",
        full_name(busted, element), tostring(message)))
    end
    return publish(channel, element, parent, message, ...)
  end

  --- What a block does outside of tests has the same limit.
  function busted.safe(descriptor, run, element)
    if blocks[descriptor] and run == element.run and not held then
      return safe(descriptor, function(...) return limited({}, run, ...) end, element)
    end
    return safe(descriptor, run, element)
  end

  busted.told_end = safe_publish
  function busted.safe_publish(descriptor, channel, element, ...)
    if channel[1] == "test" and channel[2] == "start" then
      note("start", file_of(busted, element), full_name(busted, element))
    elseif channel[1] == "test" and held and held.element == element then
      -- It has ended; but that is told when it has been looked at.
      local parent, status = ...
      held.ending, held.status = { descriptor, channel, element, parent }, status
      return true
    end
    return safe_publish(descriptor, channel, element, ...)
  end
  return busted
end

-- ---- the run ----

--- A spec must not end the process: that would be the end of all tests.
local function refuse_exit(code)
  local text = ("os.exit(%s) was called: it would have ended all tests"):format(code == nil and "" or tostring(code))
  local caller = debug.getinfo(2, "Sl")
  text = ("%s:%d: %s"):format(caller.short_src, caller.currentline, text)
  if held then held.exited = held.exited or text end
  error(setmetatable({ message = text }, failure_meta), 2)
end

local function run(arguments)
  rawset(_G, "arg", { [0] = "unsync test", "--ignore-lua", table.unpack(arguments) })
  local make = require("busted.core")
  package.loaded["busted.core"] = function()
    local busted = take(make())
    local _, failure = pcall(busted.fail, "")
    failure_meta = debug.getmetatable(failure)
    busted.subscribe({ "suite", "start" }, function(suite)
      for _, element in ipairs(busted.context.children(suite)) do
        if element.descriptor == "file" then note("plan", element.name) end
      end
      return nil, true
    end)
    return busted
  end
  require("busted.compatibility").exit = function(code) error(setmetatable({ code = code }, Exit), 0) end
  rawset(os, "exit", refuse_exit)
  -- The name of the chunk that calls it is what busted calls itself.
  local start = assert(load("local run = require('busted.runner') run({ standalone = false })", "@unsync test"))
  start()
end

--- Runs busted with these arguments and ends the process.
---@param with unsync.testing.Settings
---@param arguments string[]
function runner.main(with, arguments)
  settings = with
  found.keep_reports(true)
  found.note_calls(true)
  leaks.watch_luv()
  require("unsync.testing").on_keep = function()
    if runner.file_before then leaks.keep(runner.file_before) end
    if held and held.before then leaks.keep(held.before) end
  end
  local ok, err = pcall(run, arguments)
  rawset(os, "exit", exit)
  local code = 0
  if interrupted then
    code = 130
  elseif getmetatable(err) == Exit then
    code = err.code ~= 0 and 1 or 0
  elseif not ok then
    io.stderr:write("unsync test: ", tostring(err), "\n")
    code = 1
  end
  local reports = found.reports()
  for _, text in ipairs(reports) do
    io.stderr:write("unsync: ", text, "\n")
    if code == 0 then code = 1 end
  end
  note("done", code)
  io.stdout:flush()
  exit(code, true)
end

return runner
