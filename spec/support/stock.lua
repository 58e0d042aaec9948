--- Runs the same case in stock Lua and here, to be compared. What waits here does not there: `wait()` gives up the turn
--- in the host and is nothing in stock Lua. Whatever a case prints must be the same.
---
---     stock.compare [[ print(pcall(table.sort, {3, 1, 2}, function(a, b) wait() return a < b end)) ]]
local assert = require("luassert")
local script = require("spec.support.script")

local stock = {program = "lua5.4"}

do
  local module = io.open(script.build .. "/unsync.so")
  stock.has_module = module ~= nil
  if module then module:close() end
end

-- One line each, so that line numbers in messages agree. Addresses differ from run to run.
local there = "local function wait() end "
local here = "local wait = require('unsync').yield "
local common = [[
local real_print, real_tostring = print, tostring;
local function text(v) return (real_tostring(v):gsub("0x%x+", "ADDRESS"):gsub("[^ '\n]*%.lua:", "SCRIPT:")) end;
local function show(...)
  local t = table.pack(...); for i = 1, t.n do t[i] = text(t[i]) end; real_print(table.concat(t, " | "))
end;
local function try(...) show(pcall(...)) end; ]]

local function complete(code, first) return first .. common:gsub("\n", " ") .. "\n" .. code end

--- What `code` prints in stock Lua.
function stock.output(code, options)
  local its = {program = stock.program}
  for key, value in pairs(options or {}) do its[key] = value end
  return script.output(complete(code, there), its)
end

--- What it prints in the host: as the main script, inside a task, and, where the module is built, in stock Lua with it.
function stock.compare(code, options)
  local expected = stock.output(code, options)
  assert(expected ~= "", "the case shows nothing")
  assert.equal(expected, script.output(complete(code, here), options))
  local in_task = ("require('unsync').spawn(function(...) %s\nend, ...):await()"):format(complete(code, here))
  assert.equal(expected, script.output(in_task, options), "in a task")
  if not stock.has_module then return end
  local with_module = {program = stock.program, env = {LUA_CPATH = script.build .. "/?.so"}}
  for key, value in pairs(options or {}) do with_module[key] = with_module[key] or value end
  assert.equal(expected, script.output(complete(code, here), with_module), "in stock Lua, with the module")
end

return stock
