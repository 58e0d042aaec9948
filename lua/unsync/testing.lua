--- testing: what a spec needs to make concurrency repeatable: a clock that it moves, an order that depends on a seed.
local core = require("unsync.core.testing")
local calls = require("unsync.calls")
local is_future, promise = require("unsync.core").is_future, require("unsync.core").promise

---@class unsync.testing
local testing = {}

local function fail(level, name, index, expected, value)
  error(("bad argument #%d to '%s' (%s expected, got %s)"):format(index, name, expected, type(value)), level + 1)
end

-- ---- the clock ----

---@class unsync.TestClock
local Clock = {}
local clock_meta = { __index = Clock, __name = "unsync.TestClock" }

---@class unsync.TestClockOptions
---@field autojump? boolean  when every task waits and nothing is in flight elsewhere, jump to the next deadline

--- Stops the time of this state: sleeps, timeouts, deadlines, ticks and rates go by the clock until it is closed, and
--- that moves only when it is told to. Then time runs on from where it stands. Only one at a time.
---@param options? unsync.TestClockOptions
---@return unsync.TestClock clock  to be closed: `local clock <close> = testing.clock()`
function testing.clock(options)
  if options ~= nil and type(options) ~= "table" then fail(2, "clock", 1, "table", options) end
  for name in pairs(options or {}) do
    if name ~= "autojump" then error(("bad argument #1 to 'clock' (unknown option '%s')"):format(tostring(name)), 2) end
  end
  local ok, number = pcall(core.stop, options and options.autojump)
  if not ok then error(number, 2) end
  return setmetatable({ number = number }, clock_meta)
end

local function check(self, name)
  if getmetatable(self) ~= clock_meta then fail(3, name, 1, "unsync.TestClock", self) end
  if self.closed then error("this test clock has been closed", 3) end
end

--- Lets `seconds` pass: deadline by deadline, and after each all that became ready runs until it waits again. Waits
--- until they have passed.
---@param seconds number
function Clock:advance(seconds)
  check(self, "advance")
  if type(seconds) ~= "number" then fail(2, "advance", 1, "number", seconds) end
  if seconds ~= seconds or seconds < 0 then error("bad argument #1 to 'advance' (seconds must be 0 or more)", 2) end
  core.advance(seconds)
end

--- Seconds that have passed on the clock.
---@return number
function Clock:now()
  check(self, "now")
  return core.elapsed()
end

--- Whether it jumps of its own accord; with a value, from now on.
---@param on? boolean
---@return boolean before
function Clock:autojump(on)
  check(self, "autojump")
  return core.autojump(on)
end

--- Time runs on by itself, from where it stands.
function Clock:close()
  if getmetatable(self) ~= clock_meta then fail(2, "close", 1, "unsync.TestClock", self) end
  if self.closed then return end
  self.closed = true
  core.run(self.number)
end

clock_meta.__close = Clock.close
clock_meta.__gc = Clock.close

-- ---- the order of ready tasks ----

---@class unsync.Shuffle
local Shuffle = {}
local shuffle_meta = { __index = Shuffle, __name = "unsync.Shuffle" }

--- From here on tasks that are ready at the same time run in an order that depends on `seed`. Nil: as they come.
---@param seed? integer
---@return unsync.Shuffle  whose `close`, or the end of its block, ends it
function testing.shuffle(seed)
  if seed ~= nil and math.type(seed) ~= "integer" then fail(2, "shuffle", 1, "integer", seed) end
  core.shuffle(seed)
  return setmetatable({}, shuffle_meta)
end

--- Tasks run as they become ready again.
function Shuffle:close()
  if self.closed then return end
  self.closed = true
  core.shuffle(nil)
end

shuffle_meta.__close = Shuffle.close

-- ---- calls of thread and cpu functions ----

---@class unsync.Inline
local Inline = {}
local inline_meta = { __index = Inline, __name = "unsync.Inline" }

---@class unsync.InlineOptions
---@field thread? boolean  default: false
---@field cpu? boolean  default: false

--- Calls of thread functions, of cpu functions, or of both, run on the caller's own loop, so that they go by the test
--- clock and in the order that a seed gives. What they are given and return is copied as strictly as on the way to a
--- worker; what they see of globals and modules is the caller's. Native tasks still run where they did.
---@param options? unsync.InlineOptions  default: both
---@return unsync.Inline  whose `close`, or the end of its block, ends it
function testing.inline(options)
  if options == nil then options = { thread = true, cpu = true } end
  if type(options) ~= "table" then fail(2, "inline", 1, "table", options) end
  for name, value in pairs(options) do
    if name ~= "thread" and name ~= "cpu" then
      error(("bad argument #1 to 'inline' (unknown option '%s')"):format(tostring(name)), 2)
    elseif type(value) ~= "boolean" then
      error(("bad argument #1 to 'inline' (bad option '%s': %s)"):format(name, tostring(value)), 2)
    end
  end
  local before = { thread = core.inline("thread", options.thread), cpu = core.inline("cpu", options.cpu) }
  return setmetatable({ before = before }, inline_meta)
end

--- Calls run again where they ran before.
function Inline:close()
  if self.closed then return end
  self.closed = true
  core.inline("thread", self.before.thread)
  core.inline("cpu", self.before.cpu)
end

inline_meta.__close = Inline.close

-- ---- making tasks meet ----

---@class unsync.Gate
local Gate = {}
--- The metatable of gates, held here so that they keep it wherever they are sent.
testing.Gate = { __index = Gate, __name = "unsync.Gate" }

--- A gate that is shut: whoever comes to it waits until it is opened. It may be sent to threads and processes.
---@return unsync.Gate
function testing.gate()
  return setmetatable({ opened = promise(), met = promise() }, testing.Gate)
end

--- Waits until the gate is open; returns what it was opened with.
function Gate:wait()
  self.met:resolve()
  return self.opened:await()
end

--- Opens it, for good.
---@param ... any  what `wait` returns
---@return boolean  whether it was shut
function Gate:open(...)
  return self.opened:resolve(...)
end

--- Waits until somebody has come to the gate.
function Gate:reached()
  self.met:await()
end

---@return boolean
function Gate:is_open()
  return self.opened:done()
end

---@class unsync.Sequencer
local Sequencer = { __name = "unsync.Sequencer" }

--- A row of steps, numbered from 0, each for one task to take: `seq(n)` waits until all steps before n have been
--- done, and the step is done with that; with a function, when the function has ended.
---@return unsync.Sequencer
function testing.sequencer()
  return setmetatable({ taken = {}, done = {}, next = 0, waiting = {} }, Sequencer)
end

local function step_done(self, n)
  self.done[n] = true
  while self.done[self.next] do
    self.next = self.next + 1
    local waiting = self.waiting[self.next]
    if waiting then waiting:resolve() end
  end
end

local function finish_step(self, n, ok, ...)
  step_done(self, n)
  if not ok then error((...), 0) end
  return ...
end

--- Takes step `n`.
---@param n integer
---@param fn? function  the step itself; what it returns is returned
---@param ... any  its arguments
function Sequencer:__call(n, fn, ...)
  if math.type(n) ~= "integer" or n < 0 then
    error(("bad argument #1 to a sequencer (a step from 0 expected, got %s)"):format(tostring(n)), 2)
  end
  if self.taken[n] then error(("step %d has been taken already"):format(n), 2) end
  self.taken[n] = true
  if n > self.next then
    local turn = promise()
    self.waiting[n] = turn
    local ok, err = pcall(turn.await, turn)
    if not ok then
      self.taken[n], self.waiting[n] = nil, nil -- cancelled: it is another's to take
      error(err, 0)
    end
  end
  if fn == nil then return step_done(self, n) end
  return finish_step(self, n, pcall(fn, ...))
end

-- ---- what is meant to stay ----

--- Under `unsync test`: what is alive now (tasks, calls, handles, descriptors) is meant to outlive the test, and is no
--- leak. Elsewhere it does nothing.
function testing.keep()
  if testing.on_keep then testing.on_keep() end
end

-- ---- errors ----

local function code_of(err)
  local ok, code = pcall(function() return err.code end)
  return ok and code or nil
end

--- Calls `fn`, which must fail with that code, and returns the error.
---@param code string?  nil: with any error
---@param fn function
---@param ... any  its arguments; a future it returns is awaited
---@return any err
function testing.fails(code, fn, ...)
  if code ~= nil and type(code) ~= "string" then fail(2, "fails", 1, "string", code) end
  if not calls.callable(fn) then fail(2, "fails", 2, "function", fn) end
  local function call(...)
    local future = fn(...)
    if is_future(future) then return future:await() end
    return future
  end
  local ok, err = pcall(call, ...)
  if ok then error(("an error%s expected, but there was none"):format(code and " '" .. code .. "'" or ""), 2) end
  if code ~= nil and code_of(err) ~= code then
    error(("an error '%s' expected, but it was: %s"):format(code, tostring(err)), 2)
  end
  return err
end

return testing
