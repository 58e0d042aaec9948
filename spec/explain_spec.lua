-- What a user reads of an error that nobody handles.
local script = require("spec.support.script")

--- What the script writes to stderr, without the directory of the script; it has to end with code 1.
local function told(code, options)
  local ran = script.run(code, options)
  assert.equal(1, ran.code, ran.err)
  return (ran.err:gsub("/[^\n ]*/run%d+%.lua", "x.lua"))
end

describe("an uncaught error", function()
  it("shows its message and the frames of the script, none of C", function()
    assert.equal("unsync: x.lua:1: wrong\nstack traceback:\n\tx.lua:1: in local 'culprit'\n\tx.lua:2: in main chunk\n",
      told("local function culprit() error('wrong') end\nculprit()"))
  end)

  it("shows the remote part first, then who awaited it, down to the script's line", function()
    for _, kind in ipairs({"thread", "cpu"}) do
      assert.equal(([[
unsync: x.lua:2: wrong
in %s far:
	x.lua:2: in function <x.lua:2>
awaited in near:
	x.lua:3: in function <x.lua:3>
awaited in main:
	x.lua:4: in main chunk
]]):format(kind), told(([[
local unsync = require "unsync"
local far = unsync.%s(function() error("wrong") end, {name = "far"})
local near = unsync.io(function() far():await() return 1 end, {name = "near"})
near():await()
]]):format(kind)))
    end
  end)

  it("leaves out what is ours", function()
    local text = told([[
      local unsync = require "unsync"
      unsync.scope(function(s)
        s:spawn(function() error("wrong", 0) end)
      end)
    ]])
    assert.is_nil(text:find("unsync/", 1, true), text)
    assert.is_nil(text:find("[C]", 1, true), text)
    assert.matches("awaited in main:\n\tx.lua:2: in main chunk\n$", text)
  end)

  it("says of a thread or process where it was even if nothing is left to show", function()
    assert.matches("far away\nin thread print:", told([[
      require("unsync").thread(error, {name = "print"})("far away", 0):await()
    ]]))
  end)

  it("says what a misspelt name was probably meant to be", function()
    for _, case in ipairs({
      {"unsync.thred(print)", "thread"}, {"unsync.promsie()", "promise"}, {"unsync.promise():awiat()", "await"},
      {"unsync.promise():and_hten(print)", "and_then"}, {"unsync.channel():sned(1)", "send"},
      {"unsync.semaphore(1):aquire()", "acquire"}, {"unsync.thred.x = 1", "thread"}, {"prnt(1)", "print"},
      {"table.insrt({}, 1)", "insert"}, {"unsync.io(function() unsync.slep(1) end)():await()", "sleep"},
    }) do
      local text = told("local unsync = require 'unsync'\n" .. case[1])
      assert.matches("^unsync: x.lua:2: [^\n]*\ndid you mean `" .. case[2] .. "`%?\n", text)
    end
  end)

  it("says nothing of the kind of a name that is like none of ours", function()
    local others = {"local t = {} t.frobnicate()", "frobnicate()", "local t = {} t.await()", "error('thred', 0)"}
    for _, code in ipairs(others) do
      assert.is_nil(told(code):find("did you mean", 1, true))
    end
  end)

  it("is told in the same way where it was not awaited, with where the call was made", function()
    assert.equal("unsync: a failure that nobody looked at, of thread save: x.lua:1: wrong\nin thread save:\n" ..
        "\tx.lua:1: in function <x.lua:1>\nstarted at x.lua:3\n",
      told("local save = require('unsync').thread(function() error('wrong') end, {name = 'save'})\n" ..
        "local function begin()\n  save()\nend\nbegin()"))
    assert.equal("unsync: a failure that nobody looked at, of io: x.lua:1: wrong\nstack traceback:\n" ..
        "\tx.lua:1: in function <x.lua:1>\nstarted at x.lua:2\n",
      told("local function fails() error('wrong') end\nrequire('unsync').spawn(fails)"))
    assert.matches("wrong\nstarted at x.lua:2\n$", told("local unsync = require 'unsync'\n" ..
      "unsync.spawn(function() unsync.sleep(0.001) error('wrong', 0) end)"):gsub("\nstack.*\n(started)", "\n%1"))
  end)

  it("is told plainly in a world turned upside down", function()
    for _, code in ipairs({
      "debug = nil error('bare')", "string.find = nil error('bare')", "table.concat = print error('bare')",
      "package.loaded = nil error('bare')", "setmetatable(_G, {__index = error}) error('bare')",
      "getmetatable('').__index = nil error('bare')", "require = nil error('bare')",
    }) do
      assert.matches("bare", told(code), code)
    end
  end)

  it("has no colours in a file, and none where they are not wanted on a terminal", function()
    local function on_terminal(env)
      local path = script.file("colours.lua", "error('wrong')")
      local ran = script.run(nil, {
        program = "/usr/bin/env", args = {"script", "-qec", script.program .. " " .. path, "/dev/null"}, env = env,
      })
      return ran.out
    end
    assert.is_nil(told("error('wrong')", {env = {TERM = "xterm"}}):find("\27", 1, true))
    if script.run(nil, {program = "/usr/bin/env", args = {"sh", "-c", "command -v script"}}).code ~= 0 then return end
    assert.matches("\27%[1;31m.*wrong\27%[0m", on_terminal({TERM = "xterm", NO_COLOR = false}))
    assert.matches("wrong", on_terminal({TERM = "xterm", NO_COLOR = "1"}))
    assert.is_nil(on_terminal({TERM = "xterm", NO_COLOR = "1"}):find("\27", 1, true))
    assert.is_nil(on_terminal({TERM = "dumb", NO_COLOR = false}):find("\27", 1, true))
  end)

  it("costs nothing before it happens", function()
    assert.equal("nil\n", script.output([[
      for key in pairs(package.loaded) do if key:find("explain") then print(key) end end
      print(package.loaded["unsync.explain"])
    ]]))
  end)
end)

describe("an option that does not exist", function()
  it("is told, with the one that was probably meant", function()
    for given, meant in pairs({["--tarce"] = "--trace", ["--trace_=x"] = "--trace", ["--stat"] = "--stats",
                               ["--plcae=*=io"] = "--place"}) do
      local ran = script.run(nil, {options = {given}})
      assert.equal(1, ran.code)
      assert.equal(("unsync: unrecognized option '%s': did you mean `%s`?\n"):format(given, meant), ran.err)
    end
    local ran = script.run(nil, {options = {"--frobnicate"}})
    assert.equal(1, ran.code)
    assert.matches("^unsync: unrecognized option '%-%-frobnicate'\nusage: ", ran.err)
  end)
end)
