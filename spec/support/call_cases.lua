-- The cases of spec/c/call_test.c: what a native task sees of Lua's values, and what Lua sees of its results.
-- `spec.call(options, "echo.task", ...)` runs a task of spec/support/plugins/echo.c here and now.

local spec = _G.spec
local names, cases = {}, {}
local function case(name, fn)
  names[#names + 1] = name
  cases[name] = fn
end

local function echo(task, ...) return spec.call({}, "echo." .. task, ...) end

-- The error of a call that must fail.
local function fails(task, ...)
  local ok, err = pcall(echo, task, ...)
  assert(not ok, "it did not fail")
  assert(type(err) == "table", tostring(err))
  return err
end

local function equal(expected, given)
  if expected ~= given then
    error(("expected %s, got %s"):format(tostring(expected), tostring(given)), 2)
  end
end

-- The same in kind, value and shape: shared and cyclic references too.
local function same(a, b, seen)
  if type(a) ~= "table" or type(b) ~= "table" then
    if math.type(a) ~= math.type(b) then return false, "kind" end
    if a ~= a then return b ~= b, "NaN" end
    if a == 0 and math.type(a) == "float" then return b == 0 and 1 / a == 1 / b, "zero" end
    return a == b, tostring(a) .. " ~= " .. tostring(b)
  end
  seen = seen or {}
  if seen[a] then return seen[a] == b, "identity" end
  seen[a] = b
  local count = 0
  for key, value in next, a do
    count = count + 1
    local other = b[key]
    if type(key) ~= "table" and other == nil then return false, "no " .. tostring(key) end
    if type(key) ~= "table" then
      local fine, why = same(value, other, seen)
      if not fine then return false, ("[%s]: %s"):format(key, why) end
    end
  end
  for _ in next, b do count = count - 1 end
  return count == 0, "number of fields"
end

local function assert_same(a, b)
  local fine, why = same(a, b)
  if not fine then error(why, 2) end
end

case("gives every kind of value back", function()
  local values = table.pack(nil, true, false, 0, 1, -1, 127, 128, -128, -129, 32767, 32768, -32768, 1 << 31, -1 << 31,
    1 << 40, math.maxinteger, math.mininteger, 0.0, -0.0, 1.5, 1 / 0, -1 / 0, 0 / 0, 3.0, "", "a", "\0\255\0",
    ("s"):rep(31), ("t"):rep(32), ("u"):rep(255), ("v"):rep(256), ("w"):rep(5000), ("x"):rep(100000), {}, {1, 2, 3},
    {a = 1}, {1, nil, 3, n = 3}, {[1.5] = 2, [true] = 3, [-1] = 4}, {{{}}}, nil)
  for _, task in ipairs {"all", "walk"} do
    local back = table.pack(echo(task, table.unpack(values, 1, values.n)))
    equal(values.n, back.n)
    for i = 1, values.n do
      local fine, why = same(values[i], back[i])
      assert(fine, ("%s %d: %s"):format(task, i, why))
    end
  end
end)

case("calls without arguments and without results", function()
  equal(0, select("#", echo("all")))
  equal(1, select("#", echo("all", nil)))
  equal(250, select("#", echo("all", table.unpack({}, 1, 250))))
end)

case("tells the kinds apart", function()
  local kinds = {echo("types", nil, true, 1, 1.0, "s", {}, print, function() end, math.huge, setmetatable({}, {}))}
  equal("nil boolean integer number string table userdata function number table", table.concat(kinds, " "))
end)

case("reads arguments by their type", function()
  local back = {echo("typed", true, 3.0, 4, "a\0b", "text", {7, 8, 9, x = 1})}
  assert_same({true, 3, 4.0, "a\0b", "text", 3}, back)
end)

case("knows what is left out", function()
  assert_same({true, 42, 0.5, "otherwise"}, {echo("optional")})
  assert_same({true, 42, 0.5, "otherwise"}, {echo("optional", nil, nil, nil, nil)})
  assert_same({false, 1, 2.0, "x"}, {echo("optional", false, 1, 2, "x")})
end)

case("names the argument that is wrong", function()
  local function check(message, ...)
    local err = fails("typed", ...)
    equal("argument", err.code)
    equal("bad argument #" .. message, err.message)
  end
  check("1 to 'echo.typed' (boolean expected, got no value)")
  check("1 to 'echo.typed' (boolean expected, got number)", 1)
  check("2 to 'echo.typed' (integer expected, got nil)", true, nil, 1)
  check("2 to 'echo.typed' (number has no integer representation)", true, 1.5)
  check("2 to 'echo.typed' (number has no integer representation)", true, 2.0 ^ 63)
  check("2 to 'echo.typed' (number has no integer representation)", true, 0 / 0)
  check("2 to 'echo.typed' (integer expected, got string)", true, "1")
  check("3 to 'echo.typed' (number expected, got table)", true, 1, {})
  check("4 to 'echo.typed' (string expected, got number)", true, 1, 1, 1)
  check("5 to 'echo.typed' (string contains zeros)", true, 1, 1, "", "a\0b")
  check("5 to 'echo.typed' (string expected, got function)", true, 1, 1, "", function() end)
  check("6 to 'echo.typed' (table expected, got boolean)", true, 1, 1, "", "", true)
end)

case("names the way to a value in a table", function()
  local function check(message, value)
    local err = fails("path", value)
    equal("argument", err.code)
    equal("bad argument #1 to 'echo.path' (" .. message .. ")", err.message)
  end
  equal(5, echo("path", {a = {b = {{}, {c = 5}}}}))
  check("integer expected for 'a', got nil", nil and {} or {})
  check("integer expected for 'a.b', got nil", {a = {}})
  check("integer expected for 'a.b[2]', got nil", {a = {b = {}}})
  check("integer expected for 'a.b[2].c', got nil", {a = {b = {1, {}}}})
  check("integer expected for 'a.b[2].c', got string", {a = {b = {1, {c = "x"}}}})
  check("number has no integer representation at 'a.b[2].c'", {a = {b = {1, {c = 0.5}}}})
  check("table expected for 'a.b', got number", {a = {b = 1}})
  check("table expected for 'a.b[2]', got string", {a = {b = {1, "s"}}})
  check("table expected for 'a', got function", {a = print and function() end})
  check("table expected, got number", 1)
  local cyclic = {a = {}}
  cyclic.a.up = cyclic
  cyclic.a.b = {cyclic, {c = cyclic}}
  check("integer expected for 'a.b[2].c', got table", cyclic)
  equal("bad argument #1 to 'echo.path' (integer expected, got nil)", fails("path", nil).message)
end)

case("names the way to a number in a list", function()
  equal("bad argument #1 to 'echo.sum' (number expected for '[3]', got string)", fails("sum", {1, 2, "x"}).message)
  equal("bad argument #1 to 'echo.sum' (number expected for '[1]', got table)", fails("sum", {{}}).message)
  equal("bad argument #1 to 'echo.sum_integers' (number has no integer representation at '[4]')",
    fails("sum_integers", {1, 2, 3, 4.5}).message)
  local list = {}
  for i = 1, 1000 do list[i] = i end
  list[700] = 0.25
  equal("bad argument #1 to 'echo.sum_integers' (number has no integer representation at '[700]')",
    fails("sum_integers", list).message)
end)

case("shows the end of a long way", function()
  local deep = {"number 1"}
  for i = 1, 100 do deep = {[i] = deep, ["field " .. i] = i} end
  equal("bad argument #1 to 'echo.sum_deep' (number expected for '...[7][6][5][4][3][2][1][1]', got string)",
    fails("sum_deep", deep).message)
end)

case("copies lists of numbers, however they are packed", function()
  for _, step in ipairs {1, -1, 100, -300, 70000, 1 << 33, 0.5} do
    for _, count in ipairs {0, 1, 2, 3, 10, 1000} do
      local list, sum = {}, 0
      for i = 1, count do
        list[i] = i * step
        sum = sum + list[i]
      end
      equal(sum + 0.0, echo("sum", list))
      if math.type(step) == "integer" then equal(sum, echo("sum_integers", list)) end
    end
  end
  equal(10.5, echo("sum", {1, 2.5, 3, 4}))
  equal(10, echo("sum_integers", {1, 2.0, 3, 4.0}))
end)

case("walks lists in order and by index", function()
  local list = {}
  for i = 1, 500 do list[i] = i % 7 == 0 and ("item " .. i) or i % 5 == 0 and {i} or i % 3 == 0 and i / 2 or i end
  assert_same(list, (echo("list", list)))
  assert_same({}, (echo("list", {x = 1})))
  list[250] = nil -- the list ends at some border, as `#` does
  local length = #echo("list", list)
  assert(length == 249 or length == 500, length)
end)

case("keeps tables that are shared or cyclic what they are", function()
  local shared = {"shared"}
  local a, b, list = echo("all", shared, {shared, x = shared}, {shared, shared})
  assert(a == b[1] and a == b.x and a == list[1] and a == list[2] and a[1] == "shared")
  local cycle = {}
  cycle[1], cycle.self = cycle, cycle
  equal(true, echo("cycle", cycle))
  equal(false, echo("cycle", {{}}))
  local back = echo("all", cycle)
  assert(back[1] == back and back.self == back)
  local long = {}
  local at = long
  for i = 1, 1000 do
    at.next = {up = at, root = long, i}
    at = at.next
  end
  assert_same(long, (echo("all", long)))
  local first, second = echo("all", long, at)
  assert_same(long, first)
  for _ = 1, 1000 do first = first.next end
  assert(first == second)
end)

case("takes metatables off", function()
  local back = echo("all", setmetatable({x = 1}, {__index = {y = 2}}))
  assert_same({x = 1}, back)
  equal(nil, getmetatable(back))
end)

case("nests to any depth", function()
  for _, depth in ipairs {1, 30, 32, 33, 63, 64, 65, 66, 100, 129, 1000, 100000} do
    local table = {}
    for _ = 2, depth do table = {table} end
    equal(depth, echo("depth", table))
    equal(depth, echo("depth", (echo("all", table))))
    equal(depth, echo("depth", (echo("nested", depth))))
  end
end)

case("nests deep among other things", function()
  local function tree(depth) return depth == 0 and {"leaf"} or {tree(depth - 1), depth, name = "n" .. depth} end
  local broad = {tree(150), tree(3), tree(70), x = tree(200), y = {tree(65), tree(64)}}
  assert_same(broad, (echo("all", broad)))
  local a, b = echo("all", broad, tree(100))
  assert_same(broad, a)
  assert_same(tree(100), b)
  assert_same(tree(100), (echo("walk", tree(100))))
end)

case("puts tables of every make", function()
  local back = echo("mixed")
  local key
  for k in pairs(back) do if type(k) == "table" then key = k end end
  equal("a table is the key", back[key])
  equal(nil, next(key))
  back[key] = nil
  assert_same({1, nil, 2.5, name = "mixed", [-7] = true, [false] = "no", list = {"\0", "\0a", "\0ab"}}, back)
end)

case("puts bytes without a copy, large and small", function()
  for _, size in ipairs {0, 1, 100, 4095, 4096, 100000, 10000000} do
    equal(("x"):rep(size), (echo("bytes", size)))
    equal(("y"):rep(size), (echo("foreign", size)))
  end
  local err = fails("bytes", 1 << 60)
  equal("ENOMEM", err.code)
  equal("not enough memory for " .. (1 << 60) .. " bytes", err.message)
end)

case("fails with code and message", function()
  local err = fails("fail", "my_code", "what went wrong")
  equal("my_code", err.code)
  equal("what went wrong", err.message)
  equal("what went wrong", tostring(err))
  equal("failed", err.outcome)
  equal("", fails("fail", "", "").message)
  err = fails("fail_errno", 2, "/no/such")
  equal("ENOENT", err.code)
  equal("/no/such: no such file or directory", err.message)
  err = fails("fail_arg", 17)
  equal("argument", err.code)
  equal("bad argument #1 to 'echo.fail_arg' (out of range: 17)", err.message)
end)

case("tells a plugin's mistakes", function()
  local function check(code, message, task, ...)
    local err = fails(task, ...)
    equal(code, err.code)
    equal(message, err.message)
  end
  check("failed", "native task 'echo.returns' failed without saying why (-1)", "returns", -1)
  check("failed", "native task 'echo.returns' failed without saying why (7)", "returns", 7)
  check("misuse", "native task 'echo.give_up' says that it was cancelled, but nobody did that", "give_up")
  check("misuse", "native task 'echo.leave_open' put a table that was not ended", "leave_open")
  check("misuse", "native task 'echo.end_twice' put the end of a table that was not begun", "end_twice")
  check("misuse", "native task 'echo.lone_key' put a key without a value at the end of a table", "lone_key")
  check("misuse", "native task 'echo.nil_key' put nil as a key", "nil_key")
  check("misuse", "native task 'echo.key_outside' put a key outside of a table", "key_outside")
  check("misuse", "native task 'echo.all' put a function", "all", function() end)
  check("misuse", "native task 'echo.all' put a function", "all", {1, {x = function() end}})
  check("misuse", "native task 'echo.all' put an object (a future, a userdata)", "all", print)
end)

case("is cancelled by its token", function()
  local ok, err = pcall(spec.call, {cancel = true}, "echo.work", 10)
  equal(false, ok)
  equal("cancelled", err.code)
  equal("cancelled", err.outcome)
  equal("token", err.stopped_by)
  equal("echo.work was cancelled", err.message)
  equal(0, spec.call({cancel = true}, "echo.work", 0)) -- it never looked: it is done
end)

case("knows its deadline", function()
  local left, later = echo("deadline")
  equal(-1, left)
  equal(true, later)
  left, later = spec.call({deadline = 100}, "echo.deadline")
  assert(left > 99000 and left <= 100000, left)
  equal(true, later)
  local ok, err = pcall(spec.call, {deadline = 0.02}, "echo.work", 1000000)
  equal(false, ok)
  equal("timeout", err.code)
  equal("failed", err.outcome)
  equal("echo.work has passed its deadline", err.message)
end)

case("reports progress, but not too often", function()
  equal(100000, echo("work", 100000, 0))
  local done, total, reports = spec.progress()
  equal(100000.0, done)
  equal(100000.0, total)
  assert(reports >= 2 and reports < 5000, reports)
end)

case("has all that its header has", function() equal(true, echo("has")) end)

-- Any values: a seeded generator, so that what fails can be run again.
local function generator(seed)
  math.randomseed(seed)
  local random, made = math.random, {}
  local function scalar()
    local kind = random(9)
    if kind == 1 then return random() < 0.5 end
    if kind == 2 then return random(0, 127) end
    if kind == 3 then return random(0) >> random(0, 63) end
    if kind == 4 then return -(random(0) >> random(1, 63)) end
    if kind == 5 then return (random() - 0.5) * 2.0 ^ random(-100, 100) end
    if kind == 6 then return ("field" .. random(20)) end
    if kind == 7 then return string.char(random(0, 255)):rep(random(0, 40)) end
    if kind == 8 then return ("long"):rep(random(0, 100)) end
    return random(20) == 1 and ("lent"):rep(random(900, 2000)) or 1 / random()
  end
  local function value(depth)
    if depth > 0 and random(3) == 1 then
      if #made > 0 and random(4) == 1 then return made[random(#made)] end
      local new = {}
      made[#made + 1] = new
      local kind = random(5)
      if kind <= 2 then for i = 1, random(0, 12) do new[i] = value(depth - 1) end end
      if kind == 2 or kind == 3 then for _ = 1, random(0, 8) do new[scalar()] = value(depth - 1) end end
      if kind == 4 then for i = 1, random(0, 70) do new[i] = random(0) >> random(0, 63) end end
      if kind == 5 then for i = 1, random(0, 20) do new[i] = random() end new.name = value(depth - 1) end
      return new
    end
    return scalar()
  end
  return function()
    made = {}
    local values = {n = random(0, 6)}
    for i = 1, values.n do if random(8) > 1 then values[i] = value(random(0, 9)) end end
    return values
  end
end

case("gives any values back", function()
  for seed = 1, 300 do
    local values = generator(seed)()
    local back = table.pack(echo("all", table.unpack(values, 1, values.n)))
    local fine, why = same(values, back)
    assert(fine, ("seed %d: %s"):format(seed, why))
  end
end)

return {
  names = names,
  run = function(name) cases[name]() end,
}
