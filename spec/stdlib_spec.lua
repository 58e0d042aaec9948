-- Lua's own functions that must know tasks: what they do in stock Lua, and waits that go through them.
local unsync = require("unsync")
local script = require("spec.support.script")
local stock = require("spec.support.stock")
local turns_of_others = require("spec.support.turns")

local os, select = os, select -- what crosses to a worker brings its upvalues, and busted's environment must not be one

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
