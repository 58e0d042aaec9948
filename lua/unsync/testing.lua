--- testing: what a spec needs to make concurrency repeatable: a clock that it moves, an order that depends on a seed.
local core = require("unsync.core.testing")
local is_future = require("unsync.core").is_future

local testing = {}

local function fail(level, name, index, expected, value)
  error(("bad argument #%d to '%s' (%s expected, got %s)"):format(index, name, expected, type(value)), level + 1)
end

-- ---- the clock ----

---@class unsync.TestClock
local Clock = {}
local last_clock = 0 -- the number of the one that stopped the time
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
  local ok, err = pcall(core.stop, options and options.autojump)
  if not ok then error(err, 2) end
  last_clock = last_clock + 1
  return setmetatable({ number = last_clock }, clock_meta)
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
  if self.number == last_clock then core.run() end
end

clock_meta.__close = Clock.close
clock_meta.__gc = Clock.close

-- ---- the order of ready tasks ----

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
  if type(fn) ~= "function" and not (getmetatable(fn) or {}).__call then fail(2, "fails", 2, "function", fn) end
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
