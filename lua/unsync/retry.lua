--- retry: a call again and again, until it succeeds or that is enough.
local core = require("unsync.core")
local calls = require("unsync.calls")
local sleep = core.sleep

local retry = {}

---@class unsync.RetryOptions
---@field attempts? integer  calls at most; default: 3
---@field backoff? number  seconds before the second call; each further wait is twice as long; default: 0.1
---@field jitter? number  0 to 1: the part of each wait left to chance, to spread those who failed together; default: 0
---@field on? string[]|fun(err: any, attempt: integer): boolean  the errors to try again after

local function check(options)
  if options == nil then return {} end
  local function bad(problem) error("bad argument #2 to 'retry' (" .. problem .. ")", 4) end
  if type(options) ~= "table" then bad("table expected, got " .. type(options)) end
  for name, value in pairs(options) do
    local fine
    if name == "attempts" then
      fine = math.type(value) == "integer" and value >= 1
    elseif name == "backoff" then
      fine = type(value) == "number" and value >= 0
    elseif name == "jitter" then
      fine = type(value) == "number" and value >= 0 and value <= 1
    elseif name == "on" then
      fine = type(value) == "table" or type(value) == "function"
    else
      bad(("unknown option '%s'"):format(tostring(name)))
    end
    if not fine then bad(("bad option '%s': %s"):format(name, tostring(value))) end
  end
  return options
end

local function code_of(err)
  local ok, code = pcall(function() return err.code end)
  return ok and code or nil
end

local function wanted(on, err, attempt)
  if on == nil then return true end
  if type(on) == "function" then return on(err, attempt) end
  local code = code_of(err)
  for _, one in ipairs(on) do
    if code ~= nil and one == code then return true end
  end
  return false
end

--- Calls `fn` until it succeeds, and returns its results; or raises the error of the last call, unchanged. A
--- cancellation is never tried again.
---@param fn fun(attempt: integer): any  any function, a wrapped one included; a future it returns is awaited
---@param options? unsync.RetryOptions
function retry.retry(fn, options)
  if not calls.callable(fn) then
    error(("bad argument #1 to 'retry' (function expected, got %s)"):format(type(fn)), 2)
  end
  options = check(options)
  local attempts, wait, jitter = options.attempts or 3, options.backoff or 0.1, options.jitter or 0
  local attempt = 0
  local function call() return calls.followed(fn(attempt)) end
  local function again(ok, ...)
    if ok then return true, ... end
    local err = ...
    local enough = attempt >= attempts or code_of(err) == "cancelled"
    if enough or not wanted(options.on, err, attempt) then error(err, 0) end
    return false
  end
  while true do
    attempt = attempt + 1
    local outcome = table.pack(again(pcall(call)))
    if outcome[1] then return table.unpack(outcome, 2, outcome.n) end
    sleep(wait * (1 - jitter * math.random()))
    wait = wait * 2
  end
end

return retry
