--- Runs spec/support/faults_script.lua, or faults_wide.lua, where something in it fails, and judges how it ended: each
--- time in Lua errors that say what failed, or in a clean exit, never in a crash, a hang or a leak.
local script = require("spec.support.script")

local faults = {}

local slowness = script.slowness
-- What may be run: by name.
local paths = {script = "spec/support/faults_script.lua", wide = "spec/support/faults_wide.lua"}
local core = script.read_file("/proc/self/status"):match("Cpus_allowed_list:%s*(%d+)") or "0"

--- Runs the script `which` ("script", the default, or "wide") with `env`; `program` as in script.run. Returns what
--- script.run does.
function faults.run(env, program, which)
  local full = {UNSYNC_PLUGIN_PATH = script.build .. "/spec/plugins", UNSYNC_SLOWNESS = tostring(slowness)}
  for name, value in pairs(env) do full[name] = value end
  -- Where all is failing, the end is all that can be asked for.
  if (env.UNSYNC_FAIL_ALLOC or ""):find(":%d%d%d+$") then
    full.ASAN_OPTIONS = (os.getenv("ASAN_OPTIONS") or "") .. ":detect_leaks=0"
  end
  -- One core: one thread, one process, and few ways for things to happen.
  return script.run(nil, {options = {paths[which or "script"]}, env = full, program = program, limit_s = 60,
    wrapper = "taskset -c " .. core})
end

--- Why that is no good end, or nil. `reasons` are patterns of which each error must match one.
function faults.complaint(ran, reasons)
  if ran.signal or ran.code > 1 then return ("exit code %d"):format(ran.code) end
  for _, bad in ipairs({"Sanitizer", "runtime error:", "[Aa]ssert", "corrupt", "stack smash", "free%(%)"}) do
    if ran.err:find(bad) then return "a checker's complaint" end
  end
  if ran.code == 1 and not ran.err:find("%S") then return "it says nothing" end
  if ran.code == 0 and not ran.out:find("\nend\n$") then return "it did not come to its end" end
  for name, said in ran.out:gmatch("([^\t\n]+)\t([^\n]*)\n") do
    local known = said == "fine"
    -- Where a worker has no memory left to tell its host, it tells stderr.
    for _, reason in ipairs(reasons) do known = known or (said .. "\n" .. ran.err):find(reason) ~= nil end
    if not known then return ("the step '%s' failed with '%s'"):format(name, said) end
  end
  return nil
end

--- All of a run, for the message of a failure.
function faults.told(what, complaint, ran)
  return ("%s: %s\nexit code %d\n-- stdout\n%s\n-- stderr\n%s"):format(what, complaint, ran.code, ran.out, ran.err)
end

--- What may be said where memory is short: of a worker, too, that could not start or go on without it.
--- "stack overflow" is how Lua says that there is none for a larger stack.
faults.memory = {"[Nn]ot enough memory", "ENOMEM", "[Cc]annot allocate memory", "^%?: stack overflow"}

-- ---- calls of the system ----

--- The errno that each function fails with, and how that reads.
faults.calls = {
  mmap = {12, "Cannot allocate memory"}, memfd_create = {24, "Too many open files"}, ftruncate = {28, "No space left"},
  eventfd = {24, "Too many open files"}, epoll_create1 = {24, "Too many open files"},
  socketpair = {24, "Too many open files"}, pipe2 = {24, "Too many open files"}, write = {5, "Input/output error"},
  send = {105, "No buffer space"}, sendmsg = {105, "No buffer space"}, recv = {105, "No buffer space"},
  recvmsg = {105, "No buffer space"}, dlopen = {2, "cannot open shared object file"},
  pthread_create = {11, "Resource temporarily unavailable"}, posix_spawn = {11, "Resource temporarily unavailable"},
}

--- Runs it with the `number`-th call of `name` failing in the host or the worker process, 0: none. Returns what
--- faults.run does, how many calls there were, and how many descriptors the host left open, but for pipes.
function faults.run_with_call(name, number, who)
  local log = script.path(("fault %s %d %s"):format(name, number, who))
  script.write_file(log, "")
  local ran = faults.run({LD_PRELOAD = "build/spec/preload/faults.so", UNSYNC_FAULT_LOG = log,
    UNSYNC_FAULT = ("%s:%d:%d:%s"):format(name, number, faults.calls[name][1], who)})
  local told, calls, open = script.read_file(log), 0, 0
  for count in told:gmatch("calls (%d+)") do calls = math.max(calls, math.tointeger(tonumber(count))) end
  -- libuv keeps one pipe for signals to the end of the process.
  for what in told:gmatch("open %d+ ([^\n]*)") do if not what:find("^pipe:") then open = open + 1 end end
  return ran, calls, open
end

--- How many allocations the host and its workers make: a table by "host" and "worker".
function faults.count_allocations(program, which)
  local log = script.path("allocations")
  script.write_file(log, "")
  local ran = faults.run({UNSYNC_FAIL_ALLOC_LOG = log}, program, which)
  assert(ran.code == 0 and ran.err == "", ran.out .. ran.err)
  local counts = {host = 0, worker = 0}
  for who, number in script.read_file(log):gmatch("(%l+) (%d+)") do
    counts[who] = math.max(counts[who], math.tointeger(tonumber(number)))
  end
  return counts
end

return faults
