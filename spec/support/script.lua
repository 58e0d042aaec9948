--- Runs a script as a child of the program under test and says how it went; and what the specs ask about their own
--- process: memory, threads, descriptors.
---
---     local ran = script.run([[print(...)]], {args = {"a b"}})
---     ran.code, ran.signal, ran.out, ran.err, ran.seconds
local script = {}

local build = os.getenv("UNSYNC_BUILD") or "build"
--- The directory of the build under test, and the program in it.
script.build = build
script.program = build .. "/unsync"
--- How many times longer than usual things may take here.
script.slowness = tonumber(os.getenv("UNSYNC_SLOWNESS") or "1")

--- `text` as one word of the shell.
function script.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local function write_file(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end
script.read_file, script.write_file = read_file, write_file

local directory

--- The path of a file in a directory that goes with the process.
function script.path(name)
  if not directory then
    local made = assert(io.popen("mktemp -d", "r"))
    local path = made:read("l")
    made:close()
    directory = setmetatable({path = path}, {__gc = function(self)
      os.execute("rm -rf " .. script.quote(self.path))
    end})
    -- The last thing to go: after the finalizers of what may still write there.
    debug.getregistry()["unsync.spec.directory"] = directory
  end
  return directory.path .. "/" .. name
end

--- Writes `text` to a file of that name in the directory, and returns its path.
function script.file(name, text)
  local path = script.path(name)
  write_file(path, text)
  return path
end

local count = 0
local function fresh_name()
  count = count + 1
  return ("run%d"):format(count)
end

---@class ScriptOptions
---@field args? string[]       after the script
---@field options? string[]    before the script: -e and the like
---@field no_script? boolean   only `options`
---@field env? table<string, string|false>   false: unset
---@field stdin? string        default: nothing
---@field before? string       commands of the shell that runs it: "ulimit -n 64"
---@field limit_s? number      killed after that; default 60
---@field wrapper? string      put before the program: "valgrind -q"
---@field program? string      default: the program under test
---@field out? string          where stdout goes, for the shell

--- The shell's command that runs `code`, a script's text or nil.
function script.command(code, options)
  options = options or {}
  local words = {}
  for name, value in pairs(options.env or {}) do
    if value == false then words[#words + 1] = "-u " .. name end
  end
  for name, value in pairs(options.env or {}) do
    if value then words[#words + 1] = name .. "=" .. script.quote(value) end
  end
  if #words > 0 then table.insert(words, 1, "env") end
  if options.wrapper then words[#words + 1] = options.wrapper end
  words[#words + 1] = script.quote(options.program or script.program)
  for _, option in ipairs(options.options or {}) do words[#words + 1] = script.quote(option) end
  if code then words[#words + 1] = script.quote(script.file(fresh_name() .. ".lua", code)) end
  for _, argument in ipairs(options.args or {}) do words[#words + 1] = script.quote(argument) end
  return table.concat(words, " ")
end

---@param code string?  the script's text; nil: what `options` say
---@return { code: integer, signal: integer?, out: string, err: string, seconds: number }
function script.run(code, options)
  options = options or {}
  local unsync = require("unsync")
  local name = fresh_name()
  local out, err = script.path(name .. ".out"), script.path(name .. ".err")
  local stdin = options.stdin and script.quote(script.file(name .. ".in", options.stdin)) or "/dev/null"
  local limit_s = (options.limit_s or 60) * script.slowness
  -- `timeout` itself ends with the code of what it ran, or 124, or 128 and the signal.
  local command = ("%s timeout --kill-after=5 %d %s <%s >%s 2>%s"):format(
    options.before and options.before .. ";" or "", math.ceil(limit_s), script.command(code, options), stdin,
    options.out or script.quote(out), script.quote(err))
  local before = unsync.now()
  local _, how, number = os.execute(command)
  local ran = {seconds = unsync.now() - before, err = read_file(err)}
  if not options.out then ran.out = read_file(out) end
  if how == "signal" then ran.signal, number = number, 128 + number end
  ran.code = number
  if number > 128 then ran.signal = number - 128 end
  if number == 124 then ran.err = ran.err .. "\n[killed: not done after " .. limit_s .. " s]" end
  return ran
end

--- Runs it and asserts that it ended well; returns what it wrote to stdout.
function script.output(code, options)
  local ran = script.run(code, options)
  if ran.code ~= 0 or ran.err ~= "" then
    error(("exit code %d, stdout:\n%s\nstderr:\n%s"):format(ran.code, ran.out or "", ran.err), 2)
  end
  return ran.out
end

-- ---- this process, or another ----

local function entries(path)
  local unsync = require("unsync")
  local _ = unsync
  local uv = require("luv")
  local found = 0
  local request = uv.fs_scandir(path)
  while request and uv.fs_scandir_next(request) do found = found + 1 end
  return found
end

--- Open descriptors, the one that looks not counted.
function script.descriptors(pid)
  return entries(("/proc/%s/fd"):format(pid or "self")) - (pid and 0 or 1)
end

function script.threads(pid)
  return entries(("/proc/%s/task"):format(pid or "self"))
end

--- Memory in use, in KiB, as the kernel counts it.
function script.resident_kib(pid)
  return tonumber(read_file(("/proc/%s/status"):format(pid or "self")):match("VmRSS:%s*(%d+)"))
end

--- What Lua holds after a full collection, in KiB.
function script.lua_kib()
  collectgarbage()
  collectgarbage()
  return collectgarbage("count")
end

--- Waits until `condition` holds, for states of the outside world that nobody announces (a process that goes, a thread
--- that ends); false after `limit_s`.
function script.eventually(condition, limit_s)
  local unsync = require("unsync")
  local deadline = unsync.now() + (limit_s or 5) * script.slowness
  while not condition() do
    if unsync.now() > deadline then return false end
    unsync.sleep(0.005)
  end
  return true
end

return script
