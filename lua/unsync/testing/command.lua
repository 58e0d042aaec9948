--- command: `unsync test`: runs specs in a process of their own, one for each seed, and says what became of it.
---
--- A spec may crash its process, end it, or hold it for ever: then what is lost is named, and the files that are left
--- are run by another process. What happens in there: runner.lua.
local unsync = require("unsync")
local runner -- in the process that runs specs only

local command = {}

local usage = [[
usage: unsync test [options] [files or folders]
Runs specs with busted, in the host: each test is a task, so it may await anywhere. What a test leaves behind (tasks,
calls, handles, descriptors, failures nobody looked at) is its failure.
  --limit S     seconds that a test may take, 0 for any time (default: 30)
  --seed N      shuffle what is ready at the same time, by this seed; the same seed gives the same order
  --repeat N    run everything N times, with seeds that follow each other (the first: --seed, else 1)
  --no-leaks    do not look at what tests leave behind
  -h, --help    print this
All other options are busted's: --filter=PATTERN, --tags=TAGS, --exclude-tags=TAGS, -o OUTPUT, -v, --shuffle and so on;
`busted --help` lists them. Without files: the folder spec, or what .busted says.
]]

local function misuse(text)
  io.stderr:write("unsync test: ", text, "\n", usage)
  os.exit(1, true)
end

-- ---- options ----

---@class unsync.testing.Options
---@field limit number
---@field seed integer?
---@field runs integer
---@field leaks boolean
---@field help boolean?
---@field notes integer?
---@field rest string[]  busted's options
---@field paths string[]

--- busted's own options that take a value which may stand apart.
local apart = { ["-p"] = true, ["-e"] = true, ["-o"] = true, ["-C"] = true, ["-f"] = true, ["-t"] = true, ["-m"] = true,
  ["-r"] = true, ["-Xoutput"] = true, ["-Xhelper"] = true, ["--pattern"] = true, ["--exclude-pattern"] = true,
  ["--output"] = true, ["--directory"] = true, ["--config-file"] = true, ["--coverage-config-file"] = true,
  ["--tags"] = true, ["--exclude-tags"] = true, ["--filter"] = true, ["--filter-out"] = true, ["--lpath"] = true,
  ["--cpath"] = true, ["--run"] = true, ["--lang"] = true, ["--loaders"] = true, ["--helper"] = true }

local numbers = {
  ["--limit"] = function(n) return n and n >= 0 and n < math.huge and n or nil end,
  ["--seed"] = function(n) return math.tointeger(n) end,
  ["--repeat"] = function(n)
    n = math.tointeger(n)
    return n and n >= 1 and n or nil
  end,
  ["--notes"] = function(n) return math.tointeger(n) end,
}
local fields = { ["--limit"] = "limit", ["--seed"] = "seed", ["--repeat"] = "runs", ["--notes"] = "notes" }

local function read_options(arguments)
  local options = { limit = 30, leaks = true, rest = {}, paths = {} }
  local i = 1
  while i <= #arguments do
    local text = arguments[i]
    local name, value = text:match("^(%-%-[^=]+)=(.*)$")
    name = name or text
    if text == "-h" or text == "--help" then
      options.help = true
    elseif text == "--no-leaks" then
      options.leaks = false
    elseif numbers[name] then
      if not value then
        i = i + 1
        value = arguments[i] or misuse(("'%s' needs a number"):format(name))
      end
      local number = numbers[name](tonumber(value))
      if not number then misuse(("bad number for '%s': '%s'"):format(name, value)) end
      options[fields[name]] = number
    elseif text:sub(1, 1) ~= "-" or text == "-" then
      table.insert(options.paths, text)
    else
      table.insert(options.rest, text)
      if apart[text] and arguments[i + 1] then
        i = i + 1
        table.insert(options.rest, arguments[i])
      end
    end
    i = i + 1
  end
  if options.runs and not options.seed then options.seed = 1 end
  return options
end

-- ---- the other process ----

--- How long after its limit a test may go on before its process is killed: it has been told, and cleans up.
local function patience(limit) return limit + math.min(5, limit + 1) end

---@class unsync.testing.Run
---@field code integer?  exit code
---@field signal integer?
---@field done boolean  it came to its end
---@field killed boolean  by us: a test held the loop
---@field test string?  that it stood in
---@field file string?
---@field plan string[]  files, as it found them
---@field failures string[]  what failed, as it was told
---@field output string  where it was captured

--- What the other process says of how far it is.
local function on_note(run, line)
  local what, first, second = line:match("^(%a+)\t?([^\t]*)\t?(.*)$")
  if what == "plan" then
    table.insert(run.plan, first)
  elseif what == "file" then
    run.file, run.started[first] = first, true
    run.since = nil
  elseif what == "start" then
    run.test, run.since = second, unsync.now()
  elseif what == "end" then
    run.test, run.since = nil, nil
  elseif what == "failed" then
    table.insert(run.failures, (line:sub(#"failed" + 2):gsub("\31", "\n")))
  elseif what == "done" then
    run.done = true
  end
end

--- Calls `take` with all that comes through the descriptor; a future of its end.
local function drain(uv, fd, take)
  local pipe, ended = uv.new_pipe(false), unsync.promise()
  assert(pipe:open(fd))
  pipe:read_start(function(_, bytes)
    if bytes then return take(bytes) end
    if not pipe:is_closing() then pipe:close() end
    ended:resolve()
  end)
  return ended, pipe
end

--- Runs specs in a process of their own; with `capture` its output is kept.
---@return unsync.testing.Run
local function run_process(options, paths, seed, capture)
  local uv = require("luv")
  local run = { plan = {}, started = {}, failures = {}, output = "" }
  local notes = uv.pipe()
  local out = capture and uv.pipe() or nil
  local args = { "test", "--notes=3", ("--limit=%.17g"):format(options.limit) }
  if seed then args[#args + 1] = ("--seed=%d"):format(seed) end
  if not options.leaks then args[#args + 1] = "--no-leaks" end
  table.move(options.rest, 1, #options.rest, #args + 1, args)
  table.move(paths, 1, #paths, #args + 1, args)
  local exited = unsync.promise()
  local process, err = uv.spawn(uv.exepath(), {
    args = args,
    stdio = { 0, out and out.write or 1, out and out.write or 2, notes.write },
  }, function(code, signal)
    run.code, run.signal = code, signal
    exited:resolve()
  end)
  uv.fs_close(notes.write)
  if out then uv.fs_close(out.write) end
  if not process then error("unsync test: cannot start " .. uv.exepath() .. ": " .. tostring(err), 0) end
  local line = ""
  local streams = {}
  streams[1], streams[2] = drain(uv, notes.read, function(bytes)
    line = line .. bytes
    line = line:gsub("([^\n]*)\n", function(one)
      on_note(run, one)
      return ""
    end)
  end)
  if out then
    local pieces = {}
    streams[3], streams[4] = drain(uv, out.read, function(bytes) pieces[#pieces + 1] = bytes end)
    run.take_output = function() return table.concat(pieces) end
  end
  local interrupted
  while not exited:done() do
    local ok, failed = pcall(exited.await, exited, 0.1)
    if not ok and failed.code ~= "timeout" then -- Ctrl-C: the other process has been told as well, or is told now
      interrupted = failed
      unsync.shield(pcall, exited.await, exited, 3)
      if not exited:done() then process:kill("sigterm") end
      unsync.shield(pcall, exited.await, exited)
    elseif run.since and options.limit > 0 and unsync.now() - run.since > patience(options.limit) then
      run.killed = true
      process:kill("sigkill")
      exited:await()
    end
  end
  process:close()
  for i = 1, #streams, 2 do -- what it had written; what it has started may hold the other end for longer
    unsync.shield(pcall, streams[i].await, streams[i], 1)
    if not streams[i + 1]:is_closing() then streams[i + 1]:close() end
  end
  if run.take_output then run.output = run.take_output() end
  if interrupted then run.interrupted = true end
  return run
end

local signals = { [4] = "SIGILL", [5] = "SIGTRAP", [6] = "SIGABRT", [7] = "SIGBUS", [8] = "SIGFPE", [9] = "SIGKILL",
  [11] = "SIGSEGV", [13] = "SIGPIPE", [14] = "SIGALRM", [15] = "SIGTERM" }

--- What became of a process that did not come to its end.
local function loss(run, options)
  local where = run.test and ("in the test '%s' of %s"):format(run.test, run.file)
    or run.file and "in " .. run.file or "before the first test"
  local how
  if run.killed then
    how = ("held the loop, in C or by catching every error, and was killed after %g s"):format(patience(options.limit))
  elseif run.signal and run.signal ~= 0 then
    how = "crashed with " .. (signals[run.signal] or "signal " .. run.signal)
  else
    how = ("ended the process with exit code %d"):format(run.code)
  end
  local rest = run.file and ("; what follows in %s was not run"):format(run.file) or ""
  return ("a spec %s, %s%s"):format(how, where, rest)
end

--- Runs all files with one seed, by as many processes as that takes. Whether all was well, and what was captured.
local function run_all(options, seed, capture)
  local paths, fine, output = options.paths, true, {}
  while true do
    local run = run_process(options, paths, seed, capture)
    output[#output + 1] = run.output
    if run.interrupted then return false, table.concat(output), true end
    if run.done then return fine and run.code == 0, table.concat(output), false end
    fine = false
    local text = ("\nunsync test: %s\n"):format(loss(run, options))
    if #run.failures > 0 then
      text = ("\nWhat failed before that:\n\n%s\n%s"):format(table.concat(run.failures, "\n\n"), text)
    end
    if seed then text = text .. ("seed %d: unsync test --seed=%d %s\n"):format(seed, seed, run.file or "") end
    if capture then output[#output + 1] = text else io.stderr:write(text) end
    paths = {}
    for _, path in ipairs(run.plan) do
      if not run.started[path] then paths[#paths + 1] = path end
    end
    if not run.file or #paths == 0 then return false, table.concat(output), false end
  end
end

-- ---- seeds ----

local function run_seeds(options)
  local failed = {}
  for i = 1, options.runs do
    local seed = options.seed + i - 1
    local fine, output, interrupted = run_all(options, seed, true)
    if not fine then
      failed[#failed + 1] = seed
      io.write(("---- seed %d ----\n%s\n"):format(seed, output))
      io.flush()
    end
    if interrupted then return 130 end
  end
  if #failed == 0 then
    print(("all %d seeds passed: %d to %d"):format(options.runs, options.seed, options.seed + options.runs - 1))
    return 0
  end
  print(("%d of %d seeds failed: %s"):format(#failed, options.runs, table.concat(failed, " ")))
  return 1
end

--- The whole command. Ends the process.
function command.main(...)
  local options = read_options({ ... })
  if options.help then
    io.write(usage)
    return
  end
  if not package.searchpath("busted.runner", package.path) then
    io.stderr:write("unsync test: needs busted, which is not installed (Debian: apt-get install lua-busted; ",
      "LuaRocks: luarocks install busted)\n")
    os.exit(1, true)
  end
  if options.notes then
    local arguments = table.move(options.paths, 1, #options.paths, #options.rest + 1, options.rest)
    if options.seed then table.insert(arguments, 1, ("--seed=%d"):format(options.seed)) end
    runner = require("unsync.testing.runner")
    return runner.main(options, arguments)
  end
  local code
  if options.runs then
    code = run_seeds(options)
  else
    local fine, _, interrupted = run_all(options, options.seed, false)
    code = interrupted and 130 or fine and 0 or 1
  end
  os.exit(code, true)
end

return command
