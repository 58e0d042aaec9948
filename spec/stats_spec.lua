-- --stats: counts and latencies by function, at the end.
local script = require("spec.support.script")

local function run(code, options)
  options = options or {}
  options.options = {"--stats"}
  return script.run(code, options)
end

--- The columns of the line that begins with this name and executor, as words: "1.25 ms" is two.
local function line(ran, name, kind)
  for text in ran.err:gmatch("[^\n]+") do
    if text:sub(1, #name) == name and text:find(" " .. kind .. " ", 1, true) then
      local words = {}
      for word in text:sub(#name + 1):gmatch("%S+") do words[#words + 1] = word end
      return words
    end
  end
  error("no line for " .. name .. " in:\n" .. ran.err)
end

--- Calls, failed, cancelled.
local function counts(ran, name, kind)
  local words = line(ran, name, kind)
  return {tonumber(words[2]), tonumber(words[3]), tonumber(words[4])}
end

local factors = {ns = 1e-9, us = 1e-6, ms = 1e-3, s = 1}

--- Median, 95th percentile and maximum of the queue wait, then of the run time, in seconds; false: not known.
local function times(ran, name, kind)
  local words, found, at = line(ran, name, kind), {}, 5
  while words[at] do
    if words[at] == "-" then
      found[#found + 1] = false
      at = at + 1
    else
      found[#found + 1] = tonumber(words[at]) * factors[words[at + 1]]
      at = at + 2
    end
  end
  return found
end

describe("--stats", function()
  it("counts calls, failures and cancellations by function, for each executor", function()
    local ran = run([[
      local unsync = require "unsync"
      local function work(how)
        if how == "fail" then error("no") elseif how == "wait" then unsync.sleep(60) end
      end
      for _, kind in ipairs{"io", "thread", "cpu"} do
        local call = unsync[kind](work, {name = kind .. "-work"})
        for i = 1, 5 do call():await() end
        for i = 1, 2 do pcall(function() call("fail"):await() end) end
        local f = call("wait")
        unsync.sleep(0.01)
        f:cancel()
        pcall(f.await, f)
      end
      print("out")
    ]])
    assert.same({0, "out\n"}, {ran.code, ran.out})
    for _, kind in ipairs {"io", "thread", "cpu"} do assert.same({8, 2, 1}, counts(ran, kind .. "-work", kind)) end
    assert.truthy(ran.err:find("workers started: %d+ threads?, %d+ process"))
  end)

  it("tells time in line from time of work", function()
    local ran = run([[
      local unsync = require "unsync"
      local nap = unsync.thread(function() unsync.sleep(0.05) end, {name = "nap", limit = 1})
      local calls = {}
      for i = 1, 4 do calls[i] = nap() end
      for _, call in ipairs(calls) do call:await() end
    ]])
    local found = times(ran, "nap", "thread")
    assert.equal(6, #found)
    assert.is_true(found[3] >= 0.14, ran.err) -- the last has waited for three
    assert.is_true(found[4] >= 0.046, ran.err) -- the histogram's buckets are 12 % wide
    assert.is_true(found[4] <= found[5] and found[5] <= found[6])
  end)

  it("counts one that was cancelled in line, and never ran", function()
    local ran = run([[
      local unsync = require "unsync"
      local one = unsync.io(function() unsync.sleep(60) end, {name = "one", limit = 1})
      local a, b = one(), one()
      b:cancel() pcall(b.await, b)
      a:cancel() pcall(a.await, a)
    ]])
    assert.same({2, 0, 2}, counts(ran, "one", "io"))
  end)

  it("counts the calls that worker processes make, and the processes that were replaced", function()
    local ran = run([[
      local unsync = require "unsync"
      local inner = unsync.cpu(function() return 1 end, {name = "inner"})
      local outer = unsync.cpu(function() return inner():await() end, {name = "outer"})
      local crash = unsync.cpu(function() os.exit(3) end, {name = "crash"})
      for i = 1, 3 do outer():await() end
      pcall(function() crash():await() end)
    ]])
    assert.same({3, 0, 0}, counts(ran, "inner", "cpu"))
    assert.same({3, 0, 0}, counts(ran, "outer", "cpu"))
    assert.same({1, 1, 0}, counts(ran, "crash", "cpu"))
  end)

  it("adds the functions of an executor up", function()
    local ran = run([[
      local unsync = require "unsync"
      local a = unsync.thread(function() end, {name = "a"})
      local b = unsync.thread(function() end, {name = "b"})
      for i = 1, 3 do a():await() b():await() end
    ]])
    assert.same({6, 0, 0}, counts(ran, "(all)", "thread"))
  end)

  it("counts the bytes that cross, long strings included", function()
    local ran = run([[
      local unsync = require "unsync"
      unsync.thread(function(s) return s .. s end)(("x"):rep(1024 * 1024)):await()
    ]])
    local sent, returned = ran.err:match("crossed: ([%d.]+) MiB to them, ([%d.]+) MiB back")
    assert.same({1, 2}, {math.floor(tonumber(sent)), math.floor(tonumber(returned))})
  end)

  it("is printed when the script fails or ends by os.exit, too", function()
    local ran = run([[require("unsync").spawn(function() end) error("no")]])
    assert.equal(1, ran.code)
    assert.truthy(ran.err:find("unsync: statistics", 1, true))
    ran = run([[os.exit(5)]])
    assert.equal(5, ran.code)
    assert.truthy(ran.err:find("unsync: statistics", 1, true))
  end)

  it("takes a fixed amount of memory, however many names there are", function()
    local ran = run([[
      local unsync = require "unsync"
      for i = 1, 1500 do unsync.io(function() end, {name = "f" .. i})():await() end
      unsync.io(function() end, {name = "bad\n\27[31mname"})()
    ]])
    assert.equal(0, ran.code)
    assert.same({501, 0, 0}, counts(ran, "(others)", "io"))
    assert.same({1501, 0, 0}, counts(ran, "(all)", "io"))
    assert.is_nil(ran.err:find("\27", 1, true))
  end)
end)
