-- Lua's own functions that must know tasks: what they do in stock Lua, and waits that go through them.
local unsync = require("unsync")
local gate = require("spec.support.gate")
local script = require("spec.support.script")
local stock = require("spec.support.stock")

local os, select = os, select -- what crosses to a worker brings its upvalues, and busted's environment must not be one

-- Runs `fn` while another task counts its turns: how often others had theirs meanwhile.
local function turns_of_others(fn, ...)
  local turns, over = 0, false
  local other = unsync.spawn(function()
    while not over do
      unsync.sleep(0.001)
      turns = turns + 1
    end
  end)
  local results = table.pack(pcall(fn, ...))
  over = true
  other:await()
  assert(results[1], results[2])
  return turns, table.unpack(results, 2, results.n)
end

describe("pcall and xpcall", function()
  it("are as in stock Lua", function()
    stock.compare [[
      show(pcall(pcall))
      show(pcall(xpcall))
      show(pcall(xpcall, print))
      show(pcall(xpcall, print, 1))
      show(pcall(pcall, error))
      show(pcall(error, nil))
      show(pcall(error, setmetatable({}, {__tostring = function() return "object" end})))
      show(pcall(function(...) wait() return ... end, nil, 1, nil))
      show(pcall(function(...) wait() error("text") end))
      show(pcall(function(...) wait() error("text", 2) end))
      show(pcall(function(...) wait() error("text", 0) end))
      show(xpcall(function(...) wait() return ... end, print, nil, 1, nil))
      show(xpcall(function(...) wait() error("text") end, function(m) return m .. "!", "dropped" end))
      show(xpcall(function(...) wait() error() end, function(m) error(m) end))
      show(xpcall(function(...) wait() local x = nil .. "" end, function(m)
        return (debug.traceback(m):match("^[^\n]*\n[^\n]*\n[^\n]*"))
      end))
      show(pcall(1))
      show(pcall({}, 1))
      show(pcall(setmetatable({}, {__call = function(self, ...) wait() return ... end}), 1, nil))
      show(xpcall(1, function(m) return "handled: " .. m end))
      show(select("#", pcall(table.unpack, {}, 1, 250)))
      show(pcall(string.rep, "x", -1))
      show(pcall(string.rep))
      local function recurse() return pcall(recurse) end
      show((select(-1, recurse())))
      local depth = 0
      local function deeper() depth = depth + 1; local ok, err = pcall(deeper); if not ok then error(err, 0) end end
      local ok, err = pcall(deeper)
      show(ok, err, depth > 150)
      local co = coroutine.wrap(function() return pcall(function() coroutine.yield(1) wait() error("after") end) end)
      show(co())
      show(co())
    ]]
  end)
end)

describe("table.sort", function()
  it("gives the results of stock Lua, and asks the same questions", function()
    stock.compare [[
      local random = 12345
      local function next_random(n)
        random = (random * 1103515245 + 12345) % 2147483648
        return random // 65536 % n + 1
      end
      local orders = {
        function(a, b) return a < b end, function(a, b) return a > b end, function(a, b) return a <= b end,
        function() return true end, function() return false end, function() return nil end,
        function(a, b) return a // 3 < b // 3 end, function(a, b) return a % 2 < b % 2 and 1 or nil end,
      }
      for round = 1, 400 do
        local list, asked = {}, 0
        for i = 1, round % 40 == 0 and 300 or next_random(14) - 1 do list[i] = next_random(20) end
        local order = orders[round % #orders + 1]
        local ok, err = pcall(table.sort, list, function(a, b)
          asked = (asked * 31 + (a or -1) * 7 + (b or -1)) % 1000003
          if round % 7 == 0 then wait() end
          return order(a, b)
        end)
        show(ok, err, asked, table.concat(list, " "))
      end
    ]]
  end)

  it("takes tables with metamethods, and what acts as one", function()
    stock.compare [[
      local function proxy(base, log)
        return setmetatable({}, {
          __index = function(_, k) log[#log + 1] = "get " .. k return base[k] end,
          __newindex = function(_, k, v) log[#log + 1] = "set " .. k base[k] = v end,
          __len = function() return #base end})
      end
      local base, log = {5, 2, 9, 1, 7}, {}
      table.sort(proxy(base, log), function(a, b) wait() return a < b end)
      show(table.concat(base, " "), table.concat(log, ", "))
      debug.setmetatable(0, getmetatable(proxy(base, log)))
      try(table.sort, 1, function(a, b) wait() return a > b end)
      show(table.concat(base, " "))
      debug.setmetatable(0, {__index = {}, __len = function() return 3 end})
      try(table.sort, 1, function() end)
      debug.setmetatable(0, nil)
      local list = setmetatable({3, 2, 1}, {__len = function() return 2 end})
      table.sort(list, function(a, b) wait() return a < b end)
      show(list[1], list[2], list[3])
    ]]
  end)

  it("raises what stock Lua raises", function()
    stock.compare [[
      local function less(a, b) return a < b end
      try(table.sort)
      try(table.sort, nil, less)
      try(table.sort, 1, less)
      try(table.sort, {}, 1)
      try(table.sort, {1, 2}, 1)
      try(table.sort, {1}, "no")
      try(table.sort, {1, "x", {}})
      try(function() table.sort({1, "x", 2}, function(a, b) wait() return a < b end) end)
      try(function() table.sort({3, 2, 1}, function(a, b) wait() error("in order") end) end)
      try(function() table.sort({3, 2, 1}, function(a, b) wait() error({}) end) end)
      try(function() table.sort({1, 2, 3, 4, 5}, function() wait() return true end) end)
      try(function() table.sort(setmetatable({}, {__len = function() return math.maxinteger end}), less) end)
      try(function() table.sort(setmetatable({}, {__len = function() return "x" end}), less) end)
      try(function() table.sort(setmetatable({}, {__len = function() return -5 end}), less) end)
      local co = coroutine.wrap(function()
        try(table.sort, {3, 2, 1}, function(a, b) show(coroutine.isyieldable()) coroutine.yield() end)
        show(coroutine.isyieldable())
        return coroutine.yield("yields again")
      end)
      show(co())
      show(co("end"))
    ]]
  end)

  it("lets its comparator wait", function()
    local list = {}
    for i = 1, 50 do list[i] = i * 7919 % 101 end
    local turns = turns_of_others(table.sort, list, function(a, b)
      unsync.sleep(0.0002)
      return a < b
    end)
    for i = 2, #list do assert.is_true(list[i - 1] <= list[i]) end
    assert.is_true(turns > 1)
  end)

  it("sorts inside its comparator", function()
    local list = {3, 1, 2}
    table.sort(list, function(a, b)
      local inner = {b, a}
      table.sort(inner, function(x, y)
        unsync.yield()
        return x < y
      end)
      return inner[1] == a and a ~= b
    end)
    assert.same({1, 2, 3}, list)
  end)

  it("sorts a long list that is already in order, or all the same", function()
    for _, value in ipairs({function(i) return i end, function(i) return -i end, function() return 1 end}) do
      local list = {}
      for i = 1, 5000 do list[i] = value(i) end
      table.sort(list, function(a, b) return a < b end)
      for i = 2, #list do assert(list[i - 1] <= list[i]) end
    end
  end)
end)

describe("string.gsub", function()
  it("gives the results of stock Lua", function()
    stock.compare [[
      local random = 4711
      local function next_random(n)
        random = (random * 1103515245 + 12345) % 2147483648
        return random // 65536 % n + 1
      end
      local function pick(list) return list[next_random(#list)] end
      local atoms = {"a", "b", ".", "%w", "%s", "[ab]", "[^a]", "%f[%w]", "()", "(a)", "(.)", "(%w+)", "%b()", "%1",
        "-", "%%", "x", "^", "$", "[", "(", ")", "%", "\0", "%z", "(a*)", "((a)(b))", "%f", "]"}
      local quantities = {"", "", "", "*", "+", "-", "?"}
      local letters = {"a", "b", " ", "(", ")", "x", "%", "\0", "ab"}
      for round = 1, 3000 do
        local pattern, subject = {}, {}
        if next_random(5) == 1 then pattern[1] = "^" end
        for _ = 1, next_random(4) - 1 do pattern[#pattern + 1] = pick(atoms) .. pick(quantities) end
        for _ = 1, next_random(9) - 1 do subject[#subject + 1] = pick(letters) end
        local calls, kind = 0, next_random(5)
        local function replace(...)
          calls = calls + 1
          show("call", ...)
          if calls % 3 == 0 then wait() end
          if kind == 1 then return nil elseif kind == 2 then return false elseif kind == 3 then return calls
          elseif kind == 4 then return "<" .. tostring((...)) .. ">" else return 1.5 end
        end
        local most = next_random(4) == 1 and next_random(5) - 2 or nil
        show(table.concat(pattern), pcall(string.gsub, table.concat(subject), table.concat(pattern), replace, most))
      end
    ]]
  end)

  it("raises what stock Lua raises, with the line of the caller", function()
    stock.compare [[
      local function nothing() end
      for _, arguments in ipairs {{n = 0}, {"a", n = 1}, {"a", "b", n = 2}, {"a", "b", nil, n = 3},
        {nil, "b", nothing, n = 3},
        {"a", nil, nothing, n = 3}, {"a", {}, nothing, n = 3}, {"a", "b", nothing, "x", n = 4},
        {"a", "b", nothing, 1.5, n = 4}, {"a", "b", true, n = 3}, {"a", "b", io.stdout, n = 3},
        {12, 1, function() wait() return "x" end, "1", n = 4}} do
        try(string.gsub, table.unpack(arguments, 1, arguments.n))
        try(function() return string.gsub(table.unpack(arguments, 1, arguments.n)) end)
      end
      try(function() return ("abc"):gsub("%w", function() wait() return {} end) end)
      try(function() return ("abc"):gsub("%w", function() wait() return print end) end)
      try(function() return ("abc"):gsub("%w", function() wait() return true end) end)
      try(function() return ("abc"):gsub("%w", function() wait() error("inside") end) end)
      for _, bad in ipairs {"[a", "%", "(a", "a)", ")", "%f", "%b", "%bx", "%1", "(%2)", "[%", "[]", "[^]"} do
        try(function() return ("abc a"):gsub(bad, function() wait() end) end)
        try(function() return ("abc a"):gsub("%w" .. bad, function() wait() end) end)
      end
      try(function() return ("x"):rep(300):gsub(("x?"):rep(300), nothing) end)
      try(function() return ("x"):rep(40):gsub(("()"):rep(33), nothing) end)
      show((("x"):gsub(("()"):rep(32), function(...) wait() return select("#", ...) end)))
      local co = coroutine.wrap(function()
        try(string.gsub, "abc", "b", function() show(coroutine.isyieldable()) coroutine.yield() end)
        return coroutine.yield("yields again")
      end)
      show(co())
      show(co("end"))
    ]]
  end)

  it("lets its replacement function wait", function()
    local turns, text, count = turns_of_others(string.gsub, ("word "):rep(40), "%w+", function(word)
      unsync.sleep(0.0002)
      return word:upper()
    end)
    assert.equal(("WORD "):rep(40), text)
    assert.equal(40, count)
    assert.is_true(turns > 1)
  end)

  it("builds long results from many pieces", function()
    local text, count = ("a-"):rep(20000):gsub("%w", function(letter) return letter:rep(50) end)
    assert.equal(20000, count)
    assert.equal((("a"):rep(50) .. "-"):rep(20000), text)
    local long = ("x"):rep(1 << 20)
    assert.equal(long .. "." .. long, (("a.a"):gsub("a", function() return long end)))
  end)
end)

describe("a script's own yield", function()
  it("does not cross a sort, a gsub or a require, but other coroutines yield meanwhile", function()
    local seen = {}
    local door = unsync.promise()
    local sorter = unsync.spawn(function()
      table.sort({2, 1}, function(a, b)
        door:await()
        return a < b
      end)
    end)
    for i in coroutine.wrap(function()
      for i = 1, 3 do coroutine.yield(i) end
    end) do
      seen[#seen + 1] = i
    end
    assert.same({1, 2, 3}, seen)
    local ok, err = coroutine.resume(coroutine.create(function() table.sort({2, 1}, coroutine.yield) end))
    assert.same({false, "attempt to yield across a C-call boundary"}, {ok, err})
    local inside = {}
    table.sort({2, 1}, function(a, b)
      for i in coroutine.wrap(function() coroutine.yield(1) end) do inside[#inside + 1] = i end
      return a < b
    end)
    assert.same(1, inside[1])
    door:resolve()
    sorter:await()
  end)
end)

describe("require", function()
  local function module(name, text) return script.file(name .. ".lua", text) end
  local path = package.path

  setup(function() package.path = script.path("?.lua") .. ";" .. package.path end)
  teardown(function() package.path = path end)
  after_each(function()
    for name in pairs(package.loaded) do
      if name:find("^spec_module") then package.loaded[name] = nil end
    end
  end)

  it("is as in stock Lua", function()
    module("spec_module_returns", "wait() return {...}")
    module("spec_module_nothing", "wait()")
    module("spec_module_false", "wait() return false")
    module("spec_module_sets", "wait() package.loaded[...] = 'set' ")
    module("spec_module_fails", "wait() error('on purpose')")
    module("spec_module_syntax", "return return")
    module("spec_module_yields", "return coroutine.yield(1)")
    stock.compare(([[
      _G.wait = wait
      package.path = %q
      package.cpath = "/nowhere/?.so"
      local function shown(ok, value, ...)
        if type(value) == "table" then value = table.concat(value, ",") end
        show(ok, value, ...)
      end
      for _, name in ipairs {"returns", "nothing", "false", "sets", "fails", "syntax", "missing"} do
        name = "spec_module_" .. name
        shown(pcall(require, name))
        shown(pcall(require, name))
        show(package.loaded[name] ~= nil)
      end
      try(require)
      try(require, {})
      try(require, 12)
      try(require, "string")
      package.preload.spec_module_preloaded = function(...) wait() return select("#", ...) .. select(2, ...) end
      try(require, "spec_module_preloaded")
      try(require, "spec_module_preloaded")
      local searchers = package.searchers
      table.insert(searchers, 2, function(name)
        wait()
        if name:find("made$") then return function(...) wait() return "made", ... end, "extra" end
      end)
      table.insert(searchers, 3, function(name) return "\n\tnot by the third" end)
      try(require, "spec_module_made")
      try(require, "spec_module_missing")
      package.searchers = nil
      try(require, "spec_module_other")
      package.searchers = setmetatable({}, {__index = searchers})
      try(require, "spec_module_other")
      package.searchers = {function() return {} end, function() end, function() return 42 end}
      try(require, "spec_module_other")
      package.searchers = {1}
      try(require, "spec_module_other")
      package.searchers = searchers
      local co = coroutine.create(function() return require("spec_module_yields") end)
      show(coroutine.resume(co))
      try(function() require("spec_module_missing") end)
    ]]):format(script.path("?.lua")))
  end)

  it("lets a module's body wait, with its own line in errors", function()
    module("spec_module_waits", [[
      local unsync = require("unsync")
      unsync.sleep(0.005)
      return {name = ..., extra = unsync.resolved(42):await()}
    ]])
    local turns, loaded, where = turns_of_others(require, "spec_module_waits")
    assert.same({name = "spec_module_waits", extra = 42}, loaded)
    assert.matches("spec_module_waits.lua$", where)
    assert.is_true(turns > 0)
  end)

  it("loads once, although several tasks ask meanwhile", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_once", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      return {}
    ]])
    local futures = {}
    for i = 1, 5 do futures[i] = unsync.spawn(require, "spec_module_once") end
    local in_generator = unsync.spawn(coroutine.wrap(function() return require("spec_module_once") end))
    assert.equal("running", futures[5]:status())
    _G.spec_gate:resolve()
    local first = futures[1]:await()
    for i = 2, 5 do assert.equal(first, (futures[i]:await())) end
    assert.equal(first, (in_generator:await()))
    assert.equal(1, _G.spec_loads)
  end)

  it("lets the next one try, where the first failed", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_second", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      if spec_loads == 1 then error("the first fails") end
      return "loaded at " .. spec_loads
    ]])
    local first, second, third
    for _, set in ipairs({function(f) first = f end, function(f) second = f end, function(f) third = f end}) do
      set(unsync.spawn(require, "spec_module_second"))
    end
    _G.spec_gate:resolve()
    assert.error_matches(function() first:await() end, "the first fails")
    assert.equal("loaded at 2", (second:await()))
    assert.equal("loaded at 2", (third:await()))
    assert.equal(2, _G.spec_loads)
  end)

  it("says that a wait in a circle cannot end", function()
    _G.spec_unsync = unsync
    module("spec_module_circle", [[
      return spec_unsync.spawn(function() return require("spec_module_circle") end):await()
    ]])
    local ok, err = pcall(require, "spec_module_circle") -- no limit: a timer would be hope
    assert.is_false(ok)
    assert.matches("deadlock", tostring(err))
    package.loaded.spec_module_circle = nil
  end)

  it("keeps waiting for a module where another who waited was cancelled", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_cancelled", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      return spec_loads
    ]])
    local first = unsync.spawn(require, "spec_module_cancelled")
    local second = unsync.spawn(require, "spec_module_cancelled")
    second:cancel()
    assert.equal("cancelled", (select(2, pcall(second.await, second))).code)
    local third = unsync.spawn(require, "spec_module_cancelled")
    unsync.yield()
    assert.is_false(third:done())
    _G.spec_gate:resolve()
    assert.equal(1, (third:await()))
    assert.equal(1, (first:await()))
  end)

  it("loads again a module that leads back to itself, as stock Lua does", function()
    _G.spec_loads = 0
    module("spec_module_back", [[
      spec_loads = spec_loads + 1
      if spec_loads == 1 then return {inner = require("spec_module_back")} end
      return spec_loads
    ]])
    assert.same({inner = 2}, (require("spec_module_back")))
    assert.equal(2, _G.spec_loads)
  end)

  it("does not keep others waiting for a coroutine that has failed and was left so", function()
    _G.spec_loads, _G.spec_gate = 0, unsync.promise()
    module("spec_module_dropped", [[
      spec_loads = spec_loads + 1
      spec_gate:await()
      if spec_loads == 1 then error("dropped") end
      return spec_loads
    ]])
    local co = coroutine.create(function() require("spec_module_dropped") end)
    local dropped = unsync.spawn(function() return coroutine.resume(co) end)
    local second = unsync.spawn(require, "spec_module_dropped")
    _G.spec_gate:resolve()
    assert.is_false((dropped:await()))
    assert.equal(2, (gate.within(second, 10)))
    assert.is_false((coroutine.close(co)))
  end)
end)

describe("print and io.write", function()
  it("write what stock Lua writes", function()
    stock.compare [[
      print()
      print(nil, true, 1, 1.0, -0.0, 2^53, "text\0with\0zeros", "")
      print(setmetatable({}, {__tostring = function() return "an object" end}))
      show(pcall(print, setmetatable({}, {__tostring = function() return 1 end})))
      show(pcall(print, setmetatable({}, {__tostring = function() error("in tostring") end})))
      print((tostring(setmetatable({}, {__name = "a name"})):gsub("0x%x+", "")))
      print(table.unpack({}, 1, 300))
      print(("long "):rep(5000))
      show(io.write() == io.stdout, io.write("a", 1, 1.0, -0.0, 2^63, math.mininteger, 1/0, "\0", "\n") == io.stdout)
      show(io.stdout:write("method ", 2, "\n") == io.stdout)
      try(io.write, nil)
      try(io.write, {})
      try(io.stdout.write, io.stdout, {})
      try(function() io.stdout:write("", print) end)
      try(io.stdout.write)
      try(io.stdout.write, 1)
      local name = os.tmpname()
      local file = io.open(name, "w")
      show(file:write("to a file ", 1, "\n") == file, file:flush() == file, io.output(file) == file)
      show(io.write("by default\n") == file, io.flush() == file)
      show(file:close())
      try(file.write, file, "x")
      try(file.flush, file)
      try(io.write, "x")
      try(io.flush)
      io.output(io.stdout)
      for line in io.lines(name) do show(line) end
      local file = io.open(name)
      show(file:write("x"))
      file:close()
      os.remove(name)
      local full = io.open("/dev/full", "w")
      show(full:write(("x"):rep(100000)))
      show(full:flush())
      show(debug.getinfo(print, "u").nups)
      print(string.format("%s", "end"), io.write("[", 1, "]") == io.stdout)
    ]]
  end)

  it("write one piece for each call, whatever other threads write", function()
    local out = script.output([[
      local unsync = require("unsync")
      local work = unsync.thread(function(mark)
        for _ = 1, 200 do
          print(mark, mark, mark, mark)
          io.write(mark, "\t", mark, "\t", mark, "\t", mark, "\n")
        end
      end)
      local all = {}
      for i = 1, 4 do all[i] = work(("%d"):format(i):rep(50)) end
      for i = 1, 4 do all[i]:await() end
    ]])
    local lines = 0
    for line in out:gmatch("([^\n]*)\n") do
      lines = lines + 1
      local mark = line:match("^(%d+)\t")
      assert.equal(("\t" .. mark):rep(4):sub(2), line)
    end
    assert.equal(1600, lines)
  end)

  local function into_a_closed_pipe(code)
    local codes, err = script.path("epipe.code"), script.path("epipe.err")
    local command = ("{ %s 2>%s; echo $? >%s; } | head -n 1"):format(
      script.command(code), script.quote(err), script.quote(codes))
    local pipe = assert(io.popen("timeout 20 sh -c " .. script.quote(command)))
    local out = pipe:read("a")
    pipe:close()
    return out, tonumber(script.read_file(codes)), script.read_file(err)
  end

  it("end a script whose output nobody reads any more", function()
    for _, code in ipairs({
      [[print("first") while true do print("more") end]],
      [[while true do io.write("first\n") end]],
      [[while true do io.stdout:write("first\n"):flush() end]],
      [[while true do io.stdout:write("first\n") io.flush() end]],
    }) do
      local out, exit_code, err = into_a_closed_pipe(code)
      assert.equal("first\n", out)
      assert.equal(1, exit_code)
      assert.matches("standard output: broken pipe", err)
    end
  end)
end)

describe("os.execute", function()
  it("is as in stock Lua", function()
    stock.compare [[
      show(os.execute())
      show(os.execute("true"))
      show(os.execute("false"))
      show(os.execute("exit 7"))
      show(os.execute("kill -9 $$"))
      show(os.execute("kill -15 $$"))
      show(os.execute("no-such-command 2>/dev/null"))
      show(os.execute(""))
      show(os.execute("echo out; echo $0"))
      show(os.execute("cat"))
      try(os.execute, {})
      show(os.execute(nil))
      show(coroutine.wrap(function() return os.execute("exit 3") end)())
      show(pcall(os.execute, "exit 4"))
      show(select("#", os.execute("true")))
    ]]
  end)

  it("makes its own task wait, and no other", function()
    local turns, ok, how, code = turns_of_others(os.execute, "sleep 0.05; exit 5")
    assert.same({nil, "exit", 5}, {ok, how, code})
    assert.is_true(turns > 5)
  end)

  it("waits for many at once, each for its own", function()
    local started = unsync.now()
    local all = {}
    for i = 1, 20 do all[i] = unsync.spawn(os.execute, ("sleep 0.1; exit %d"):format(i)) end
    for i = 1, 20 do assert.same(table.pack(nil, "exit", i), table.pack(all[i]:await())) end
    assert.is_true(unsync.now() - started < 1.5 * script.slowness)
  end)

  it("hands down its three streams and no other descriptor", function()
    local null <close> = io.open("/dev/null")
    local pipe = io.popen("sleep 1", "w")
    local path = script.path("descriptors")
    os.execute("ls /proc/self/fd >" .. script.quote(path))
    local seen = {}
    for number in script.read_file(path):gmatch("%d+") do seen[#seen + 1] = number end
    assert.same({"0", "1", "2", "3"}, seen) -- 3: the directory that ls itself has open
    pipe:close()
    null:close()
  end)

  it("waits for a command in a metamethod where stock Lua would block, and blocks there too", function()
    local object = setmetatable({}, {__tostring = function() return tostring(select(3, os.execute("exit 6"))) end})
    assert.equal("6", tostring(object))
  end)

  it("ends the command when its task is cancelled, the deaf too", function()
    for _, deaf in ipairs({"", "trap '' TERM; "}) do
      local pid_file = script.path("pid")
      os.remove(pid_file)
      local command = ("%secho $$ >%s.part; mv %s.part %s; while :; do sleep 0.05; done"):format(
        deaf, pid_file, pid_file, pid_file)
      local future = unsync.spawn(os.execute, command)
      assert.is_true(script.eventually(function() return io.open(pid_file) ~= nil end))
      local pid = script.read_file(pid_file):match("%d+")
      assert.is_true(future:cancel())
      local ok, err = pcall(future.await, future)
      assert.is_false(ok)
      assert.equal("cancelled", err.code)
      assert.is_true(script.eventually(function() return io.open("/proc/" .. pid) == nil end))
    end
  end)

  it("starts nothing in a task that is cancelled already", function()
    local mark = script.path("mark")
    local future = unsync.spawn(function()
      local _ <close> = setmetatable({}, {__close = function() os.execute("echo >" .. script.quote(mark)) end})
      unsync.sleep(60)
    end)
    future:cancel()
    assert.is_false((pcall(future.await, future)))
    unsync.sleep(0.02)
    assert.is_nil((io.open(mark)))
  end)

  it("works in a thread and in a process", function()
    local function run() return os.execute("exit 9") end
    assert.same(table.pack(nil, "exit", 9), table.pack(unsync.thread(run)():await()))
    assert.same(table.pack(nil, "exit", 9), table.pack(unsync.cpu(run)():await()))
  end)
end)

describe("io.popen", function()
  it("is as in stock Lua", function()
    stock.compare [[
      local file = io.popen("echo one; echo two; exit 3")
      show(io.type(file), file:read("l"), file:read("n"), file:read("a"), file:read("a"), file:read("l"))
      show(file:close())
      show(io.type(file), tostring(file))
      try(file.close, file)
      try(file.read, file)
      local file = io.popen("cat; exit 2", "w")
      show(file:write("to ", "cat", 1, "\n") == file)
      show(file:close())
      show(io.popen("kill -9 $$"):close())
      show(io.popen("true"):close())
      for line in io.popen("printf 'a\nb\nc'"):lines() do show(line) end
      for _, mode in ipairs {"rw", "", "x", "r+", "rb", "a"} do try(io.popen, "true", mode) end
      try(io.popen)
      try(io.popen, {})
      try(function() io.popen("true", "x") end)
      do local file <close> = io.popen("cat >/dev/null", "w") file:write("x") end
      local file = io.popen("cat")
      show(file:close())
      show(io.close(io.popen("exit 4")))
      io.write("before ")
      local file = io.popen("cat", "w")
      file:write("after\n")
      file:close()
      io.input(io.popen("echo by default; exit 1"))
      show(io.read())
      show(io.close(io.input()))
      io.input(io.stdin)
      show((tostring(io.popen("true")):gsub("0x%x+", "")))
      show(file == file, getmetatable(io.popen("true")) == getmetatable(io.stdout), debug.getinfo(io.popen, "S").what)
    ]]
  end)

  it("closes while others go on", function()
    local pipe = io.popen("sleep 0.05; exit 5", "w")
    local turns, ok, how, code = turns_of_others(pipe.close, pipe)
    assert.same({nil, "exit", 5}, {ok, how, code})
    assert.is_true(turns > 5)
    turns = turns_of_others(function()
      local _ <close> = io.popen("sleep 0.05", "w")
    end)
    assert.is_true(turns > 5)
  end)

  it("does not hold the loop when a forgotten one is collected", function()
    local started = unsync.now()
    for _ = 1, 3 do io.popen("sleep 3", "w") end
    collectgarbage()
    collectgarbage()
    unsync.sleep(0.001)
    assert.is_true(unsync.now() - started < 1.5 * script.slowness)
  end)

  it("leaves no descriptor and no dead process behind", function()
    os.execute("true")
    io.popen("true"):close()
    local before = script.descriptors()
    for _ = 1, 20 do
      io.popen("true"):close()
      os.execute("true")
      io.popen("true")
    end
    collectgarbage()
    collectgarbage()
    local function dead_children()
      local self = script.read_file("/proc/self/stat"):match("^%d+")
      local pipe <close> = io.popen("cat /proc/[0-9]*/stat 2>/dev/null")
      local dead = 0
      for line in pipe:lines() do
        local state, parent = line:match("^.*%) (%a) (%d+)")
        if state == "Z" and parent == self then dead = dead + 1 end
      end
      return dead
    end
    assert.is_true(script.eventually(function() return dead_children() == 0 end))
    assert.is_true(script.eventually(function() return script.descriptors() <= before end))
  end)
end)

describe("os.exit", function()
  local cases = {
    ["os.exit()"] = 0, ["os.exit(true)"] = 0, ["os.exit(false)"] = 1, ["os.exit(7)"] = 7, ["os.exit(7, true)"] = 7,
    ["os.exit(nil, true)"] = 0, ["os.exit(3.0)"] = 3, ["io.write('buffered') os.exit(4)"] = 4,
    ["local x <close> = setmetatable({}, {__close = function() print('closed') end}) os.exit(2, true)"] = 2,
    ["setmetatable({}, {__gc = function() print('collected') end}) os.exit(2, true)"] = 2,
  }
  for code, expected in pairs(cases) do
    it(("ends the program as stock Lua does: %s"):format(code), function()
      local in_coroutine = "coroutine.wrap(function() " .. code .. " end)()"
      local in_task = "require('unsync').spawn(function() require('unsync').yield() " .. code .. " end):await()"
      for here, like in pairs({[code] = code, [in_coroutine] = in_coroutine, [in_task] = code}) do
        local there, ran = script.run(like, {program = stock.program}), script.run(here)
        assert.same({expected, there.out, ""}, {ran.code, ran.out, ran.err})
        assert.equal(expected, there.code)
      end
    end)
  end

  it("ends the program from a task while others wait, and from a thread", function()
    local ran = script.run([[
      local unsync = require("unsync")
      for _ = 1, 3 do unsync.spawn(unsync.sleep, 60) end
      unsync.spawn(os.execute, "sleep 60")
      unsync.thread(function() require("unsync").sleep(60) end)()
      unsync.spawn(function() unsync.sleep(0.01) os.exit(5, true) end)
      unsync.sleep(60)
    ]], {limit_s = 20})
    assert.same({5, ""}, {ran.code, ran.err})
    ran = script.run([[
      local unsync = require("unsync")
      unsync.spawn(unsync.sleep, 60)
      unsync.thread(function() io.write("written") os.exit(6) end)():await()
    ]], {limit_s = 20})
    assert.same({6, "written", ""}, {ran.code, ran.out, ran.err})
  end)

  it("takes the arguments of stock Lua", function()
    stock.compare [[
      try(os.exit, "x")
      try(os.exit, {})
      try(os.exit, 1.5)
    ]]
  end)
end)

describe("os.setlocale", function()
  it("is the main state's", function()
    assert.is_string(os.setlocale())
    assert.equal("C", os.setlocale("C"))
    local in_worker = unsync.thread(function()
      return os.setlocale(), select("#", os.setlocale("C")), (os.setlocale("C"))
    end)
    assert.same(table.pack(os.setlocale(), 2, nil), table.pack(in_worker():await()))
  end)
end)

describe("debug.sethook", function()
  it("follows into the tasks that are started under it", function()
    local lines, other = {}, {}
    local function work(into)
      into[#into + 1] = debug.gethook()
      unsync.yield()
      into[#into + 1] = debug.gethook()
    end
    local function hook() end
    debug.sethook(hook, "", 1000)
    local future = unsync.spawn(work, lines)
    debug.sethook()
    future:await()
    unsync.spawn(work, other):await()
    assert.same({hook, hook}, lines)
    assert.same({}, other)
  end)
end)
