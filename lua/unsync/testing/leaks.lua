--- leaks: what lives when a test begins, what it has left when it is over, and where each thing came from.
local unsync = require("unsync")
local core = require("unsync.core")
local found = require("unsync.core.leaks")
local control = require("unsync.core.testing")

local leaks = {}

--- Rounds of the loop that what is ready may take to come to its end, and seconds for what has been cancelled.
local ROUNDS, GRACE = 100, 3
--- How often, and after how many seconds each, handles are looked at before they count as left open.
local HANDLE_ROUNDS, HANDLE_PAUSE = 40, 0.02

-- ---- libuv's handles: luv says what they are, not who made them ----

local handle_sites = setmetatable({}, { __mode = "k" })  -- where it was made
local handle_makers = setmetatable({}, { __mode = "kv" }) -- by which task; none: by a callback
local watched -- the module's table whose constructors note where they are called
local makers = {
  "new_timer", "new_tcp", "new_pipe", "new_udp", "new_tty", "new_async", "new_poll", "new_socket_poll", "new_signal",
  "new_idle", "new_check", "new_prepare", "new_fs_event", "new_fs_poll", "spawn",
}

local function caller_site()
  for level = 3, 20 do
    local info = debug.getinfo(level, "Sl")
    if not info then return nil end
    if info.currentline > 0 and not info.source:find("^@unsync/") then
      return info.short_src .. ":" .. info.currentline
    end
  end
end

local function noted(handle, ...)
  if type(handle) == "userdata" then
    handle_sites[handle] = caller_site()
    handle_makers[handle] = unsync.current()
  end
  return handle, ...
end

local function watch(uv)
  if uv == watched then return end
  watched = uv
  for _, name in ipairs(makers) do
    local make = uv[name]
    if make then uv[name] = function(...) return noted(make(...)) end end
  end
end

--- luv, where somebody has loaded it.
local function luv()
  local uv = package.loaded.luv
  if uv then watch(uv) end
  return uv
end

--- From now on luv is watched from its first use on.
function leaks.watch_luv()
  local preloaded = package.preload.luv
  package.preload.luv = function(...)
    local load, path = preloaded, ...
    for i = 2, load and 0 or #package.searchers do
      load, path = package.searchers[i]("luv")
      if type(load) == "function" then break end
    end
    local uv = load("luv", path)
    watch(uv)
    return uv
  end
end

local function active_handles()
  local uv, handles = luv(), {}
  if uv then
    uv.walk(function(handle)
      if uv.is_active(handle) and not uv.is_closing(handle) then handles[handle] = true end
    end)
  end
  return handles
end

--- The descriptors of luv's handles, which are looked at as handles.
local function handle_descriptors()
  local uv, numbers = luv(), {}
  if uv then
    uv.walk(function(handle)
      local ok, fd = pcall(uv.fileno, handle)
      if ok and fd then numbers[fd] = true end
    end)
  end
  return numbers
end

-- ---- descriptors ----

--- The numbers of sockets of AF_UNIX without a name: those between us and our worker processes are such.
local function unnamed_sockets()
  local file = io.open("/proc/net/unix", "r")
  local inodes = {}
  if not file then return inodes end
  for line in file:lines() do
    local inode, path = line:match("^%x+: %x+ %x+ %x+ %x+ %x+ +(%d+) ?(.*)$")
    if inode and path == "" then inodes[inode] = true end
  end
  file:close()
  return inodes
end

--- Which of these are the script's: what loops and worker processes need comes and goes as it likes.
local function only_scripts(descriptors)
  local unnamed, pipes, scripts = nil, {}, {}
  for _, target in pairs(descriptors) do
    if target:find("^pipe:") then pipes[target] = (pipes[target] or 0) + 1 end
  end
  for fd, target in pairs(descriptors) do
    local ours = target:find("^anon_inode:") or target:find("^/memfd:") or target:find("^/proc/")
      or target == "/dev/null" -- libuv keeps one open
      or (pipes[target] or 0) > 1 -- both ends: a loop wakes itself by it
    local inode = target:match("^socket:%[(%d+)%]$")
    if inode then
      unnamed = unnamed or unnamed_sockets()
      ours = unnamed[inode]
    end
    if not ours then scripts[fd] = target end
  end
  return scripts
end

local function new_descriptors(before)
  local now, new, any = found.descriptors(), {}, false
  for fd, target in pairs(now) do
    if before[fd] ~= target then any = true end
  end
  if not any then return new end
  local of_handles = handle_descriptors()
  for fd, target in pairs(only_scripts(now)) do
    if before[fd] ~= target and not of_handles[fd] then new[fd] = target end
  end
  return new
end

-- ---- tasks and calls ----

--- What `owner` (the number of a task) has started, and they in turn.
local function started_by(owner, kept)
  local all, ids, mine = core.tasks(), {}, {}
  for _, task in ipairs(all) do
    if task.id then ids[task.id] = task end
  end
  local function is_mine(task, depth)
    local parent = task.parent
    if parent == owner then return true end
    if not parent or parent < owner or depth > 100 then return false end
    local living = ids[parent]
    return living == nil or is_mine(living, depth + 1) -- who started it was younger than the owner
  end
  for _, task in ipairs(all) do
    if task.id ~= owner and not kept[task.future] and is_mine(task, 0) then mine[#mine + 1] = task end
  end
  return mine
end

local function describe(task)
  local name = task.name and task.name ~= "" and task.kind .. " " .. task.name or task.kind .. " task"
  local text = name
  local site = task.name ~= "the test" and task.future and found.site(task.future)
  if site then text = text .. ", started at " .. site end
  if task.waits_for then
    text = text .. (", waiting for %s%s"):format(task.waits_for, task.where and " at " .. task.where or "")
  elseif task.where then
    text = text .. (", %s at %s"):format(task.state, task.where)
  else
    text = text .. ", " .. task.state
  end
  return text
end

--- What a task's record says, on one line.
leaks.describe = describe

local function wait_for(future) pcall(future.await, future, GRACE) end

--- Lets end what is about to: what is ready, and what has been asked to stop.
local function settle(owner, kept)
  local mine
  for _ = 1, ROUNDS do
    mine = started_by(owner, kept)
    local moving = false
    for _, task in ipairs(mine) do moving = moving or (task.id and task.state ~= "waiting") end
    if not moving then break end
    unsync.yield()
  end
  local cancelled = false
  for _, task in ipairs(mine) do
    if task.cancelled then
      cancelled = true
      wait_for(task.future)
    end
  end
  return cancelled and started_by(owner, kept) or mine
end

-- ---- all of it ----

--- What lives now; `own` is the running task's number.
function leaks.look()
  local current = unsync.current()
  local before = { handles = active_handles(), descriptors = found.descriptors(), kept = {} }
  for _, task in ipairs(core.tasks()) do
    if task.future == current then before.owner = task.id end
    if task.future then before.kept[task.future] = task.future ~= current end
  end
  return before
end

--- What lives now as well is meant to stay.
function leaks.keep(before)
  before.handles, before.descriptors = active_handles(), found.descriptors()
  for _, task in ipairs(core.tasks()) do
    if task.id ~= before.owner and task.future then before.kept[task.future] = true end
  end
end

local function add_tasks(list, before, outer)
  local left = settle(before.owner, before.kept)
  for _, task in ipairs(left) do
    list[#list + 1] = (task.cancelled and "it does not end, though cancelled: " or "left running: ") .. describe(task)
  end
  for _, task in ipairs(left) do task.future:cancel("the test is over") end
  for _, task in ipairs(left) do
    wait_for(task.future)
    before.kept[task.future] = true
    if outer then outer.kept[task.future] = true end
  end
end

--- Whether the handle is by a task of the test. What callbacks make, and what was there before, is the file's.
local function by_test(handle, before)
  local maker = handle_makers[handle]
  if maker then return not before.kept[maker] end
  return handle_sites[handle] == nil
end

local function new_handles(before, outer)
  local new = {}
  for handle in pairs(active_handles()) do
    if not before.handles[handle] and (not outer or by_test(handle, before)) then new[#new + 1] = handle end
  end
  return new
end

local function add_handles(list, before, outer)
  local uv, new = package.loaded.luv, new_handles(before, outer)
  for _ = 1, HANDLE_ROUNDS do -- a process that was told to end does so in its time
    if #new == 0 then return end
    unsync.sleep(HANDLE_PAUSE)
    new = new_handles(before, outer)
  end
  for _, handle in ipairs(new) do
    local site = handle_sites[handle]
    local kind = uv.handle_get_type and uv.handle_get_type(handle) or tostring(handle)
    list[#list + 1] = ("left open: luv %s%s"):format(kind, site and ", made at " .. site or "")
    uv.close(handle)
  end
end

--- Files that were left to the collector are closed by it, and kept connections let go: here, and in idle threads.
local function collect()
  collectgarbage()
  collectgarbage()
  found.rest()
  -- Each thread has to hold its call until all have one, lest one of them gets two.
  local calls, arrived, go = {}, {}, unsync.promise()
  for n = 1, found.threads() do
    arrived[n] = unsync.promise()
    calls[n] = unsync.thread(function(there, on)
      collectgarbage()
      collectgarbage()
      require("unsync.core.leaks").rest()
      there:resolve()
      on:await()
    end)(arrived[n], go)
  end
  for _, there in ipairs(arrived) do pcall(there.await, there, GRACE) end
  go:resolve()
  for _, call in ipairs(calls) do pcall(call.await, call, GRACE) end
end

local function add_descriptors(list, before, outer)
  if not next(new_descriptors(before.descriptors)) then return end
  collect()
  unsync.yield()
  local new = new_descriptors(before.descriptors)
  local numbers = {}
  for fd in pairs(new) do numbers[#numbers + 1] = fd end
  table.sort(numbers)
  for _, fd in ipairs(numbers) do
    list[#list + 1] = ("left open: descriptor %d, %s"):format(fd, new[fd])
    before.descriptors[fd] = new[fd]
    if outer then outer.descriptors[fd] = new[fd] end
  end
end

local function add_failures(list)
  for _, future in ipairs(found.unseen()) do
    local site = found.site(future)
    if site then list[#list + 1] = "the call at " .. site .. " failed, and nobody looked:" end
  end
  local reports, count = found.reports()
  for _, text in ipairs(reports) do list[#list + 1] = text end
  if count > #reports then
    list[#list + 1] = ("%d error(s) in callbacks of luv, told above"):format(count - #reports)
  end
end

--- What is there beside what `before` knows: tasks are ended and handles closed, so that the next test does not meet
--- them; then it is known, to `outer` as well.
---@return string[] leftovers
---@return string[] failures  that nobody looked at
function leaks.find(before, outer)
  local left, failures = {}, {}
  if control.stopped() then
    control.run()
    left[1] = "left open: a test clock (`local clock <close> = testing.clock()`)"
  end
  add_tasks(left, before, outer)
  add_handles(left, before, outer)
  add_descriptors(left, before, outer)
  add_failures(failures)
  return left, failures
end

return leaks
