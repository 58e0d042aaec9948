--- Runs a program, watches the calls of some functions in it, and shows when they ran and where: on a terminal as bars
--- that grow while it runs, elsewhere as a table.
local uv = require("luv")
local unsync = require("unsync")

local timeline = {}

local on_terminal = uv.guess_handle(1) == "tty"
local columns = 40
local places = { io = "the loop", thread = "a thread", cpu = "a process" }
local colours = { io = "32", thread = "36", cpu = "33" }
local eighths = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }

local function paint(kind, text)
  return on_terminal and not os.getenv("NO_COLOR") and ("\27[%sm%s\27[0m"):format(colours[kind], text) or text
end

--- A bar from `first` to `last`, of which the part before `started` was spent in line.
local function bar(first, started, last, per_column)
  local from, run = (first / per_column + 0.5) // 1 | 0, (started / per_column + 0.5) // 1 | 0
  local eights = math.max(1, (last / per_column * 8 + 0.5) // 1 - run * 8 | 0)
  return (" "):rep(from) .. ("·"):rep(run - from), ("█"):rep(eights // 8) .. (eighths[eights % 8] or "")
end

local Call = {}
Call.__index = Call

--- Has it started? Whoever was never seen to wait in line started when it was called.
function Call:look(now)
  if self.future:status() == "pending" then self.waits = true else self.started = self.waits and now or self.called end
end

local Run = {}
Run.__index = Run

function Run:line(call, now)
  local last = call.ended or now
  local text = ("  %-9s in %-10s"):format(call.name, places[call.kind])
  if on_terminal then
    local before, during = bar(call.called, call.started or last, last, now / columns)
    local used = utf8.len(before .. during)
    text = text .. before .. paint(call.kind, during) .. (" "):rep(columns - used)
  end
  return ("%s %5.2f – %5.2f s"):format(text, call.called, last)
end

function Run:draw(now)
  local lines = {}
  for i, call in ipairs(self.calls) do lines[i] = self:line(call, now) .. "\27[K\n" end
  io.write(self.drawn > 0 and ("\27[%dA"):format(self.drawn) or "", table.concat(lines))
  io.flush()
  self.drawn = #lines
end

--- Looks now and then at who has started; and draws.
function Run:watch()
  while not self.seconds do
    local now = unsync.now() - self.start
    for _, call in ipairs(self.calls) do
      if not call.started and call.future then call:look(now) end
    end
    if on_terminal then self:draw(now) end
    unsync.sleep(0.02)
  end
end

--- `fn`, with its calls put down; where they go one by one, each of them ends before it returns.
function Run:watched(name, fn, serially)
  return function(...)
    local call = setmetatable({ name = name, called = unsync.now() - self.start }, Call)
    table.insert(self.calls, call)
    local future = fn(...)
    call.future, call.kind = future, tostring(future):match("^future: (%a+)")
    call:look(call.called)
    local ended = unsync.spawn(function()
      pcall(future.await, future)
      call.ended = unsync.now() - self.start
    end)
    if serially then ended:await() end
    return future
  end
end

--- The functions by name, and how long from the first call to the last end: who took longest, but for `except`.
---@return string name, number seconds
function Run:longest_lane(except)
  local first, last, longest = {}, {}, nil
  for _, call in ipairs(self.calls) do
    first[call.name] = math.min(first[call.name] or call.called, call.called)
    last[call.name] = math.max(last[call.name] or 0, call.ended)
  end
  for name in pairs(first) do
    local took = last[name] - first[name]
    if name ~= except and (not longest or took > last[longest] - first[longest]) then longest = name end
  end
  return longest, last[longest] - first[longest]
end

--- Runs `program`, which calls the functions in the table `work`.
---@return {result: any, seconds: number}
function timeline.run(title, work, program, options)
  local self = setmetatable({ calls = {}, drawn = 0, start = unsync.now() }, Run)
  local functions = {}
  for name, fn in pairs(work) do functions[name] = fn end
  for name, fn in pairs(functions) do work[name] = self:watched(name, fn, options and options.serially) end
  print(title)
  local watcher = unsync.spawn(self.watch, self)
  self.result = program()
  self.seconds = unsync.now() - self.start
  watcher:await()
  for name, fn in pairs(functions) do work[name] = fn end
  if on_terminal then
    self:draw(self.seconds)
  else
    for _, call in ipairs(self.calls) do print(self:line(call, self.seconds)) end
  end
  print()
  return self
end

--- Both runs, side by side.
function timeline.compare(first_name, first, second_name, second)
  for _, one in ipairs({ { first_name, first }, { second_name, second } }) do
    local _, text = bar(0, 0, one[2].seconds, first.seconds / columns)
    print(("%-22s%5.2f s%s"):format(one[1], one[2].seconds, on_terminal and "  " .. paint("io", text) or ""))
  end
end

return timeline
