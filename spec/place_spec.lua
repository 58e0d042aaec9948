-- unsync.place and --place: where a function with a name runs is data; moving it changes nothing but what is shared.
local script = require("spec.support.script")
local unsync = require("unsync")

--- What a script printed that was run with these rules.
local function output(rules, code)
  return script.output(code, {options = rules and {"--place", rules}})
end

-- Prints how calls of `work` run: by the future's own words, and by what the thread and process are.
local where = [[
  local unsync = require "unsync"
  local function here()
    local thread = io.open("/proc/thread-self/stat"):read("n")
    local process = io.open("/proc/self/stat"):read("n")
    return thread, process
  end
  local main, host = here()
  local function print_place(call)
    local future = call()
    local kind = tostring(future):match("future: (%w+)")
    local thread, process = future:await()
    print(kind, process == host and (thread == main and "loop" or "thread") or "process")
  end
]]

describe("--place", function()
  for _, from in ipairs {"io", "thread", "cpu"} do
    local declare = ([[local work = unsync.%s(here, {name = "work"}) print_place(work)]]):format(from)
    it("moves a function from " .. from .. " to io, thread and cpu", function()
      assert.equal("io\tloop\n", output("work=io", where .. declare))
      assert.equal("thread\tthread\n", output("work=thread", where .. declare))
      assert.equal("cpu\tprocess\n", output("work=cpu", where .. declare))
    end)
  end

  it("takes names, prefixes, and all of an executor, the more exact first", function()
    local code = where .. [[
      for _, name in ipairs{"fib", "image.scale", "image.blur", "other"} do
        print_place(unsync.cpu(here, {name = name}))
      end
      print_place(unsync.thread(here, {name = "third"}))
      print_place(unsync.cpu(here))
    ]]
    assert.equal("io\tloop\nthread\tthread\nio\tloop\nthread\tthread\nthread\tthread\ncpu\tprocess\n",
      output("*.cpu=thread,fib=io,image.*=thread,image.blur=io", code))
    assert.equal(("io\tloop\n"):rep(5) .. "cpu\tprocess\n", output("*=io", code))
    assert.equal(("io\tloop\n"):rep(4) .. "thread\tthread\ncpu\tprocess\n", output("*=thread,*.cpu=io", code))
  end)

  it("may be given several times, and the last word counts", function()
    local ran = script.run(where .. [[print_place(unsync.cpu(here, {name = "a"}))]],
      {options = {"--place", "a=io", "--place=a=thread"}})
    assert.equal("thread\tthread\n", ran.out)
  end)

  it("refuses what makes no sense before anything runs", function()
    local cases = {
      ["fib"] = "'fib' is no NAME=WHERE",
      ["fib=gpu"] = "'gpu' is no executor: io, thread and cpu are",
      ["fib="] = "'' is no executor",
      ["=io"] = "'=io' is no NAME=WHERE",
      ["a*b=io"] = "'a*b=io' is no NAME=WHERE, where NAME is a name, a prefix with '*' at its end",
      ["*.gpu=io"] = "'*.gpu=io' is no NAME=WHERE",
      ["a=io,,b=io"] = "'' is no NAME=WHERE",
    }
    for rules, message in pairs(cases) do
      local ran = script.run([[print("ran")]], {options = {"--place", rules}})
      assert.same({1, ""}, {ran.code, ran.out}, rules)
      assert.truthy(ran.err:find("unsync: --place: " .. message, 1, true), ran.err)
    end
    assert.truthy(script.run(nil, {options = {"--place"}}).err:find("'--place' needs NAME=WHERE", 1, true))
  end)

  it("is followed by the states of workers", function()
    script.file("placed_module.lua", [[
      local unsync = require "unsync"
      return {inner = unsync.cpu(function() return 1 end, {name = "inner"})}
    ]])
    local code = ([[
      package.path = %q .. "/?.lua;" .. package.path
      local unsync = require "unsync"
      local function ask() return tostring(require("placed_module").inner()):match("future: (%%w+)") end
      local mine = unsync.cpu(function() return 1 end, {name = "inner"})
      print(unsync.thread(ask)():await(), unsync.cpu(ask)():await(), ask())
      print(unsync.thread(function() return tostring(mine()):match("future: (%%w+)") end)():await())
      unsync.place{inner = "thread"}
      print(unsync.thread(ask)():await(), unsync.cpu(ask)():await(), ask())
      print(unsync.cpu(function() return unsync.thread(ask)():await() end)():await())
    ]]):format(script.path("."))
    assert.equal("io\tio\tio\nio\nthread\tthread\tthread\nthread\n", output("inner=io", code))
  end)
end)

describe("unsync.place", function()
  local function kind(future)
    return tostring(future):match("future: (%w+)")
  end

  it("moves functions that are declared already, and those to come", function()
    local before = unsync.cpu(function() return "done" end, {name = "place.first"})
    assert.equal("cpu", kind(before()))
    unsync.place {["place.first"] = "io", ["place.second"] = "thread"}
    local after = unsync.cpu(function() return "done" end, {name = "place.second"})
    assert.equal("io", kind(before()))
    assert.equal("thread", kind(after()))
    unsync.place {["place.first"] = "cpu"}
    local future = before()
    assert.equal("cpu", kind(future))
    assert.equal("done", future:await())
  end)

  it("leaves alone what has no name of its own", function()
    unsync.place {["*.thread"] = "io"}
    assert.equal("thread", kind(unsync.thread(function() end)()))
    assert.equal("io", kind(unsync.thread(function() end, {name = "place.named"})()))
    unsync.place {["*.thread"] = "thread"}
  end)

  it("copies what goes in and comes out as strictly as before", function()
    local shared = {count = 0}
    local work = unsync.thread(function(given)
      shared.count = shared.count + 1
      given.touched = true
      return given, shared.count
    end, {name = "place.strict"})
    unsync.place {["place.strict"] = "io"}
    local mine = {}
    for _ = 1, 2 do
      local copy, count = work(mine):await()
      assert.are_not.equal(mine, copy)
      assert.is_true(copy.touched)
      assert.is_nil(mine.touched)
      assert.equal(1, count) -- upvalues are as they were at the call
    end
    assert.equal(0, shared.count)
    local ok, err = pcall(work, coroutine.create(print))
    assert.is_false(ok)
    assert.equal("unsendable", err.code)
    assert.equal("argument 1", err.path)
    local bad = unsync.cpu(function() return {file = coroutine.create(print)} end, {name = "place.bad"})
    unsync.place {["place.bad"] = "io"}
    ok, err = pcall(function() return bad():await() end)
    assert.is_false(ok)
    assert.equal("unsendable", err.code)
    assert.equal("result 1.file", err.path)
  end)

  it("lets an io function that stays on io see the caller's own values", function()
    local work = unsync.io(function(given) given.touched = true return given end, {name = "place.own"})
    unsync.place {["place.own"] = "thread"}
    local mine = {}
    assert.are_not.equal(mine, work(mine):await())
    unsync.place {["place.own"] = "io"}
    assert.equal(mine, work(mine):await())
    assert.is_true(mine.touched)
  end)

  it("keeps errors, cancellation, timeouts and limits what they were", function()
    local fails = unsync.cpu(function() error({code = "mine", list = {1, 2}}) end, {name = "place.fails"})
    local sleeps = unsync.thread(function() unsync.sleep(1000) end, {name = "place.sleeps", timeout = 0.01})
    local waits = unsync.cpu(function() unsync.sleep(1000) end, {name = "place.waits", limit = 1})
    for _, executor in ipairs {"io", "thread", "cpu"} do
      unsync.place {["place.*"] = executor, ["place.fails"] = executor}
      local ok, err = pcall(function() fails():await() end)
      assert.is_false(ok)
      assert.same({code = "mine", list = {1, 2}}, err)
      ok, err = pcall(function() sleeps():await() end)
      assert.is_false(ok)
      assert.equal("timeout", err.code)
      local first, second = waits(), waits()
      assert.equal("pending", second:status())
      second:cancel()
      first:cancel()
      ok, err = pcall(first.await, first)
      assert.is_false(ok)
      assert.equal("cancelled", err.code)
      assert.is_false((pcall(second.await, second)))
    end
  end)

  it("moves a function that calls itself, and follows its copies", function()
    local fib
    fib = unsync.cpu(function(n)
      if n < 2 then return n end
      local a, b = fib(n - 1), fib(n - 2)
      return a:await() + b:await()
    end, {name = "place.fib"})
    unsync.place {["place.fib"] = "io"}
    assert.equal(21, fib(8):await())
    unsync.place {["place.fib"] = "thread"}
    assert.equal(5, fib(5):await())
  end)

  it("moves native tasks between thread and cpu, and says why they cannot be on io", function()
    local plugin = script.build .. "/spec/plugins/echo.so"
    local tasks = unsync.plugin(plugin)
    local task = "echo.all"
    assert.truthy(tasks)
    local echo = unsync.thread(task, {name = "place.native"})
    unsync.place {["place.native"] = "cpu"}
    local future = echo("x")
    assert.equal("cpu", kind(future))
    assert.equal("x", (future:await()))
    local ok, err = pcall(unsync.place, {["place.native"] = "io", ["place.strict"] = "cpu"})
    assert.is_false(ok)
    local why = "'place.native' cannot be placed on io: it is the native task 'echo.all'"
    assert.truthy(tostring(err):find(why, 1, true), err)
    assert.equal("cpu", kind(echo("x"))) -- and nothing has changed
    unsync.place {["place.later"] = "io"}
    ok, err = pcall(unsync.thread, task, {name = "place.later"})
    assert.is_false(ok)
    assert.truthy(tostring(err):find("cannot be placed on io", 1, true), err)
  end)

  it("refuses what makes no sense, and changes nothing then", function()
    local work = unsync.thread(function() end, {name = "stay.same"})
    for _, case in ipairs {
      {{["stay.same"] = "gpu"}, "bad executor for 'stay.same'"},
      {{["stay.same"] = "io", ["a*b"] = "io"}, "bad pattern 'a*b'"},
      {{["stay.same"] = "io", [1] = "io"}, "bad pattern '1'"},
      {{["stay.same"] = 3}, "bad executor for 'stay.same' ('io', 'thread' or 'cpu' expected, got 3)"},
      {{[""] = "io"}, "bad pattern ''"},
      {{["a\nb"] = "io"}, "bad pattern"},
      {"x=io", "table expected"},
    } do
      local ok, err = pcall(unsync.place, case[1])
      assert.is_false(ok)
      assert.truthy(tostring(err):find(case[2], 1, true), err)
    end
    assert.equal("thread", kind(work()))
  end)
end)
