--- Values and tables: what is sent is what comes, shared and cyclic references included.

-- luacheck: globals spec
local cases = require("codec.case")
local values_of = require("values")
local same, random_values = values_of.same, values_of.random

local case, eq = cases.define, cases.eq
local send = spec.send

case("nothing at all", function() eq(select("#", send()), 0) end)

case("nil, booleans and holes keep their places", function()
  local got = table.pack(send(nil, true, nil, false, nil))
  eq(got.n, 5)
  eq(got[1], nil)
  eq(got[2], true)
  eq(got[3], nil)
  eq(got[4], false)
  eq(got[5], nil)
end)

case("integers of every size", function()
  local all = {0, 1, -1, 127, 128, 129, -128, -129, 255, 256, 32767, 32768, -32768, -32769, 65535, 65536, 2147483647,
    2147483648, -2147483648, -2147483649, math.maxinteger, math.mininteger}
  for _, n in ipairs(all) do
    local got = send(n)
    eq(got, n)
    eq(math.type(got), "integer")
  end
end)

case("floats stay floats", function()
  for _, n in ipairs {0.0, 1.0, -1.0, 0.1, 1e308, 5e-324, 2.0 ^ 53, 2.0 ^ 63, math.huge, -math.huge, 127.0} do
    local got = send(n)
    eq(got, n)
    eq(math.type(got), "float")
  end
  eq(1 / send(-0.0), -math.huge)
  local nan = send(0 / 0)
  assert(nan ~= nan)
end)

case("strings of every length and byte", function()
  for size = 0, 300 do
    local text = ("x"):rep(size)
    eq(send(text), text)
  end
  local bytes = {}
  for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
  local all = table.concat(bytes)
  for _, byte in ipairs(bytes) do eq(send(byte), byte) end
  for size = 1, 256 do eq(send(all:sub(1, size)), all:sub(1, size)) end
  local large = all:rep(4000)
  eq(send(large), large)
end)

case("a string that comes up often is the same each time", function()
  local list, keys = {}, {}
  for i = 1, 2000 do
    list[i] = ("name %d"):format(i % 50)
    keys[("key number %d of many, so that it is rather a long one"):format(i % 50)] = list[i]
  end
  assert(same(send(list), list))
  assert(same(send({keys, list, keys}), {keys, list, keys}))
  local long = ("long"):rep(500)
  local bytes = spec.measure({long, long, long, long})
  assert(bytes < 2100, bytes)
end)

case("many different short strings", function()
  local list, set = {}, {}
  for i = 1, 5000 do
    list[2 * i - 1], list[2 * i] = "v" .. i, "v" .. i
    set["v" .. i] = "k" .. i
    set["k" .. i] = "v" .. i
  end
  assert(same(send(list), list))
  assert(same(send(set), set))
end)

case("tables with every kind of key", function()
  local t = {1, 2, 3, nil, 5, [0] = 0, [-1] = "minus", [1.5] = "half", [true] = "yes", [false] = "no", name = "n",
    [""] = "empty", ["with\0zero"] = 1, [math.huge] = "inf", [math.maxinteger] = "max", [2 ^ 53] = "float"}
  assert(same(send(t), t))
  local key = {}
  local got = send({[key] = key, key = key})
  eq(got[got.key], got.key)
  local f = function() return key end
  local by_function = send({[f] = f, f = f})
  eq(by_function[by_function.f], by_function.f)
  eq(send({[print] = 1})[print], 1)
end)

case("lists of numbers", function()
  for _, n in ipairs {0, 1, 3, 4, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 1000, 1023, 1024, 1025, 70000} do
    local integers, floats, mixed, wide, filled = {}, {}, {}, {}, {}
    for i = 1, n do
      integers[i], floats[i] = i, i + 0.5
      mixed[i] = i % 10 < 5 and i or i % 10 < 7 and i / 2 or i % 10 < 8 and "s" or i % 10 < 9 and {i} or false
      wide[i] = i % 7 == 0 and 1 << 40 or i % 5 == 0 and -70000 or i % 3 == 0 and 300 or i % 100
      filled[i] = 7
    end
    for _, list in ipairs {integers, floats, mixed, wide, filled, table.pack(table.unpack(integers, 1, n % 200))} do
      assert(same(send(list), list), n)
      list.also, list[-1], list[n + 5] = "also", "minus", "gap"
      assert(same(send(list), list), n)
      local back = send(list)
      assert(same(send(back), list), n) -- a list that the codec made
    end
  end
end)

case("lists with holes", function()
  for seed = 1, 60 do
    math.randomseed(seed)
    local list = {}
    local size = math.random(1, 600)
    for i = 1, size do list[i] = math.random(3) > 1 and i or i .. "" end
    for _ = 1, math.random(0, 20) do list[math.random(size)] = nil end
    for _ = 1, math.random(0, 5) do list[math.random(1, 5000)] = "far" end
    for _ = 1, math.random(0, 3) do list["k" .. math.random(9)] = true end
    assert(same(send(list), list), seed)
  end
  local sparse = {}
  for i = 1, 200 do sparse[i] = i end
  for i = 8, 61 do sparse[1 << i] = i end
  assert(same(send(sparse), sparse))
end)

case("a list whose end lies in the hash part", function()
  local t = {a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8}
  for i = 200, 1, -1 do t[i] = i end
  for _, k in ipairs {"a", "b", "c", "d", "e", "f", "g"} do t[k] = nil end
  for i = 201, 206 do t[i] = i end
  assert(same(send(t), t))
end)

case("shared and cyclic references", function()
  local shared = {1}
  local t = {a = shared, b = shared, list = {shared, shared}}
  t.self = t
  t[t] = t
  local got, again = send(t, shared)
  eq(got.a, got.b)
  eq(got.list[1], got.a)
  eq(got.list[2], again)
  eq(got.self, got)
  eq(got[got], got)
  got.a[1] = 2
  eq(shared[1], 1)
end)

case("a list nested a million deep", function()
  local list = false
  for i = 1, 1000000 do list = {list, i} end
  local got = send(list)
  for i = 1000000, 1, -1 do
    assert(got[2] == i)
    got = got[1]
  end
  eq(got, false)
end)

case("deep nesting of every kind", function()
  local leaf = {"leaf"}
  local deep = leaf
  for i = 1, 1000 do
    local inner = deep
    if i % 5 == 0 then deep = function() return inner end
    elseif i % 5 == 1 then deep = {[inner] = i, leaf = leaf}
    elseif i % 5 == 2 then deep = spec.box(i, inner)
    elseif i % 5 == 3 then deep = setmetatable({leaf = leaf}, {__index = inner})
    else deep = spec.holder(inner) end
  end
  local got, same_leaf = send(deep, leaf)
  for i = 1000, 1, -1 do
    if i % 5 == 0 then got = got()
    elseif i % 5 == 1 then
      eq(got.leaf, same_leaf)
      for key in pairs(got) do if key ~= "leaf" then got = key break end end
    elseif i % 5 == 2 then
      local n, inner = spec.box_get(got)
      eq(n, i)
      got = inner
    elseif i % 5 == 3 then
      eq(rawget(got, "leaf"), same_leaf)
      got = getmetatable(got).__index
    else got = got() end
  end
  eq(got, same_leaf)
end)

case("a wide and deep tree", function()
  local function tree(depth, width)
    if depth == 0 then return {} end
    local t = {}
    for i = 1, width do t[i] = tree(depth - 1, width) end
    return t
  end
  local t = tree(6, 4)
  for _ = 1, 70 do t = {t, {t}} end
  assert(same(send(t), t))
end)

case("random values", function()
  local first, last = 1, tonumber(os.getenv("CODEC_SEEDS")) or 400 // (tonumber(os.getenv("UNSYNC_SLOWNESS")) or 1)
  for seed = first, last do
    local values = random_values(seed)
    local got = table.pack(send(table.unpack(values, 1, values.n)))
    eq(got.n, values.n)
    if not same(got, values) then error(("seed %d"):format(seed)) end
    assert(spec.measure(table.unpack(values, 1, values.n)) == spec.measure(table.unpack(values, 1, values.n)))
  end
end)
