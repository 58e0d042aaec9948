-- Bad input: a clear error that names what and where; nothing lost, nothing hung. What belongs to one subject is in its
-- own spec: options and scripts in cli, plugins in native, packets in codec.
local unsync = require("unsync")
local script = require("spec.support.script")

local function outcome(code, options)
  local ran = script.run('local unsync = require "unsync"\n' .. code, options)
  return ran.code, ran.err, ran.out
end

describe("arguments that make no sense", function()
  it("are those of the public function, also where it is called by pcall", function()
    local _, _, out = outcome([[
      for _, name in ipairs {"sleep", "all", "channel", "timeout"} do print(select(2, pcall(unsync[name], {}))) end
    ]])
    for _, name in ipairs({"sleep", "channel", "timeout"}) do
      assert.matches("bad argument #1 to 'unsync." .. name .. "' (number expected, got table)", out, 1, true)
    end
    assert.is_nil(out:find("unsync.core", 1, true))
  end)

  it("raise at the call, and name the argument", function()
    for _, case in ipairs({
      {function() unsync.io({}) end, "#1 to 'io'"},
      {function() unsync.thread({}) end, "#1 to 'thread'"},
      {function() unsync.cpu(nil) end, "#1 to 'cpu'"},
      {function() unsync.cpu({}) end, "#1 to 'cpu'"},
      {function() unsync.spawn("x") end, "#1 to 'spawn'"},
      {function() unsync.sleep({}) end, "#1 to 'sleep'"},
      {function() unsync.wrap(12) end, "#1 to 'wrap'"},
      {function() unsync.once("x") end, "#1 to 'once'"},
      {function() unsync.plugin() end, "#1 to 'plugin'"},
      {function() unsync.all(12) end, "#1 to 'all'"},
      {function() unsync.all({12}) end, "#1 to 'all'"},
      {function() unsync.settled({unsync.resolved(), "x"}) end, "item 2"},
      {function() unsync.any({}) end, "#1 to 'any'"},
      {function() unsync.race({}) end, "#1 to 'race'"},
      {function() unsync.is_future() end, "#1 to 'is_future'"},
    }) do
      assert.error_matches(case[1], case[2], 1, true)
    end
  end)

  it("say where: the position is the caller's", function()
    for _, call in ipairs({
      function() unsync.sleep("x") end, function() unsync.wrap() end, function() unsync.resolved():and_then() end,
      function() unsync.io() end, function() unsync.resolved():await("x") end,
    }) do
      local _, err = pcall(call)
      assert.matches("^[^:]*bad_input_spec.lua:%d+: ", err)
    end
  end)
end)

describe("an error object whose tostring fails", function()
  it("is told so, and ends the program with 1, in main and unobserved", function()
    local bad = "setmetatable({}, {__tostring = function() error('again') end})"
    for _, code in ipairs({"error(" .. bad .. ")", "kept = unsync.rejected(" .. bad .. ")",
      "unsync.spawn(function() error(" .. bad .. ") end)"}) do
      local exit_code, err = outcome(code)
      assert.equal(1, exit_code)
      assert.matches("tostring failed", err)
    end
  end)

  it("that waits cannot, and is told so", function()
    local code, err = outcome("error(setmetatable({}, {__tostring = function() unsync.sleep(0.01) return 'x' end}))")
    assert.equal(1, code)
    assert.matches("unsync: ", err)
  end)
end)

describe("memory that runs out #plain", function()
  it("in a task fails that task alone", function()
    local code, err, out = outcome([[
      local f = unsync.io(function() unsync.yield() local t = {} for i = 1, 100 do t[i] = ("x"):rep(20e6) .. i end end)
      local other = unsync.io(function() for i = 1, 10 do unsync.yield() end return "fine" end)()
      local future = f()
      local ok, message = pcall(future.await, future)
      collectgarbage()
      print(ok, message, other:await())
    ]], {before = "ulimit -v 600000"})
    assert.same({0, ""}, {code, err})
    assert.equal("false\tnot enough memory\tfine\n", out)
  end)

  it("in a thread fails that call alone", function()
    local code, err, out = outcome([[
      local f = unsync.thread(function(n)
        local t = {}
        for i = 1, n do t[i] = ("x"):rep(20e6) .. i end
        return #t
      end, {fresh = true})
      local future = f(100)
      local ok, message = pcall(future.await, future)
      print(ok, tostring(message):match("not enough memory"), f(1):await())
    ]], {before = "ulimit -v 600000"})
    assert.same({0, ""}, {code, err})
    assert.equal("false\tnot enough memory\t1\n", out)
  end)
end)

describe("descriptors that are used up #plain", function()
  it("end the program before it starts, with a word", function()
    for limit = 4, 20 do
      local ran = script.run("print(1)", {wrapper = "prlimit --nofile=" .. limit, limit_s = 30})
      assert.is_nil(ran.signal, limit)
      if ran.code == 0 then assert.equal("1\n", ran.out)
      else assert.matches("Too many open files", ran.err, 1, true) end
    end
  end)

  it("fail calls with the system's own name, and the program goes on", function()
    local code, err, out = outcome([[
      local f = unsync.thread(function() return 1 end)
      local files = {}
      while true do
        local file = io.open("/dev/null")
        if not file then break end
        files[#files + 1] = file
      end
      local ok, e = pcall(function() return f():await() end)
      print(ok, type(e) == "table" and e.code)
      local ok2, e2 = pcall(function() return io.popen("true") end)
      print(ok2)
      for _, file in ipairs(files) do file:close() end
      print(f():await())
    ]], {before = "ulimit -n 40", limit_s = 30})
    assert.same({0, ""}, {code, err})
    assert.matches("^false\tEMFILE\n%a+\n1\n$", out)
  end)

  it("at the very start are a message and exit code 1", function()
    for limit = 6, 12 do
      local ran = script.run(nil, {program = "/bin/sh", limit_s = 10,
        options = {"-c", "ulimit -n " .. limit .. "; exec \"$0\" -e 'print(1)'", script.program}})
      -- With fewer not even the loader works, and libuv gives up.
      assert.is_true(ran.code == 0 or ran.code == 1 or ran.code == 126 or ran.code == 127, limit .. ": " .. ran.code)
      if ran.code == 1 and not ran.err:match("error while loading") then assert.matches("^unsync: ", ran.err) end
    end
  end)
end)

describe("threads and processes that cannot be started #plain", function()
  -- Only a user other than root is held by ulimit -u.
  local function as_nobody(code)
    if not os.execute("command -v setpriv prlimit >/dev/null && [ $(id -u) = 0 ]") then return nil end
    local path = script.file("as_nobody.lua", 'local unsync = require "unsync"\n' .. code)
    os.execute("chmod 755 " .. script.quote((path:match("^(.*)/"))))
    local copy = script.path("unsync-copy")
    os.execute(("cp %s %s && chmod 755 %s"):format(script.quote(script.program), script.quote(copy),
      script.quote(copy)))
    return script.run(nil, {program = "/usr/bin/setpriv", options = {"--reuid=54321", "--regid=54321", "--clear-groups",
      "prlimit", "--nproc=1", copy, path}, limit_s = 30})
  end

  it("fail the call with EAGAIN, and the program goes on", function()
    local ran = as_nobody([[
      local ok, err = pcall(function() return unsync.thread(function() return 1 end)():await() end)
      print(ok, type(err) == "table" and err.code, tostring(err))
      print(unsync.spawn(function() unsync.yield() return "io works" end):await())
    ]])
    if not ran then pending("not root here") end
    assert.equal(0, ran.code, ran.err)
    assert.matches("^false\tEAGAIN\t[^\n]*thread[^\n]*\nio works\n$", ran.out)
  end)

  it("fail process calls, too", function()
    local ran = as_nobody([[
      local ok, err = pcall(function() return unsync.cpu(function() return 1 end)():await() end)
      print(ok, type(err) == "table" and err.code, tostring(err))
      print(unsync.spawn(function() unsync.yield() return "io works" end):await())
    ]])
    if not ran then pending("not root here") end
    assert.equal(0, ran.code, ran.err)
    assert.matches("^false\t%u+\t[^\n]*\nio works\n$", ran.out)
  end)
end)

describe("code that is deep, long or odd", function()
  it("a table 100,000 deep crosses", function()
    local deep = {}
    local at = deep
    for _ = 1, 100000 do
      at.next = {}
      at = at.next
    end
    local back = unsync.thread(function(t) return t end)(deep):await()
    local depth = 0
    while back.next do
      back = back.next
      depth = depth + 1
    end
    assert.equal(100000, depth)
  end)

  it("a call with as many arguments as Lua can bear", function()
    local count = unsync.thread(function(...) return select("#", ...) end)
    assert.equal(200000, count(table.unpack({}, 1, 200000)):await())
    assert.equal(200000, unsync.io(function(...) unsync.yield() return select("#", ...) end)(
      table.unpack({}, 1, 200000)):await())
  end)

  it("an error message with zeros, format letters and no end", function()
    for _, message in ipairs({"%s %d %n", "a\0b", ("long "):rep(50000), ""}) do
      local future = unsync.thread(function() error(message, 0) end)()
      assert.same({false, message}, {pcall(future.await, future)})
    end
  end)

  it("a name with anything in it", function()
    for _, name in ipairs({"", "%s%n", "with space", "ümlaut", ("n"):rep(5000), "zero\0inside"}) do
      local future = unsync.thread(function() return 1 end, {name = name})()
      assert.equal("string", type(tostring(future)))
      assert.equal(1, future:await())
      tostring(future)
    end
  end)

  it("a stack overflow in a task and in a thread is an error of that call", function()
    -- Lua calls no finalizer where the C stack has ended, and never again: what earlier tests left goes before.
    collectgarbage()
    collectgarbage()
    local function overflow() return 1 + overflow() end
    for _, wrap in ipairs({unsync.io, unsync.thread}) do
      local future = wrap(function()
        local function deeper() return 1 + deeper() end
        return deeper()
      end)()
      local ok, err = pcall(future.await, future)
      assert.is_false(ok)
      assert.matches("stack overflow", err)
    end
    assert.is_false(pcall(overflow))
  end)

  it("a thread that replaces or removes what it can reach hurts nobody else", function()
    local ok = pcall(function()
      unsync.thread(function()
        for name in pairs(package.loaded) do package.loaded[name] = nil end
        for name in pairs(_G) do rawset(_G, name, nil) end
      end, {fresh = true})():await()
    end)
    assert.is_true(ok == true or ok == false)
    assert.equal(1, unsync.thread(function() return 1 end)():await())
    local _ = pcall(function()
      unsync.thread(function() debug.setmetatable(1, {__index = {}}) debug.getregistry()[1] = nil end, {fresh = true})()
        :await()
    end)
    assert.equal(2, unsync.thread(function() return 2 end, {fresh = true})():await())
  end)
end)

describe("a metatable on what is not its own", function()
  it("harms nothing: each metamethod and method looks at what it is given", function()
    assert.equal("fine\n", script.output([[
      local unsync = require "unsync"
      require "luv".new_timer():close()
      unsync.scope(function() end)
      pcall(unsync.thread, "no.such")
      local foreign = io.tmpfile()
      local function try(fn)
        for _, value in ipairs({{}, {1, 2, 3}, 1, foreign}) do pcall(fn, value, value) end
        pcall(fn)
      end
      local met = 0
      for name, class in pairs(debug.getregistry()) do
        if type(name) == "string" and name:find("^unsync") and type(class) == "table" then
          met = met + 1
          for key, value in pairs(class) do if type(value) == "function" and key ~= "__index" then try(value) end end
          for _, value in pairs(type(class.__index) == "table" and class.__index or {}) do
            if type(value) == "function" then try(value) end
          end
          debug.setmetatable({}, class)
          debug.setmetatable({1, 2, 3}, class)
        end
      end
      for _, of in ipairs({foreign, require "luv".new_timer()}) do debug.setmetatable({}, debug.getmetatable(of)) end
      collectgarbage() collectgarbage()
      assert(met > 10)
      print("fine")
    ]]))
  end)
end)
