--- soak [CALLS]: so many calls (a million) on every executor, with values of all kinds. Resident memory, descriptors,
--- threads and processes must be the same from the first tenth on: tells them after each tenth, of the host and of its
--- worker processes, and ends with 1 where one has grown. `make soak`.
local unsync = require("unsync")
local script = require("spec.support.script")

local calls = math.tointeger(tonumber(arg[1] or 1000000))
local tenth, batch = calls // 10, 100

local long = ("long"):rep(2000)
local up = {1, {2}}
local shared = setmetatable({}, {__index = table})

--- Values of every kind that crosses; `n` picks one.
local function value(n)
  local kind = n % 12
  if kind == 0 then return nil
  elseif kind == 1 then return n % 2 == 0
  elseif kind == 2 then return n
  elseif kind == 3 then return n / 3
  elseif kind == 4 then return "short " .. n % 100
  elseif kind == 5 then return long
  elseif kind == 6 then return {n, n + 1, x = {y = n}}
  elseif kind == 7 then local t = {} t.self = t return t
  elseif kind == 8 then return function() return up[1] + n end
  elseif kind == 9 then return print
  elseif kind == 10 then return shared
  else return unsync.resolved(n) end
end

local body = function(...) return ... end
local failing = function() error({code = "wanted"}) end
local ways = {
  io = {call = unsync.io(body), fail = unsync.io(failing)},
  thread = {call = unsync.thread(body), fail = unsync.thread(failing)},
  cpu = {call = unsync.cpu(body), fail = unsync.cpu(failing)},
  ["thread native"] = {call = unsync.thread("echo.all"), fail = unsync.thread("echo.fail")},
  ["cpu native"] = {call = unsync.cpu("echo.all"), fail = unsync.cpu("echo.fail")},
}
local settle = unsync.thread(function(promise) promise:resolve(1) end)

local own_pid = math.tointeger(require("luv").os_getpid())

local function children()
  local found = {}
  local pipe <close> = assert(io.popen(("grep -ls '^PPid:.%d$' /proc/[0-9]*/status | xargs grep -ls '^Name:.unsync$'")
    :format(own_pid)))
  for path in pipe:lines() do found[#found + 1] = path:match("%d+") end
  return found
end

local function measure()
  collectgarbage()
  collectgarbage()
  local list = children()
  local inside = 0
  for _, pid in ipairs(list) do inside = inside + (script.resident_kib(pid) or 0) end
  return {resident_kib = script.resident_kib(), workers_kib = inside, descriptors = script.descriptors(),
    threads = script.threads(), processes = #list}
end

local function rounds(way, from, to)
  for first = from, to, batch do
    local list = {}
    for n = first, math.min(first + batch - 1, to) do
      if n % 97 == 0 then list[#list + 1] = way.fail(n)
      elseif n % 101 == 0 then
        local cancelled = way.call(n)
        cancelled:cancel()
        list[#list + 1] = cancelled
      elseif n % 103 == 0 then
        local promise = unsync.promise()
        settle(promise)
        list[#list + 1] = promise
      else list[#list + 1] = way.call(value(way.native and n % 12 % 8 or n), n % 1000) end
    end
    for _, future in ipairs(list) do pcall(future.await, future) end
  end
end

ways["thread native"].native, ways["cpu native"].native = true, true -- without functions and objects
local bad = false
for _, name in ipairs({"io", "thread", "thread native", "cpu", "cpu native"}) do
  local first, last
  for part = 1, 10 do
    rounds(ways[name], (part - 1) * tenth + 1, part * tenth)
    last = measure()
    first = first or last
    print(("%-14s %9d calls: %7d KiB, workers %7d KiB, %4d descriptors, %3d threads, %2d processes"):format(name,
      part * tenth, last.resident_kib, last.workers_kib, last.descriptors, last.threads, last.processes))
  end
  -- What the allocator keeps for the next time moves by some MiB; what leaks a hundred bytes a call would be 90 MiB.
  local limit = math.max(6000, first.resident_kib // 5)
  if last.resident_kib - first.resident_kib > limit or last.workers_kib - first.workers_kib > limit * 2 or
    last.descriptors - first.descriptors > 8 * math.max(0, last.threads - first.threads) + 4 or
    last.threads - first.threads > 4 or last.processes - first.processes > 1 then
    print(name .. ": it grows")
    bad = true
  end
end
os.exit(bad and 1 or 0, true)
