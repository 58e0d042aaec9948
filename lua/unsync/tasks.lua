--- tasks: what is live in this state, as a tree.
local core = require("unsync.core")

---@class unsync.TaskInfo
---@field kind string  "io", "thread" or "cpu"
---@field name string?  of the function; "main" is the script
---@field state string  "running", "ready", "waiting", or "queued": it has not begun
---@field age number  seconds since it first waited, or was called
---@field where string?  "file:line" of where it waits or runs; nil elsewhere than on the loop
---@field spawned string?  "file:line" of where it was started; known once it has waited
---@field waits_for string?  "future", "sleep" and the like
---@field parent unsync.TaskInfo?  who started it, if that still lives
---@field cancelled true?  it has been asked to stop
---@field depth integer  0 for one without a parent
---@field future unsync.Future?

local function older(a, b)
  if a.id and b.id then return a.id < b.id end
  if a.id or b.id then return a.id ~= nil end
  return a.age > b.age
end

local function append(list, task, depth, children)
  task.depth = depth
  list[#list + 1] = task
  for _, child in ipairs(children[task] or {}) do
    child.parent = task
    append(list, child, depth + 1, children)
  end
end

--- All live tasks and calls of this state, each followed by those it started, oldest first.
---@return unsync.TaskInfo[]
return function()
  local found = core.tasks()
  table.sort(found, older)
  local by_id, children, list = {}, {}, {}
  for _, task in ipairs(found) do
    if task.id then by_id[task.id] = task end
  end
  local roots = {}
  for _, task in ipairs(found) do
    local parent = by_id[task.parent]
    task.parent, task.id = nil, nil
    local siblings = parent and children[parent] or roots
    if parent and not children[parent] then
      siblings = {}
      children[parent] = siblings
    end
    siblings[#siblings + 1] = task
  end
  for _, task in ipairs(roots) do append(list, task, 0, children) end
  return list
end
