-- The session: what is typed, what is shown. Here without a terminal; spec/terminal_spec.lua has one.
local script = require("spec.support.script")

--- What a session prints for these lines, from a pipe: stdout, stderr, exit code.
local function session(lines, options)
  options = options or {}
  options.options = options.options or {}
  options.stdin = type(lines) == "table" and table.concat(lines, "\n") .. "\n" or lines
  local ran = script.run(nil, options)
  return ran.out, ran.err, ran.code
end

--- The same, where nothing may go wrong.
local function output(lines, options)
  local out, err, code = session(lines, options)
  assert.same({"", 0}, {err, code})
  return out
end

describe("the session", function()
  it("shows the values of expressions, and nothing of statements", function()
    assert.equal("2\n5\n\"text\"\nnil\n1\tnil\ttrue\n", output({"1+1", "x = 5", "x", "'text'", "nil", "1, nil, true",
      "print()", "=nil"}):gsub("true\n\nnil\n$", "true\n"), nil)
  end)

  it("shows one entry after another, as they come", function()
    assert.equal("a\n1\nb\n2\n", output({"print('a')", "1", "print('b')", "2"}))
  end)

  it("takes more lines where one is unfinished", function()
    assert.equal("3\n\"a\\nb\"\n42\n", output({"1 +", "2", "[[a", "b]]", "function f(n)", "  return n", "end",
      "f(42)"}))
  end)

  it("keeps locals for later lines, as the variables that they were", function()
    assert.equal("2\n2\n10\n11\n", output({
      "local n = 0 function inc() n = n + 1 return n end", "inc() == 1 and inc()", "n", "n = 10", "n", "inc()"}))
    assert.equal("3\n\"f2\"\n1\n", output({"local a <const>, b = 1, 2", "a + b",
      "local function f(x) if x == 2 then return 'f' .. x end return f(x + 1) end", "f(0)", "do local b = 5 end",
      "a"}))
    assert.equal("4\n", output({"local x = 1 do local x = 2 end local x = 4 return x"}))
    assert.equal("4\n4\n", output({"local x = 4 return x", "x"}))
    local _, err = session({"local a <const> = 1", "a = 2"})
    assert.matches("attempt to assign to const variable 'a'", err)
  end)

  it("reads over what a script may begin with: a byte order mark, a line for the shell", function()
    assert.equal("1\n", output("\u{FEFF}1\n"))
    assert.equal("1\n", output("#!/usr/bin/env unsync\n1\n"))
    assert.equal("0\n", output("\u{FEFF}#!/usr/bin/env unsync\n#''\n"))
    local _, err, code = session({"error('second')"}) -- the lines are counted as they are in the file
    assert.same({"stdin:1: second\n", 1}, {err, code})
    _, err = session("#!/usr/bin/env unsync\nerror('second')\n")
    assert.equal("stdin:2: second\n", err)
    _, err = session("1\n#!/usr/bin/env unsync\n")
    assert.matches("^stdin:2: ", err)
  end)

  it("counts the lines as they are typed, whatever became of those before", function()
    local _, err = session({"local a <const> = 1", "a = 2", "x = = 1", "nothing()", ".time nothing()", ".nosuch",
      "nothing()", "for i = 1, 1 do", "  nothing() end"})
    local lines = {}
    for number in err:gmatch("stdin:(%d+):") do lines[#lines + 1] = number end
    assert.equal("2 3 4 5 7 9", table.concat(lines, " "), err)
  end)

  it("says what ended it, also where a line held it", function()
    local _, err, code = session({
      "local pid = io.open('/proc/self/stat'):read('n')",
      "os.execute('(sleep 0.1; kill -TERM ' .. pid .. ') &') while true do tostring(0.5) end",
    })
    assert.matches("^unsync: interrupted by SIGTERM\n", err)
    assert.equal(143, code)
  end)

  it("keeps the locals of a line that failed", function()
    local out = session({"local kept = 7 error('x')", "kept"})
    assert.equal("7\n", out)
  end)

  it("has unsync, as a local that functions take along", function()
    assert.equal("true\n\"in a thread\"\n3\n", output({"unsync == require 'unsync'",
      "unsync.thread(function() unsync.sleep(0.001) return 'in a thread' end)():await()",
      "unsync.cpu(function(...) unsync.sleep(0.001) return select('#', ...) end)(1, 2, 3):await()"}))
  end)

  it("has the last value in _", function()
    assert.equal("21\n42\n42\n", output({"21", "_ * 2", "x = 1 return _"}))
  end)

  it("waits at the top level, while tasks go on", function()
    assert.equal("tick\n\"slept\"\n", output({
      "local t = unsync.spawn(function() unsync.sleep(0.001) print('tick') end)",
      "(function() t:await() return 'slept' end)()"}))
  end)

  it("ends when all that it started has ended, where there is no terminal", function()
    assert.equal("last\n", output({"local t = unsync.spawn(function() unsync.sleep(0.01) print('last') end)"}))
  end)

  it("tells errors on stderr and goes on; then the exit code is 1", function()
    local out, err, code = session({"error('went wrong', 0)", "1 = 2", "nosuch()", "'alive'"})
    assert.equal("\"alive\"\n", out)
    assert.matches("^went wrong\n", err)
    assert.matches("\nstdin:2: unexpected symbol near '1'\nstdin:3: attempt to call a nil value (global 'nosuch')\n",
      err, 1, true)
    assert.equal(1, code)
  end)

  it("says where an error came from, its own frames left out", function()
    local _, err = session({"function culprit() error('deep') end", "culprit()"})
    assert.matches("stdin:1: deep\nstack traceback:\n.*in function 'culprit'\n\tstdin:2: in the line\n$", err)
    assert.is_nil(err:find("repl", 1, true))
    _, err = session({"unsync.thread(function() error('far') end)():await()"})
    assert.matches("stdin:1: far\n.*awaited in:\n.*stdin:1: in the line\n$", err)
  end)

  it("tells errors of any kind", function()
    local _, err = session({"error({code = 3})", "error(nil)", "error(setmetatable({}, {__tostring = error}))"})
    assert.matches("error: { code = 3 }", err, 1, true)
    assert.matches("nil\n", err)
    assert.matches("whose tostring failed", err)
  end)

  it("tells a deadlock of the line, and goes on", function()
    local out, err = session({"unsync.promise():await()", "'on'"})
    assert.matches("^deadlock: ", err)
    assert.equal("\"on\"\n", out)
  end)

  it("lets a line read what follows it", function()
    assert.equal("\"the text\"\n7\n", output({"io.read()", "the text", "io.read('n', 'l')", "7"}):gsub("7\t.*", "7\n"))
  end)

  it("tells what is unfinished at the end", function()
    local out, err, code = session("1\nfor i = 1, 2 do")
    assert.same({"1\n", 1}, {out, code})
    assert.matches("stdin:2: 'end' expected near <eof>", err)
  end)

  it("runs the last line without its end", function()
    assert.equal("7\n", output("7"))
  end)

  it("reads a line while others of its program read from stdin no more", function()
    assert.equal("1\n", output({"unsync.thread(function() return 1 end)():await()"}))
  end)
end)

describe("what is typed", function()
  it("may be no text at all", function()
    local out, _, code = session("\0\255\254\n'\255'\nx = 'a\0b' return #x\n\27[A\n1\n")
    assert.matches('"\\xFF"\n', out, 1, true)
    assert.matches("3\n", out)
    assert.matches("1\n$", out)
    assert.equal(1, code)
  end)

  it("may be a line of 10 MB", function()
    assert.equal("10000000\n", output("#'" .. ("x"):rep(10000000) .. "'\n"))
  end)

  it("may be nothing", function()
    assert.equal("", output(""))
    assert.equal("", output("\n\n\n"))
    assert.equal("", output("-- a comment\n"))
  end)
end)

describe("a value", function()
  local function shows(expression, expected)
    assert.equal(expected .. "\n", output({expression}), expression)
  end

  it("is shown as Lua, where it can be", function()
    shows("3.0, 10, 1e100, -0.0", "3.0\t10\t1e+100\t-0.0")
    shows("1/0, true", "inf\ttrue")
    shows([['quoted "\n\t\\ \0011 \255 é']], [["quoted \"\n\t\\ \x011 \xFF é"]])
    shows("{}", "{}")
    shows("{1, 2, {3, x = {y = 'z'}}}", [[{ 1, 2, { 3, x = { y = "z" } } }]])
    shows("{b = 1, a = 2, ['no name'] = 3, [true] = 4, [10] = 5, ['end'] = 6}",
      [[{ [10] = 5, a = 2, b = 1, ["end"] = 6, ["no name"] = 3, [true] = 4 }]])
    shows("(function() end)", "function <stdin:1>")
    assert.matches("^function: 0?x?%x+\n$", output({"print"}))
    assert.matches("^thread: 0x%x+\n$", output({"coroutine.create(print)"}))
  end)

  it("with a circle names the way back", function()
    shows("(function() local t = {a = {}} t.a.up = t t.a.here = t.a return t end)()",
      "{ a = { here = <cycle: _.a>, up = <cycle: _> } }")
  end)

  it("is cut where it is deep, long or wide", function()
    shows("{{{{{{}}}}}}", "{ { { { {…} } } } }")
    local out = output({"(function() local t = {} for i = 1, 100000 do t[i] = i end return t end)()"})
    assert.matches("1, 2, 3.*60, … 99940 more", out)
    for line in out:gmatch("[^\n]+") do assert.is_true(#line <= 80) end
    out = output({"('x'):rep(1e7)"})
    assert.is_true(#out < 2100)
    assert.matches("10000000 bytes in all", out)
    assert.is_true(#output({"_G"}) < 20000)
  end)

  it("stands on several lines where one is too short", function()
    shows("{alpha = ('a'):rep(30), beta = ('b'):rep(30), gamma = 1}", ([[
{
  alpha = "%s",
  beta = "%s",
  gamma = 1
}]]):format(("a"):rep(30), ("b"):rep(30)))
  end)

  it("is shown by its own __tostring, and is not called otherwise", function()
    shows("setmetatable({}, {__tostring = function() return 'mine' end})", "mine")
    shows("setmetatable({}, {__tostring = function() error('x') end})", "table (whose tostring failed)")
    shows("setmetatable({x = 1}, {__index = error, __pairs = error, __len = error, __name = 'Point'})",
      "Point { x = 1 }")
    assert.matches("^file %(0x", output({"io.stdout"}))
  end)

  it("that is a future shows its state, and what came of it", function()
    shows("unsync.resolved(1, {2})", "future: promise done: 1, { 2 }")
    shows("unsync.resolved()", "future: promise done")
    shows("unsync.rejected('no')", "future: promise failed: no")
    assert.matches("^future: promise pending\n$", output({"unsync.promise()"}))
  end)
end)

describe("a command", function()
  it("is none where Lua is meant", function()
    assert.equal("0.5\n", output({".5"}))
  end)

  it(".help says what there is", function()
    local text = output({".help"})
    for _, name in ipairs({"tasks", "why", "cancel", "time", "load", "doc", "exit"}) do
      assert.matches("." .. name, text, 1, true)
    end
  end)

  it("that is unknown, or wrong, says so", function()
    local _, err, code = session({".nosuch", ".why 7", ".why x", ".cancel", ".load", ".load no/such/file", ".time",
      ".exit x"})
    assert.equal(1, code)
    assert.matches("there is no command .nosuch: .help lists them\nthere is no number 7: see .tasks\n", err, 1, true)
    assert.matches("no/such/file: No such file", err)
  end)

  it(".tasks numbers what lives, .why tells what it waits for, .cancel ends it", function()
    local out = output({
      "local gate = unsync.promise()",
      "local stuck = unsync.io(function() gate:await() end, {name = 'stuck'})()",
      ".tasks", ".why 1", ".cancel 1", "unsync.yield()", "stuck", ".tasks"})
    assert.matches("^  1  io stuck waiting.*stdin:2", out)
    assert.matches("\ncancelled: future: io stuck", out)
    assert.matches("\nfuture: io stuck cancelled\nnothing runs or waits\n$", out)
  end)

  it(".time says how long it took, and shows the value", function()
    assert.matches("^7\n%d+%.%d+ s, %d+%.%d+ s of them computing here, [+-]%d+ KiB\n$", output({".time 7"}))
  end)

  it(".doc shows what the documentation says, of functions and methods", function()
    local text = output({".doc unsync.scope", ".doc f:cancel", ".doc sleep", ".doc http.get", ".doc ch:try_recv()"})
    for _, part in ipairs({"unsync.scope([opts,] fn)\n  ", "\nfuture:cancel([reason])\n  Asks the work to stop",
      "\nunsync.sleep(seconds)\n  ", "\nhttp.get(url [, opts])\n  A future of the answer.\n", "ch:try_recv()\n  "}) do
      assert.matches(part, text, 1, true)
    end
    for line in text:gmatch("[^\n]+") do assert.is_true(#line <= 80, line) end
    local _, err = session({".doc nosuch", ".doc", ".doc chann"})
    assert.matches("nothing is known of 'nosuch'\n", err)
    assert.matches("nothing is known of 'chann'; there is unsync.channel", err, 1, true)
  end)

  it(".doc knows every function of unsync, and every method of a future", function()
    local reference, missing = require("unsync.reference"), {}
    local unsync = require("unsync")
    for name, value in pairs(unsync) do
      if type(value) == "function" and not reference["unsync." .. name] then missing[#missing + 1] = name end
    end
    local _ = unsync.promise().and_then
    for name in pairs(unsync.Future) do
      if not (reference["future:" .. name] or reference["promise:" .. name]) then
        missing[#missing + 1] = ":" .. name
      end
    end
    assert.same({}, missing)
  end)

  it(".load runs a file whose locals stay", function()
    local path = script.file("loaded.lua", "#!shebang\nlocal from_file = 5\nglobal = from_file\n")
    assert.equal("10\n", output({".load " .. path, "from_file + global"}))
    path = script.file("broken.lua", "x = = 1")
    local _, err = session({".load " .. path})
    assert.matches("broken.lua:1: unexpected symbol", err)
  end)

  it(".exit leaves, with the code it is told", function()
    local out, _, code = session({".exit 7", "1"})
    assert.same({"", 7}, {out, code})
    out, _, code = session({"error('x')", ".exit"})
    assert.same({"", 1}, {out, code})
    out, _, code = session({"local f = unsync.io(function() unsync.sleep(1000) end, {name = 'sleeper'})()", ".exit"})
    assert.equal(0, code)
    assert.matches("^cancelled: io sleeper waiting", out)
  end)
end)

describe("the options", function()
  it("-i goes on after code, modules and a script, whose globals are there", function()
    local path = script.file("before.lua", "print('script', ...) from_script = 7 error('late')")
    local out, err, code = session({"from_script + from_code", "later == unsync"}, {
      options = {"-i", "-l", "later=unsync", "-e", "from_code = 1", path, "argument"}})
    assert.equal("script\targument\n8\ntrue\n", out)
    assert.matches("late", err)
    assert.equal(1, code)
  end)

  it("-l alone is a session, too", function()
    assert.equal("true\n", output({"u == unsync"}, {options = {"-l", "u=unsync"}}))
  end)

  it("-l says which module there is not, and blames no line of ours; the session begins all the same", function()
    local out, err, code = session({"u == unsync"}, {options = {"-l", "no_such", "-l", "u=unsync"}})
    assert.matches("^module 'no_such' not found:", err)
    assert.same({"true\n", 1}, {out, code})
  end)

  it("- runs stdin as one script", function()
    assert.equal("waited\n", output({"local f = function(x)", "print(x) end", "f", "('waited')"}, {options = {"-"}}))
  end)
end)
