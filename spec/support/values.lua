--- Values for specs of what crosses: random ones, and whether two are of one shape.

--- True where two values are of the same shape: all that is equal, shared or cyclic in one is so in the other.
local function same(a, b, seen)
  seen = seen or {}
  if type(a) ~= type(b) or math.type(a) ~= math.type(b) then return false end
  if type(a) == "number" then
    return a == b and 1 / a == 1 / b or a ~= a and b ~= b or math.type(a) == "integer" and a == b
  end
  if type(a) == "function" then
    if seen[a] then return seen[a] == b end
    seen[a] = b
    local one, other = debug.getinfo(a, "Su"), debug.getinfo(b, "Su")
    if one.what == "C" then return a == b end
    if one.source ~= other.source or one.linedefined ~= other.linedefined then return false end
    for i = 1, one.nups do
      local _, x = debug.getupvalue(a, i)
      local _, y = debug.getupvalue(b, i)
      if x ~= _G or y ~= _G then
        if not same(x, y, seen) then return false end
      end
    end
    return true
  end
  if type(a) ~= "table" then return a == b end
  if seen[a] ~= nil then return seen[a] == b end
  seen[a] = b
  if not same(getmetatable(a), getmetatable(b), seen) then return false end
  local pending = {} -- keys that are not themselves in the other
  for key, value in next, a do
    if type(key) == "table" or type(key) == "function" then
      pending[#pending + 1] = key
    elseif not same(value, rawget(b, key), seen) then
      return false
    end
  end
  local count_a, count_b = 0, 0
  for _ in next, a do count_a = count_a + 1 end
  for _ in next, b do count_b = count_b + 1 end
  if count_a ~= count_b then return false end
  for _, key in ipairs(pending) do
    local found = seen[key] ~= nil and rawget(b, seen[key]) ~= nil and same(a[key], b[seen[key]], seen)
    if not found then
      for other, value in next, b do
        if type(other) == type(key) and not found then
          local copy = setmetatable({}, {__index = seen}) -- a guess must not leave traces
          for k, v in next, seen do copy[k] = v end
          found = same(key, other, copy) and same(a[key], value, copy)
          if found then seen = copy end
        end
      end
    end
    if not found then return false end
  end
  return true
end

--- Seeded random values of all kinds, with sharing and cycles.
local function random_values(seed)
  math.randomseed(seed)
  local random = math.random
  local made, budget = {}, random(5, 400)
  local value

  local function scalar()
    local kind = random(12)
    if kind == 1 then return random(0) end
    if kind == 2 then return random(-200, 200) end
    if kind == 3 then return random(-70000, 70000) end
    if kind == 4 then return random() end
    if kind == 5 then return random(3) == 1 and math.huge or random(2) == 1 and -0.0 or 1e300 * random() end
    if kind == 6 then return random(2) == 1 end
    if kind == 7 then return ("s"):rep(random(0, 60)) .. random(9) end
    if kind == 8 then return ("key%d"):format(random(20)) end
    if kind == 9 then return string.char(random(0, 255), random(0, 255)) end
    if kind == 10 then return ("long %d "):rep(random(10, 20)):format(random(3), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
      1, 1, 1, 1, 1, 1) end
    if kind == 11 then return ({print, string.format, math, _G, io.stdout, table.concat})[random(6)] end
    return nil
  end

  local function fill(t)
    made[#made + 1] = t
    local shape = random(5)
    if shape == 1 then
      for i = 1, random(0, 150) do t[i] = random(100) end
    elseif shape == 2 then
      for i = 1, random(0, 150) do t[i] = random() end
    elseif shape == 3 then
      for i = 1, random(0, 8) do t[i] = value() end
    end
    for _ = 1, random(0, 6) do
      local key = random(4) == 1 and value() or scalar()
      if key ~= nil and key == key then t[key] = value() end
    end
    return t
  end

  function value()
    budget = budget - 1
    if budget < 0 or random(3) > 1 then return scalar() end
    local kind = random(10)
    if kind <= 2 and #made > 0 then return made[random(#made)] end
    if kind <= 6 then return fill({}) end
    if kind == 7 then
      local t = setmetatable({}, fill({__index = value()}))
      return fill(t)
    end
    local a, b = value(), value()
    local function get() return a, b end
    made[#made + 1] = get
    if kind == 8 then return get end
    local function set(x) a = x end
    made[#made + 1] = set
    if kind == 9 then
      a = {get, set}
      return a
    end
    return {set, function() return get, set, b end}
  end
  local results = {n = random(0, 5)}
  for i = 1, results.n do results[i] = value() end
  return results
end

return { same = same, random = random_values }
