--- combine: many futures, one after the other: as_completed and map. What makes one future of many is in C.
local core = require("unsync.core")
local calls = require("unsync.calls")
local spawn, is_future = core.spawn, core.is_future
local callable, followed = calls.callable, calls.followed

local combine = {}

local function bad(argument, caller, problem)
  error(("bad argument #%d to '%s' (%s)"):format(argument, caller, problem), 3)
end

--- Iterates over the futures of a list in the order in which they settle; those that have settled already come first,
--- in the order of the list. Leaving the loop leaves the others as they are.
---@param list unsync.Future[]
---@return fun(): unsync.Future?
function combine.as_completed(list)
  if type(list) ~= "table" then bad(1, "as_completed", "table expected, got " .. type(list)) end
  local collector = core.collector()
  for i = 1, #list do
    if not is_future(list[i]) then
      bad(1, "as_completed", ("item %d is a %s, not a future"):format(i, type(list[i])))
    end
  end
  for i = 1, #list do collector:add(list[i], i) end
  return function() return (collector:next()) end
end

---@class unsync.MapOptions
---@field concurrency? integer  calls that run or whose results lie there; default: cores for cpu functions, else 16
---@field ordered? boolean  whether results come in the order of the items; default: true

--- What a map is doing. The collector holds the futures of the items that are under way or whose results lie there, by
--- their numbers, and the iterator's task beside them.
---@class unsync.Map
local Map = {}

-- Looked up once, since they are called for each item.
local some = core.collector()
local add, following, await = some.add, some.next, core.resolved().await

--- The call for an item was made. One that could not start is a future that has failed: it has its turn like any other.
local function enter(self, ok, future)
  local number = self.last + 1
  self.last, self.held = number, self.held + 1
  add(self.collector, ok and future or core.rejected(future), number)
end

--- Starts the call for an item.
local function start(self, ...)
  if self.wrapped then return enter(self, pcall(self.fn, ...)) end
  return enter(self, pcall(spawn, self.fn, ...))
end

--- What the iterator, which ran as a task since it may wait, came to.
local function take(self, ok, ...)
  local future = self.pulling
  self.pulling = nil
  if not ok then
    self.exhausted = true
    enter(self, true, future) -- its error is the last item
  elseif (...) == nil then
    self.exhausted = true
  else
    start(self, ...)
  end
end

--- Starts calls until there are as many as there may be.
local function fill(self)
  local list = self.list
  while not self.exhausted and not self.pulling and self.held < self.concurrency do
    if list then
      local place = self.place + 1
      self.place = place
      if place > self.count then
        self.exhausted = true
      else
        start(self, list[place])
      end
    else
      self.pulling = spawn(self.iterator)
      if self.pulling:done() then
        take(self, pcall(await, self.pulling))
      else
        add(self.collector, self.pulling)
      end
    end
  end
end

--- Nobody wants the rest: what runs is cancelled.
local function leave(self)
  self.exhausted = true
  self.pulling, self.held = nil, 0
  self.collector:drop()
end

local function first_result(number, ...)
  local first = ...
  if first == nil then
    error(("map: the call for item %d returned nil, which would end the loop"):format(number), 0)
  end
  return first, number
end

--- Of the item whose turn is next; nil at the end.
local function next_result(self)
  local future, number, failed
  repeat
    if self.held < self.concurrency then fill(self) end
    if self.held == 0 and not self.pulling then return nil end
    future, number, failed = following(self.collector)
    if not future then return nil end -- left meanwhile, by another task
    if not number then take(self, pcall(await, future)) end
  until number
  self.held = self.held - 1
  if not failed then fill(self) end
  return first_result(number, await(future))
end

Map.__close = leave
Map.__call = next_result

local function read_options(options)
  if options == nil then return {} end
  if type(options) ~= "table" then
    error(("bad argument #3 to 'map' (table expected, got %s)"):format(type(options)), 3)
  end
  for name in pairs(options) do
    if name ~= "concurrency" and name ~= "ordered" then
      error(("bad argument #3 to 'map' (unknown option '%s')"):format(tostring(name)), 3)
    end
  end
  local concurrency = options.concurrency
  if concurrency ~= nil and (math.type(concurrency) ~= "integer" or concurrency < 1) then
    error(("bad argument #3 to 'map' (bad option 'concurrency': positive integer expected, got %s)")
      :format(tostring(concurrency)), 3)
  end
  return options
end

--- Iterates over the first results of `fn`, called once for each item, several at a time. Items are taken only when
--- their turn has come; an iterator may wait. Leaving the loop cancels what runs.
---@param fn fun(...: any): any  any function; one that is not wrapped runs as a task; a future it returns is awaited
---@param items any[]|fun(): any  a list, or an iterator: a function, called until it returns nil
---@param options? unsync.MapOptions
---@return unsync.Map iterator  of the first result, and the number of its item
---@return nil
---@return nil
---@return unsync.Map closing
function combine.map(fn, items, options)
  if not callable(fn) then bad(1, "map", "function expected, got " .. type(fn)) end
  local is_list = type(items) == "table" and not callable(items)
  if not is_list and not callable(items) then bad(2, "map", "list or iterator expected, got " .. type(items)) end
  options = read_options(options)
  local kind = core.kind(fn)
  local self = setmetatable({
    fn = kind and fn or function(...) return followed(fn(...)) end,
    wrapped = kind ~= nil,
    concurrency = options.concurrency or (kind == "cpu" and core.cores()) or 16,
    collector = core.collector(options.ordered ~= false),
    last = 0, held = 0, place = 0,
  }, Map)
  if is_list then
    self.list, self.count = items, #items
  else
    self.iterator = type(items) == "function" and items or function() return items() end
  end
  return self, nil, nil, self
end

return combine
