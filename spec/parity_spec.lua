--- Every promise of Python's unsync, ticked off: the sections of its README, then the cases of its test suite, under
--- their names there, for every kind of function that there is here.
---
--- Where the two differ: `then` is and_then (a keyword here), and gets the results, not the future; `result()` never
--- raises for a future that is not done yet, since any function may wait; a loop is never seen, so none can be brought.
local unsync = require("unsync")
local uv = require("luv")
local http = require("unsync.http")
local http_server = require("spec.support.http_server")

local kinds = { "io", "thread", "cpu" }
local slowness = tonumber(os.getenv("UNSYNC_SLOWNESS")) or 1

--- For every kind: `it(name, fn)`, with the declaring function.
local function each_kind(name, fn)
  for _, kind in ipairs(kinds) do
    it(name .. ": " .. kind, function() fn(unsync[kind], kind) end)
  end
end

--- Work that blocks its thread for that long, as the suite's own does.
local function block(seconds) require("luv").sleep(math.floor(seconds * 1000)) end

describe("README: quick overview", function()
  it("an io function runs in the ambient loop, which nobody makes or passes", function()
    local task = unsync.io(function()
      unsync.yield()
      return "ran"
    end)
    assert.equal("ran", task():result())
  end)

  it("a thread function may use what blocks", function()
    local server = http_server.spawn()
    local download = unsync.thread(function(url) return (require("socket.http").request(url)) end)
    assert.equal("xxxxx", download(server.url .. "/?size=5"):result())
    server.close()
  end)

  it("a cpu function runs in a process of its own", function()
    local pid = unsync.cpu(function() return require("luv").os_getpid() end)
    assert.are_not.equal(uv.os_getpid(), pid():result())
  end)

  it("a thread function runs in another thread of this process", function()
    local where = unsync.thread(function()
      local thread = require("luv")
      return thread.os_getpid(), tostring(thread.thread_self())
    end)
    local pid, thread = where():result()
    assert.equal(uv.os_getpid(), pid)
    assert.are_not.equal(tostring(uv.thread_self()), thread)
  end)

  each_kind("every call returns the one kind of future", function(declare)
    local future = declare(function() return 1 end)()
    assert.is_true(unsync.is_future(future))
    assert.equal(1, future:await())
  end)

  it("setting a result is safe from any thread", function()
    local promises, settle = {}, unsync.thread(function(promise, value) return promise:resolve(value) end)
    local settled = {}
    for i = 1, 20 do
      promises[i] = unsync.promise()
      settled[i] = settle(promises[i], i)
    end
    for i = 1, 20 do
      assert.equal(i, promises[i]:await())
      assert.is_true(settled[i]:await())
    end
  end)

  it("result() blocks nothing: the loop goes on", function()
    local gate, ticked = unsync.promise(), false
    unsync.spawn(function()
      unsync.yield()
      ticked = true
      gate:resolve("open")
    end)
    assert.equal("open", gate:result())
    assert.is_true(ticked)
  end)
end)

describe("README: examples", function()
  it("simple sleep: two at once take the time of one", function()
    local nap = unsync.io(function()
      unsync.sleep(0.2)
      return "I like io functions"
    end)
    local start = unsync.now()
    local first, second = nap(), nap()
    assert.equal("I like io functionsI like io functions", first:result() .. second:result())
    local took = unsync.now() - start
    assert.is_true(took >= 0.2 and took < 0.2 + 0.15 * slowness, took)
  end)

  it("multi-threading an IO-bound function: ten at once #plain", function()
    local server = http_server.spawn()
    local download = unsync.thread(function(url) return (require("socket.http").request(url)) end)
    local start, tasks = unsync.now(), {}
    for i = 1, 10 do tasks[i] = download(server.url .. "/?delay=0.2&size=3") end
    for i = 1, 10 do assert.equal("xxx", tasks[i]:result()) end
    assert.is_true(unsync.now() - start < 1, "ten times 0.2 s")
    server.close()
  end)

  it("continuations: initiate(3), then process", function()
    local initiate = unsync.io(function(request)
      unsync.yield()
      return request + 1
    end)
    local process = unsync.io(function(value)
      unsync.yield()
      return value * 2
    end)
    assert.equal(8, initiate(3):and_then(process):result())
  end)

  it("continuations are regular functions, or functions of any kind", function()
    for _, first in ipairs(kinds) do
      for _, second in ipairs({ "regular", "io", "thread", "cpu" }) do
        local initiate = unsync[first](function(request) return request + 1 end)
        local function double(value) return value * 2 end
        local process = second == "regular" and double or unsync[second](double)
        assert.equal(8, initiate(3):and_then(process):result(), first .. " then " .. second)
      end
    end
  end)

  it("mixing methods: threads, continuations, and one that gathers them", function()
    local non_async_function = unsync.thread(function(num) return num, num + 1 end)
    local result_continuation = unsync.io(function(num, res)
      unsync.yield()
      return num, res * 2
    end)
    local result_processor = unsync.io(function(tasks)
      local output = {}
      for _, task in ipairs(tasks) do
        local num, res = task:await()
        output[num] = res
      end
      return output
    end)
    local tasks = {}
    for i = 0, 9 do tasks[#tasks + 1] = non_async_function(i):and_then(result_continuation) end
    local expected = {}
    for i = 0, 9 do expected[i] = 2 * i + 2 end
    assert.same(expected, result_processor(tasks):result())
  end)
end)

--- A task that notes `note`, lets others run, and notes "c".
local function yielding(calls, note)
  return unsync.io(function()
    calls[#calls + 1] = note
    unsync.yield()
    calls[#calls + 1] = "c"
    return "faff"
  end)
end

describe("test_call_ordering", function()
  it("test_simple_call", function()
    local faff = unsync.io(function()
      unsync.yield()
      return true
    end)
    assert.is_true(faff():result())
  end)

  each_kind("test_nested_blocking_on_result: a wait inside, which is an error there, is a wait here", function(declare)
    local other = declare(function() return "faff" end)
    local long = unsync.io(function(task) return task():result() end)
    assert.equal("faff", long(other):result())
  end)

  each_kind("test_nested_unsync: a function declared and called inside another", function(declare)
    local long = declare(function()
      local other = require("unsync").io(function()
        require("unsync").yield()
        return "faff"
      end)
      return other():result()
    end)
    assert.equal("faff", long():result())
  end)

  it("test_nested_blocking_on_result_after_await", function()
    local calls = {}
    local other = yielding(calls, "b")
    local long = unsync.io(function(task)
      calls[#calls + 1] = "a"
      local t = task()
      t:await()
      local result = t:result()
      calls[#calls + 1] = "d"
      return result
    end)
    assert.equal("faff", long(other):result())
    assert.same({ "a", "b", "c", "d" }, calls)
  end)

  it("test_call_blocking: what is already called, awaited inside", function()
    local calls = {}
    local other = yielding(calls, "a")
    local long = unsync.io(function(task)
      calls[#calls + 1] = "b"
      local result = task:await()
      calls[#calls + 1] = "d"
      return result
    end)
    local o = other()
    assert.equal("faff", long(o):result())
    assert.same({ "a", "b", "c", "d" }, calls)
  end)

  it("test_nested_calling", function()
    local calls = {}
    local other = yielding(calls, "b")
    local long = unsync.io(function(task)
      calls[#calls + 1] = "a"
      local result = task():await()
      calls[#calls + 1] = "d"
      return result
    end)
    assert.equal("faff", long(other):result())
    assert.same({ "a", "b", "c", "d" }, calls)
  end)

  for _, outer in ipairs(kinds) do
    for _, inner in ipairs(kinds) do
      it(("calls nest: %s in %s"):format(inner, outer), function()
        local square = unsync[inner](function(n) return n * n end)
        local sum = unsync[outer](function(n)
          local first, second = square(n), square(n + 1)
          return first:result() + second:result()
        end)
        assert.equal(25, sum(3):result())
      end)
    end
  end
end)

describe("test_custom_event_loop", function()
  it("test_custom_event_loop: the loop is libuv's, and luv in a script shares it", function()
    local rang = unsync.promise()
    local timer = uv.new_timer()
    timer:start(1, 0, function()
      timer:close()
      rang:resolve("faff")
    end)
    assert.equal("faff", rang:result())
  end)
end)

describe("test_future", function()
  each_kind("test_future_reuse: awaited twice, and asked again", function(declare)
    local future = declare(function() return "faff" end)()
    assert.equal("faff", future:await())
    assert.equal("faff", future:await())
    assert.equal("faff", future:result())
  end)

  each_kind("test_async_continuation", function(declare)
    local continuation = declare(function(result) return result .. "derp" end)
    local source = unsync.io(function()
      unsync.yield()
      return "faff"
    end)
    assert.equal("faffderp", source():and_then(continuation):result())
  end)

  each_kind("test_sync_continuation", function(declare)
    local source = declare(function() return "faff" end)
    assert.equal("faffderp", source():and_then(function(result) return result .. "derp" end):result())
  end)

  each_kind("test_chained_continuation", function(declare)
    local function append(text)
      return function(result) return result .. text end
    end
    local source = declare(function() return "faff" end)
    assert.equal("faffabc", source():and_then(append("a")):and_then(append("b")):and_then(append("c")):result())
  end)

  it("a failure goes past a continuation", function()
    local called = false
    local future = unsync.rejected("no"):and_then(function() called = true end)
    assert.same({ false, "no" }, { pcall(future.result, future) })
    assert.is_false(called)
  end)

  it("test_from_result", function() assert.equal("faff", unsync.resolved("faff"):result()) end)

  each_kind("test_await_from_result", function(declare)
    local wait = declare(function(future) return future:await() end)
    assert.equal("faff", wait(unsync.resolved("faff")):result())
  end)

  it("test_from_concurrent_future: a future of luv's thread pool, awaited within a limit", function()
    local done = unsync.promise()
    local work = uv.new_work(function() return "faff" end, function(result) done:resolve(result) end)
    uv.queue_work(work)
    assert.equal("faff", done:result(5 * slowness))
  end)

  each_kind("test_await_from_concurrent_future", function(declare)
    local done = unsync.promise()
    local wait = declare(function(future) return future:await() end)
    local future = wait(done)
    local work = uv.new_work(function() return "faff" end, function(result) done:resolve(result) end)
    uv.queue_work(work)
    assert.equal("faff", future:result())
  end)
end)

describe("test_process_executor", function()
  local cpu_bound = unsync.cpu(function(duration)
    local start, faff = os.clock(), 0
    while os.clock() - start < duration do faff = faff + 1 end
    return "faff"
  end)

  it("test_raw_cpu_bound", function() assert.equal("faff", cpu_bound(0.01):result()) end)

  it("test_cpu_bound: a hundred, gathered, twice", function()
    local aggregator = unsync.io(function(tasks)
      local results = {}
      for i, task in ipairs(tasks) do results[i] = task:await() end
      return results
    end)
    for _ = 1, 2 do
      local tasks = {}
      for i = 1, 100 do tasks[i] = cpu_bound(0.001) end
      local results = aggregator(tasks):result()
      assert.equal(100, #results)
      for _, result in ipairs(results) do assert.equal("faff", result) end
    end
  end)
end)

describe("test_thread_executor", function()
  it("test_unsync_threaded", function()
    local non_async_work = unsync.thread(function(wait)
      wait(0.01)
      return "faff"
    end)
    assert.equal("faff", non_async_work(block):result())
  end)

  it("test_unsync_threaded_with_await", function()
    local function non_async_work() return "faff" end
    local wait = unsync.io(function(future)
      unsync.yield()
      return future:await()
    end)
    assert.equal("faff", wait(unsync.thread(non_async_work)()):result())
  end)

  it("test_unsync_threaded_multiple", function()
    local function non_async_work()
      block(0.01)
      return "faff"
    end
    local futures = {}
    for i = 1, 20 do futures[i] = unsync.thread(non_async_work)() end
    for i = 1, 20 do assert.equal("faff", futures[i]:result()) end
  end)

  it("test_unsync_threaded_decorator", function()
    local non_async_work = unsync.thread(function()
      block(0.01)
      return "faff"
    end)
    local wait = unsync.io(function(futures)
      local results = {}
      for i, future in ipairs(futures) do results[i] = future:await() end
      return results
    end)
    local futures = {}
    for i = 1, 20 do futures[i] = non_async_work() end
    for _, result in ipairs(wait(futures):result()) do assert.equal("faff", result) end
  end)

  each_kind("test_unsync_threaded_decorator_args", function(declare)
    local work = declare(function(arg, options) return arg .. options.kwarg end)
    for _ = 1, 20 do assert.equal("faff", work("fa", { kwarg = "ff" }):result()) end
  end)
end)

describe("test_unsync", function()
  each_kind("test_exception: a table arrives as it was raised", function(declare)
    local fail = declare(function() error({ name = "TestException" }) end)
    local future = fail()
    local ok, err = pcall(future.result, future)
    assert.is_false(ok)
    assert.same({ name = "TestException" }, err)
  end)

  each_kind("test_exception: a string arrives with its position", function(declare)
    local fail = declare(function() error("TestException") end)
    local future = fail()
    local ok, err = pcall(future.result, future)
    assert.is_false(ok)
    assert.matches("^.*parity_spec%.lua:%d+: TestException$", err)
  end)

  each_kind("test_exception: caught inside, it is none", function(declare)
    local caught = declare(function()
      local _, err = pcall(error, "TestException", 0)
      return "caught " .. err
    end)
    assert.equal("caught TestException", caught():result())
  end)

  it("test_parallelism: all begin before any ends", function()
    local calls, gate = {}, unsync.promise()
    local sleep = unsync.io(function()
      calls[#calls + 1] = "a"
      gate:await()
      calls[#calls + 1] = "b"
    end)
    local results = {}
    for i = 1, 100 do results[i] = sleep() end
    gate:resolve()
    for _, result in ipairs(results) do result:result() end
    assert.equal(("a"):rep(100) .. ("b"):rep(100), table.concat(calls))
  end)

  each_kind("test_apply_to_function", function(declare)
    local function derp() return "derp" end
    local unsync_derp = declare(derp)
    assert.equal("derp", unsync_derp():result())
    assert.equal("derp", derp()) -- which is as it was
  end)

  each_kind("test_apply_to_built_in", function(declare)
    assert.equal("DERP", declare(string.upper)("derp"):result())
    assert.same({ 3, 1, 4 }, { declare(table.unpack)({ 3, 1, 4 }):result() })
  end)

  it("test_future_integration: a future of somebody else's, within a limit that is too short, and then not", function()
    local foreign = unsync.promise() -- what a luv callback settles
    local wrapper = unsync.io(function(future) return future:await() end)
    local result = wrapper(foreign)
    local ok, err = pcall(result.result, result, 0.01)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
    assert.is_false(result:done())
    local async
    async = uv.new_async(function()
      async:close()
      foreign:resolve("faff")
    end)
    async:send()
    assert.equal("faff", result:result(5 * slowness))
  end)

  each_kind("test_unfuture_integration: a promise, settled by hand", function(declare)
    local promise = unsync.promise()
    local wrapper = declare(function(future) return future:await() end)
    local result = wrapper(promise)
    local ok, err = pcall(result.result, result, 0.01)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
    assert.is_false(result:done())
    assert.is_true(promise:resolve("faff"))
    assert.equal("faff", result:result(10 * slowness))
  end)

  it("a callback API becomes an awaitable one", function()
    local stat = unsync.wrap(uv.fs_stat)
    local problem, info = stat("."):result()
    assert.is_nil(problem)
    assert.equal("directory", info.type)
  end)

  each_kind("test_instance_methods", function(declare)
    local Class = {}
    Class.__index = Class
    Class.wait = declare(function(self, word) return self.name .. word end)
    local instance = setmetatable({ name = "fa" }, Class)
    assert.equal("faff", instance:wait("ff"):result())
  end)

  each_kind("test_passing_arguments: options of the declaration", function(declare)
    local named = declare(function() return "faff" end, { name = "faff" })
    local future = named()
    assert.matches("faff", tostring(future))
    assert.equal("faff", future:result())
  end)

  each_kind("test_implementation_without_decorator: wrapped at the call", function(declare)
    local function synced(x) return x .. "a" end
    local function function_name(x) return declare(synced)(x) end
    assert.equal("ba", function_name("b"):result())
  end)

  it("NestedDecoratorTests: a wrapped function may be wrapped again, and is simply called", function()
    for _, inner in ipairs(kinds) do
      for _, outer in ipairs(kinds) do
        local once = unsync[inner](function(x) return x .. "ff" end)
        local twice = unsync[outer](function(x) return once(x):await() end)
        assert.equal("faff", twice("fa"):result())
      end
    end
  end)
end)

describe("results", function()
  each_kind("of a call are all that its function returned, nils included", function(declare)
    assert.same(table.pack(1, nil, 3, nil), table.pack(declare(function() return 1, nil, 3, nil end)():result()))
    assert.equal(0, select("#", declare(function() end)():result()))
  end)

  it("can be asked for anywhere: in a task, a thread, a process, a generator, a metamethod, under pcall", function()
    local promise = unsync.promise()
    local function ask() return promise:result() end
    local asked = { unsync.io(ask)(), unsync.thread(ask)(), unsync.cpu(ask)() }
    asked[#asked + 1] = unsync.spawn(function()
      return coroutine.wrap(function() coroutine.yield(promise:result()) end)()
    end)
    asked[#asked + 1] = unsync.spawn(function()
      return setmetatable({}, { __index = function() return promise:result() end }).anything
    end)
    asked[#asked + 1] = unsync.spawn(function() return select(2, pcall(ask)) end)
    promise:resolve("faff")
    for i, future in ipairs(asked) do assert.equal("faff", future:result(), "case " .. i) end
  end)
end)

describe("mixing kinds", function()
  it("one list, one way to wait", function()
    local server = http_server.spawn()
    local url = server.url .. "/?size=4"
    local compute = unsync.cpu(function(n)
      local sum = 0
      for i = 1, n do sum = sum + i end
      return sum
    end)
    local download = unsync.thread(function(from) return (require("socket.http").request(from)) end)
    local fetch = unsync.io(function(from) return http.get(from):await().body end)
    local futures = { compute(1000), download(url), fetch(url), unsync.resolved("at once") }
    assert.same({ 500500, "xxxx", "xxxx", "at once" }, unsync.all(futures):result())
    server.close()
  end)
end)
