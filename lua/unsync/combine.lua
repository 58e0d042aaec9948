--- combine: many futures, one after the other: as_completed and map. What makes one future of many is in C.
local core = require("unsync.core")
local spawn, drop, is_future = core.spawn, core.drop, core.is_future

local combine = {}

local function followed(...)
  if select("#", ...) == 1 and is_future((...)) then return (...):await() end
  return ...
end

local function callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__call ~= nil
end

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
  for i = 1, #list do collector:add(list[i]) end
  return function() return collector:next() end
end

---@class unsync.MapOptions
---@field concurrency? integer  calls that run or whose results lie there; default: cores for cpu functions, else 16
---@field ordered? boolean  whether results come in the order of the items; default: true

--- What a map is doing: the futures of the items `first` to `last` by their numbers, and the numbers by future. One
--- that came out of the collector, settled, before its turn stands in `settled_early`.
---@class unsync.Map
local Map = {}
Map.__index = Map

--- Starts the call for an item. One that cannot start is a future that has failed: it has its turn like any other.
local function start(self, ...)
  local ok, future = pcall(self.call, self.fn, ...)
  self:enter(ok and future or core.rejected(future))
end

function Map:enter(future)
  self.last = self.last + 1
  self.held = self.held + 1
  self.futures[self.last], self.numbers[future] = future, self.last
  self.collector:add(future)
end

--- What the iterator, which ran as a task since it may wait, came to.
local function take(self, ok, ...)
  local future = self.pulling
  self.pulling = nil
  if not ok then
    self.exhausted = true
    self:enter(future) -- its error is the last item
  elseif (...) == nil then
    self.exhausted = true
  else
    start(self, ...)
  end
end

--- Starts calls until there are as many as there may be.
function Map:fill()
  while not self.exhausted and not self.pulling and self.held < self.concurrency do
    if self.list then
      self.place = self.place + 1
      if self.place > self.count then
        self.exhausted = true
      else
        start(self, self.list[self.place])
      end
    else
      self.pulling = spawn(self.iterator)
      if self.pulling:done() then
        take(self, pcall(self.pulling.await, self.pulling))
      else
        self.collector:add(self.pulling)
      end
    end
  end
end

--- The next future whose turn has come, settled, and the number of its item; nil at the end.
function Map:settled()
  while true do
    self:fill()
    local head = self.ordered and self.futures[self.first]
    if head and self.settled_early[head] then
      self.settled_early[head] = nil
      return head, self.first
    end
    if self.held == 0 and not self.pulling then return nil end
    local future = self.collector:next()
    if future == self.pulling then
      take(self, pcall(future.await, future))
    elseif self.ordered then
      self.settled_early[future] = true
    else
      return future, self.numbers[future]
    end
  end
end

--- Nobody wants the rest: what runs is cancelled.
function Map:leave()
  self.exhausted = true
  local pulling, futures = self.pulling, self.futures
  self.pulling, self.futures, self.numbers, self.settled_early, self.held = nil, {}, {}, {}, 0
  self.collector = core.collector()
  if pulling then drop(pulling) end
  for _, future in pairs(futures) do drop(future) end
end

local function first_result(number, ...)
  local first = ...
  if first == nil then
    error(("map: the call for item %d returned nil, which would end the loop"):format(number), 0)
  end
  return first, number
end

local function next_result(self)
  local future, number = self:settled()
  if not future then return nil end
  self.held = self.held - 1
  self.futures[number], self.numbers[future] = nil, nil
  if self.ordered then self.first = self.first + 1 end
  if not future:error() then self:fill() end
  return first_result(number, future:await())
end

Map.__close = Map.leave
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
    call = kind and function(wrapped, ...) return wrapped(...) end or spawn,
    concurrency = options.concurrency or (kind == "cpu" and core.cores()) or 16,
    ordered = options.ordered ~= false,
    collector = core.collector(),
    futures = {}, numbers = {}, settled_early = {}, first = 1, last = 0, held = 0,
    place = 0,
  }, Map)
  if is_list then
    self.list, self.count = items, #items
  else
    self.iterator = type(items) == "function" and items or function() return items() end
  end
  return self, nil, nil, self
end

return combine
