--- Measures how soon calls end that never would. Prints a line for each executor, for what its call stands in, and
--- for how it is stopped: `executor|what|how|settled|stopped_by|code|ended`. `settled`: seconds until the future had
--- settled; `ended`: until the last sign of life of the work, `-` if it goes on.
--- arg[1]: the grace period; arg[2]: a directory to write to; arg[3]: the plugin directory.
local unsync = require("unsync")

local grace, directory, plugins = tonumber(arg[1]), arg[2], arg[3]
unsync.plugin(plugins .. "/echo.so")
unsync.plugin(plugins .. "/crash.so")

--- Leaves a sign of life where all states can see it, in one piece.
local function beat(path)
  local file = assert(io.open(path .. ".new", "w"))
  file:write(("%.6f"):format(require("unsync").now()))
  file:close()
  os.rename(path .. ".new", path)
end

local function last_beat(path)
  local file <close> = io.open(path)
  return file and tonumber(file:read("a"))
end

local bodies = {
  {"computes", function(path)
    local n = 0
    while true do
      n = n + 1
      if n % 1000 == 0 then beat(path) end
    end
  end},
  {"waits", function(path)
    while true do
      beat(path)
      require("unsync").sleep(0.001)
    end
  end},
  {"swallows errors", function(path)
    while true do
      pcall(function()
        while true do
          beat(path)
          require("unsync").sleep(0.001)
        end
      end)
    end
  end},
  {"blocks in a Lua library", function(path)
    beat(path)
    require("socket").sleep(3600)
  end},
  {"C that looks at its token", "echo.work"},
  {"C that does not", "crash.stuck"},
}

local measure
function measure(executor, what, body, how)
  local path = ("%s/%s-%s-%s"):format(directory, executor, what:gsub("%W", "_"), how)
  local options = {grace = grace, timeout = how == "timeout" and 0.5 or nil}
  local native = type(body) == "string"
  local call = unsync[executor](body, options)(table.unpack(native and {1e9, 1} or {path}))
  local asked = unsync.now() + 0.5
  if how == "cancel" then
    local function at_work()
      if body == "echo.work" then return call:progress() ~= nil end
      if native then return call:status() == "running" end
      return last_beat(path) ~= nil
    end
    while not at_work() do unsync.sleep(0.001) end
    asked = unsync.now()
    call:cancel()
  end
  local ok, err = pcall(call.await, call)
  local settled = unsync.now() - asked
  assert(not ok)
  -- Its worker had not begun it yet, or it had not come so far as to block: that is another row.
  local early = err.stopped_by == "queue" or what == "blocks in a Lua library" and err.stopped_by == "hook"
  if early then return measure(executor, what, body, how) end
  local work = "-"
  if not native and what ~= "blocks in a Lua library" then
    local last
    repeat -- until it has been still for a while
      last = last_beat(path)
      unsync.sleep(0.1)
    until last_beat(path) == last
    if last then work = ("%.4f"):format(math.max(0, last - asked)) end
  elseif body == "echo.work" or executor == "cpu" then
    work = ("%.4f"):format(settled) -- it returned, or its process has ended
  end
  print(table.concat({executor, what, how, ("%.4f"):format(settled), err.stopped_by or "?", err.code, work}, "|"))
end

for _, executor in ipairs({"io", "thread", "cpu"}) do
  for _, body in ipairs(bodies) do
    local holds_loop = executor == "io" and body[1] ~= "waits" and body[1] ~= "swallows errors"
    if not holds_loop then
      for _, how in ipairs({"cancel", "timeout"}) do measure(executor, body[1], body[2], how) end
    end
  end
end
