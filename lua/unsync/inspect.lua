--- inspect: what a program does, as texts: the tree of its tasks, and why one of them does not move.
local core = require("unsync.core")
local tasks = require("unsync.tasks")

local inspect = {}

local function age(record)
  return record.age and record.age > 0 and (" %.2f s"):format(record.age) or ""
end

local function named(record)
  return record.kind .. (record.name and record.name ~= "" and " " .. record.name or "")
end

--- One task or call in a line.
---@param task unsync.TaskInfo
---@return string
function inspect.describe(task)
  local parts = { named(task), " ", task.state, age(task) }
  if task.cancelled then parts[#parts + 1] = ", cancelled" end
  if task.state == "waiting" and task.waits_for then parts[#parts + 1] = ", for " .. task.waits_for end
  if task.where then parts[#parts + 1] = " at " .. task.where end
  if task.spawned then parts[#parts + 1] = ", started at " .. task.spawned end
  return table.concat(parts)
end

local function plural(count, what)
  return ("%d %s%s"):format(count, what, count == 1 and "" or "s")
end

local function indented(text, by)
  return (text:gsub("[^\n]+", ("  "):rep(by) .. "%0"))
end

---@class unsync.TreeOptions
---@field stacks? boolean  the whole Lua stack of each task of this state too

--- The tree of live tasks and calls of this state, how much is queued, and the workers of this process with what they
--- run. Ends with a newline.
---@param options? unsync.TreeOptions
---@return string
function inspect.tree(options)
  local list = tasks() -- those that run are counted from now on
  local live, ready, timers, pending = core.counts()
  local workers, in_threads, in_processes = core.workers()
  local lines = {
    ("%s, %d ready; %s; %d under way elsewhere; queued: %d for threads, %d for processes"):format(
      plural(live, "task"), ready, plural(timers, "timer"), pending, in_threads, in_processes),
  }
  for _, task in ipairs(list) do
    lines[#lines + 1] = ("  "):rep(task.depth + 1) .. inspect.describe(task)
    local stack = options and options.stacks and task.future and core.stack(task.future)
    if stack then lines[#lines + 1] = indented(stack, task.depth + 2) end
  end
  if #workers > 0 then lines[#lines + 1] = "workers:" end
  for _, worker in ipairs(workers) do
    lines[#lines + 1] = ("  %s %d %s%s"):format(worker.kind, worker.id, worker.state,
      worker.name and (", %s for %.2f s"):format(worker.name, worker.age) or "")
  end
  return table.concat(lines, "\n") .. "\n"
end

local function link_text(link)
  if link.text then return link.text end
  local parts = { named(link), " ", link.state, age(link) }
  if link.worker then parts[#parts + 1] = (" in %s %d"):format(link.worker, link.worker_id) end
  if link.waits_for then parts[#parts + 1] = ", for " .. link.waits_for end
  if link.where then parts[#parts + 1] = " at " .. link.where end
  if link.spawned then parts[#parts + 1] = ", started at " .. link.spawned end
  if link.cycle then parts[#parts + 1] = ": it waits for itself in the end" end
  return table.concat(parts)
end

---@class unsync.WaitLink
---@field kind string?  "io", "thread", "cpu", "promise"
---@field name string?
---@field state string?
---@field age number?
---@field where string?  "file:line" of the wait
---@field spawned string?  "file:line" of where it was started
---@field waits_for string?
---@field worker string?  "thread" or "process", with `worker_id`
---@field cycle true?  of the last link: it waits for the first
---@field text string?  of a link in another state, instead of all that: its lines

local chain = {}

function chain.__tostring(self)
  local lines = {}
  for i, link in ipairs(self) do
    lines[i] = (i > 1 and "  " or "") .. link_text(link):gsub("\n\t*", "\n  ")
  end
  return table.concat(lines, "\n") .. "\n"
end

--- Why a future has not settled: a list of what waits for what, from the future on down to the reason. `tostring` makes
--- lines of it.
---@param future unsync.Future
---@return unsync.WaitLink[]
function inspect.why(future)
  if not core.is_future(future) then
    error(("bad argument #1 to 'why' (unsync.Future expected, got %s)"):format(type(future)), 2)
  end
  return setmetatable(core.why(future), chain)
end

return inspect
