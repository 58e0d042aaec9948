--- commands: what begins with a dot: a look at the program that runs, help, and the way out.
local unsync = require("unsync")
local show = require("unsync.repl.show")

local commands = {}

local help_text = [[
Type Lua: an expression shows its value, `_` is the last one, and anything may wait:
  > unsync.sleep(1)                          the prompt comes back after a second
  > local work = unsync.thread(function(n) return n * 2 end)      or io, or cpu
  > work(21)                                 a future; it tells when it is done
  > work(21):await()                         waits: 42
Locals stay for the lines that follow. Tasks go on while you type. Tab completes, the arrows bring back earlier lines.
Ctrl-C cancels what the line waits for, Ctrl-D leaves.

  .tasks         what runs and waits, numbered
  .why N         what number N of .tasks waits for
  .cancel N      cancels number N
  .time EXPR     runs it and says how long that took
  .load FILE     runs a file as if it had been typed
  .doc NAME      what a function does: .doc unsync.scope
  .exit [CODE]   leaves
  .help          this
]]

-- ---- tasks ----

--- What lives besides this session itself: records of unsync.tasks, in its order.
function commands.others(repl)
  local list = {}
  for _, task in ipairs(unsync.tasks()) do
    if task.future and task.future ~= repl.root and task.future ~= repl.running then list[#list + 1] = task end
  end
  return list
end

--- One of those in a few words.
function commands.describe(task) return require("unsync.inspect").describe(task) end

local function tasks(repl)
  local list = commands.others(repl)
  repl.numbered = {}
  if #list == 0 then repl:say("nothing runs or waits") end
  local base = list[1] and list[1].depth
  for _, task in ipairs(list) do base = math.min(base, task.depth) end
  for i, task in ipairs(list) do
    repl.numbered[i] = task.future
    repl:say(("%3d  %s%s"):format(i, ("  "):rep(task.depth - base), commands.describe(task)))
  end
  local workers = require("unsync.inspect").tree():match("\n(workers:\n.*)\n$")
  if workers then repl:say(workers) end
end

local function numbered(repl, text)
  local number = math.tointeger(tonumber(text))
  if not number then error(("a number of .tasks expected, got '%s'"):format(text), 0) end
  if not repl.numbered then tasks(repl) end
  return repl.numbered[number] or error(("there is no number %d: see .tasks"):format(number), 0)
end

local function why(repl, text)
  repl:say((tostring(unsync.why(numbered(repl, text))):gsub("\n$", "")))
end

local function cancel(repl, text)
  local future = numbered(repl, text)
  repl:say(future:cancel() and "cancelled: " .. tostring(future) or "it has ended: " .. tostring(future))
end

-- ---- code ----

local function time(repl, text)
  if text == "" then error("an expression expected: .time EXPR", 0) end
  repl:run(text, { before = function()
    collectgarbage()
    repl.timing = { wall = unsync.now(), cpu = os.clock(), memory = collectgarbage("count") }
  end, after = function()
    local began = repl.timing
    local wall, cpu = unsync.now() - began.wall, os.clock() - began.cpu
    local memory = collectgarbage("count") - began.memory
    local note = ("%.6f s, %.6f s of them computing here, %+.0f KiB"):format(wall, cpu, memory)
    return show.paint(repl.color, "note", note)
  end })
end

local function load_file(repl, path)
  if path == "" then error("a file expected: .load FILE", 0) end
  local file, problem = io.open(path, "rb")
  if not file then error(problem, 0) end
  local text, read_problem = file:read("a")
  file:close()
  if not text then error(path .. ": " .. tostring(read_problem), 0) end
  repl:run(text:gsub("^#[^\n]*", ""), { chunk = "@" .. path })
end

--- `text` in lines of at most `width` columns, each with two blanks before it.
local function wrapped(text, width)
  local lines = {}
  for paragraph in text:gmatch("[^\n]+") do
    local line = " "
    for word in paragraph:gmatch("%S+") do
      if #line + 1 + #word > width and line:find("%S") then
        lines[#lines + 1] = line
        line = " "
      end
      line = line .. " " .. word
    end
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n")
end

--- The names that `name` may stand for: in full, without "unsync.", or a method of whatever: "f:cancel".
local function documented(reference, name)
  for _, full in ipairs({ name, "unsync." .. name }) do
    if reference[full] then return { full } end
  end
  local method, found = name:match(":([%w_]+)$") or name:match("^[%w_]+$"), {}
  for known in pairs(reference) do
    if method and known:match(":([%w_]+)$") == method then found[#found + 1] = known end
  end
  table.sort(found)
  return found
end

local function doc(repl, name)
  name = name:gsub("%s*%(.*$", "")
  if name == "" then error("a name expected: .doc unsync.scope", 0) end
  local reference = require("unsync.reference")
  local found = documented(reference, name)
  for _, full in ipairs(found) do
    local entry = reference[full]
    repl:say(show.paint(repl.color, "good", entry.signature))
    if entry.text ~= "" then repl:say(wrapped(entry.text, math.min(repl.host.width(), 100) - 1)) end
  end
  if #found > 0 then return end
  local near = {}
  for known in pairs(reference) do
    if known:lower():find(name:lower(), 1, true) then near[#near + 1] = known end
  end
  table.sort(near)
  local hint = #near > 0 and "; there is " .. table.concat(near, ", ", 1, math.min(#near, 12)) or ""
  error(("nothing is known of '%s'%s"):format(name, hint), 0)
end

local function exit(repl, text)
  local code = text ~= "" and math.tointeger(tonumber(text)) or nil
  if text ~= "" and not code then error(("an exit code expected, got '%s'"):format(text), 0) end
  repl.leaving = { code = code }
end

local known = {
  help = function(repl) repl:say((help_text:gsub("\n$", ""))) end,
  tasks = tasks, why = why, cancel = cancel, time = time, load = load_file, doc = doc, exit = exit,
}

commands.names = {}
for name in pairs(known) do commands.names[#commands.names + 1] = name end
table.sort(commands.names)

--- The command that `line` is, and its arguments; nil where it is Lua.
function commands.parse(line)
  local name, rest = line:match("^%s*%.(%a[%w_]*)%s*(.-)%s*$")
  if not name then return nil end
  return name, rest
end

--- Runs it; raises a text for the user where that cannot be.
function commands.run(repl, name, rest)
  local run = known[name]
  if not run then error(("there is no command .%s: .help lists them"):format(name), 0) end
  return run(repl, rest)
end

return commands
