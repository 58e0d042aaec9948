-- make bench: each workload beside its baseline, in the same minute, on the same machine.
--
--   - A workload and a baseline are programs of their own that print one number; less is better. Neither runs in here.
--   - A round is one run of each, A B A B ..., so that what disturbs the machine disturbs both. Medians are compared.
--   - BENCH=name runs one row, or all that begin with `name_`; ROUNDS=n sets the rounds (7).
--   - The table goes to stdout, the figures to build/bench.json, which is written anew by each run.
--
-- What the rows mean: docs/performance.md.

local ROUNDS = math.tointeger(tonumber(os.getenv "ROUNDS" or "7")) or 7
local ONLY = os.getenv "BENCH"
local OUTPUT = "build/bench.json"
local OURS, STOCK, C = "build/unsync bench/", "lua5.4 bench/", "build/bench/"

-- The first processor that we may run on, for the rows that share one.
local function first_processor()
  for line in io.lines "/proc/self/status" do
    local first = line:match "^Cpus_allowed_list:%s*(%d+)"
    if first then return first end
  end
  return "0"
end
local PINNED = "taskset -c " .. first_processor() .. " "

-- name, unit, target (the ratio at most), work, base (a command, or a number that is a limit), what the base is
local rows = {
  { "spawn_await", "ns", 0.85, OURS .. "spawn_await.lua", STOCK .. "coroutine.lua", "lua5.4 create + resume" },
  { "spawn_suspend", "ns", 1.5, OURS .. "spawn_await.lua yield", STOCK .. "coroutine.lua yield",
    "lua5.4 create + resume + resume" },
  { "switch", "ns", 0.80, OURS .. "switch.lua", STOCK .. "round_robin.lua", "lua5.4 round robin" },
  { "channel", "ns", 2.5, OURS .. "channel.lua", STOCK .. "round_robin.lua", "lua5.4 round robin" },
  { "channel_buffered", "ns", 1.0, OURS .. "channel.lua buffered", STOCK .. "round_robin.lua", "lua5.4 round robin" },
  { "channel_threads", "ns", 1.0, OURS .. "channel.lua threads", 1000, "limit: a million items a second" },
  { "sleepers", "s", 1.0, OURS .. "sleepers.lua", C .. "sleepers", "C uv_timer_t" },
  { "sleepers_memory", "KiB", 1.0, OURS .. "sleepers.lua memory", 1.5, "limit: 1.5 KiB a task" },
  { "thread_latency", "ns", 0.3, OURS .. "worker.lua thread latency", C .. "uv_work", "C uv_queue_work" },
  { "thread_latency_pinned", "ns", 0.85, PINNED .. OURS .. "worker.lua thread latency", PINNED .. C .. "uv_work",
    "C uv_queue_work, one core" },
  { "thread_flight", "ns", 0.5, OURS .. "worker.lua thread flight", STOCK .. "luv_work.lua", "luv new_work" },
  { "thread_bytes", "ns", 1.1, OURS .. "worker.lua thread bytes", C .. "lua_copy", "C copy between states, twice" },
  { "table_ints", "ns", 1.1, OURS .. "worker.lua thread ints", C .. "flat_message ints", "C flat message, twice" },
  { "table_records", "ns", 1.1, OURS .. "worker.lua thread records", C .. "flat_message records",
    "C flat message, twice" },
  { "process_latency", "ns", 0.2, OURS .. "worker.lua process latency", C .. "socketpair 20000 8", "C socket pair" },
  { "process_latency_pinned", "ns", 1.5, PINNED .. OURS .. "worker.lua process latency",
    PINNED .. C .. "socketpair 20000 8", "C socket pair, one core" },
  { "process_flight", "ns", 0.6, OURS .. "worker.lua process flight", STOCK .. "luv_pipe.lua", "luv pipes by hand" },
  { "process_bytes", "ns", 2.0, OURS .. "worker.lua process bytes", C .. "socketpair 300 1048576",
    "C socket pair, 1 MiB" },
  { "cpu_two", "s", 1.05, OURS .. "cpu_two.lua cpu", OURS .. "cpu_two.lua serial", "own serial time / 2" },
  { "cpu_two_threads", "s", 1.05, OURS .. "cpu_two.lua thread", OURS .. "cpu_two.lua serial", "own serial time / 2" },
  { "mixed", "s", 1.03, OURS .. "mixed.lua together", OURS .. "mixed.lua longest", "its longest lane" },
  { "control_scope", "ns", 1.3, OURS .. "control.lua scope", OURS .. "control.lua by_hand", "spawn and await by hand" },
  { "control_variable", "ns", 1.5, OURS .. "control.lua variable", C .. "method", "an empty method in C" },
  { "control_timeout", "ns", 1.5, OURS .. "control.lua timeout", OURS .. "control.lua await", "the await alone" },
  { "control_map", "ns", 0.556, C .. "processes 2 bench/control.lua map", C .. "processes 1 bench/control.lua map",
    "on one process" },
  { "startup", "ns", 1.15, C .. "startup time build/unsync -e ''", C .. "startup time lua5.4 -e ''", "lua5.4 -e ''" },
  { "startup_memory", "KiB", 1.3, C .. "startup memory build/unsync -e ''", C .. "startup memory lua5.4 -e ''",
    "lua5.4 -e ''" },
}
for _, part in ipairs { { "pcall", 1.3 }, { "wrap", 1.3 }, { "sort", 2 }, { "gsub", 2 }, { "arithmetic", 1.02 } } do
  local script = "plain_lua.lua " .. part[1]
  rows[#rows + 1] = { "plain_lua_" .. part[1], "ns", part[2], OURS .. script, STOCK .. script, "lua5.4, same script" }
end

-- What the command prints: one number. A run that fails or hangs ends the whole bench: a figure is never made up.
local function measure(command)
  if type(command) == "number" then return command end
  local pipe = assert(io.popen("exec timeout -s KILL 60 " .. command, "r"))
  local text = pipe:read "a"
  local ok, how, code = pipe:close()
  local value = tonumber(text)
  if not ok or not value then
    error(("bench: %s: %s %s, printed %q"):format(command, how, code, text), 0)
  end
  return value
end

local function median(list)
  table.sort(list)
  local middle = #list // 2
  if #list % 2 == 1 then return list[middle + 1] end
  return (list[middle] + list[middle + 1]) / 2
end

local function show(value, unit)
  if unit == "ns" and value >= 1e6 then return ("%.2f ms"):format(value / 1e6) end
  if unit == "ns" and value >= 1e4 then return ("%.1f us"):format(value / 1e3) end
  if unit == "s" then return ("%.4f s"):format(value) end
  return (value >= 100 and "%.0f %s" or "%.2f %s"):format(value, unit)
end

local function chosen(name)
  return not ONLY or ONLY == "" or name == ONLY or name:sub(1, #ONLY + 1) == ONLY .. "_"
end

local written = {}

local function run(row)
  local name, unit, target, work, base, what = table.unpack(row)
  local ours, theirs = {}, {}
  for round = 1, ROUNDS do
    ours[round] = measure(work)
    theirs[round] = measure(base)
  end
  local a, b = median(ours), median(theirs)
  local ratio = a / b
  print(("%-22s %10s %10s %7.3f %7.2f  %-6s  %s"):format(name, show(a, unit), show(b, unit), ratio, target,
    ratio <= target and "met" or "MISSED", what))
  io.stdout:flush()
  written[#written + 1] = (
    '  "%s": {"median": %.9g, "unit": "%s", "baseline": "%s", "baseline_median": %.9g, "ratio": %.4f, ' ..
    '"target": %g, "met": %s, "rounds": %d, "least": %.9g, "most": %.9g}'
  ):format(name, a, unit, what, b, ratio, target, ratio <= target, ROUNDS, ours[1], ours[#ours])
end

local function processors()
  local pipe = assert(io.popen("nproc", "r"))
  local text = pipe:read "l"
  pipe:close()
  return text
end

local load = io.open "/proc/loadavg"
print(("%d rounds, medians; %s processors, load %s"):format(ROUNDS, processors(),
  load and load:read "l":match "^%S+ %S+ %S+" or "unknown"))
if load then load:close() end
print(("%-22s %10s %10s %7s %7s  %-6s  %s"):format("row", "median", "baseline", "ratio", "target", "", "baseline is"))
for _, row in ipairs(rows) do
  if chosen(row[1]) then run(row) end
end
if #written == 0 then error(("bench: no row is named %q"):format(ONLY), 0) end

local out = assert(io.open(OUTPUT, "w"))
out:write("{\n", table.concat(written, ",\n"), "\n}\n")
assert(out:close())
