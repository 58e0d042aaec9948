-- The program: its options, `arg`, exit codes, what it reads and what the environment tells it.
local script = require("spec.support.script")

local quote, program = script.quote, script.program

--- The program with these words, no script of ours.
local function host(words, options)
  options = options or {}
  options.options = words
  return script.run(nil, options)
end

local function output(words, options)
  local ran = host(words, options)
  assert.same({"", 0}, {ran.err, ran.code})
  return ran.out
end

describe("the program's options", function()
  it("run code with -e, before the script, as often as there are", function()
    assert.equal("1\n2\n", output({"-e", "print(1)", "-e", "print(2)"}))
    assert.equal("glued\n", output({"-eprint('glued')"}))
    local path = script.file("after.lua", "print(x, ...)")
    assert.equal("5\ta\tb\n", output({"-e", "x = 5", path, "a", "b"}))
    assert.equal("waited\n", output({"-e", "require'unsync'.sleep(0.001) print('waited')"}))
  end)

  it("require modules into globals with -l", function()
    assert.equal("true\n", output({"-l", "unsync", "-e", "print(unsync == require 'unsync')"}))
    assert.equal("true\n", output({"-lunsync", "-e", "print(unsync == require 'unsync')"}))
    assert.equal("true\n", output({"-l", "u=unsync", "-e", "print(u == require 'unsync')"}))
    local ran = host({"-l", "no.such.module"})
    assert.equal(1, ran.code)
    assert.matches("module 'no.such.module' not found", ran.err)
  end)

  it("require a module whose body waits", function()
    script.file("cli_waits.lua", "require'unsync'.sleep(0.001) return 'waited'")
    assert.equal("waited\n", output({"-l", "cli_waits", "-e", "print(cli_waits)"},
      {env = {LUA_PATH = script.path("?.lua") .. ";;"}}))
  end)

  it("tell the version with -v, and go on where there is something to run", function()
    assert.matches("^unsync %d+%.%d+", output({"-v"}))
    assert.matches("^unsync [^\n]*\n7\n$", output({"-v", "-e", "print(7)"}))
  end)

  it("tell what there is with -h", function()
    local text = output({"-h"})
    assert.matches("^usage: unsync", text)
    for _, option in ipairs({"-e", "-l", "-v", "-h", "--"}) do assert.matches(option, text, 1, true) end
  end)

  it("end with --, and a script may then begin with a dash", function()
    local path = script.file("-dash.lua", "print('dash', ...)")
    local directory = path:match("^(.*)/")
    local ran = script.run(nil, {before = "p=$(realpath " .. quote(program) .. "); cd " .. quote(directory),
      program = "/bin/sh", options = {"-c", "exec \"$0\" \"$@\"", "true"}})
    assert.equal(0, ran.code)
    local made = io.popen(("cd %s && %s -- -dash.lua x 2>&1"):format(quote(directory),
      quote(program:sub(1, 1) == "/" and program or os.getenv("PWD") .. "/" .. program)))
    assert.equal("dash\tx\n", made:read("a"))
    made:close()
  end)

  it("are an error where they are unknown, or lack their value", function()
    for _, words in ipairs({{"-x"}, {"--nonsense"}, {"-e"}, {"-l"}}) do
      local ran = host(words)
      assert.equal(1, ran.code)
      assert.matches("^unsync: ", ran.err)
      assert.matches(words[1], ran.err, 1, true)
      assert.matches("usage", ran.err)
      assert.equal("", ran.out)
    end
  end)
end)

describe("a script", function()
  it("gets its arguments as ... and in arg, with what lies before at negative places", function()
    local path = script.file("args.lua", [[
      print(...)
      print(#arg, arg[0], arg[1], arg[2], arg[-1] ~= nil)
      local lowest = 0
      while arg[lowest - 1] do lowest = lowest - 1 end
      print(lowest, arg[-2], arg[-3])
    ]])
    assert.equal(("a\t\tb c\n3\t%s\ta\t\ttrue\n-1\tnil\tnil\n"):format(path), output({path, "a", "", "b c"}))
    assert.equal(("\n0\t%s\tnil\tnil\ttrue\n-3\t-e\t%s\n"):format(path, program), output({"-e", "x = 1", path}))
  end)

  it("gives arg to -e as lua.c does", function()
    local words = {"-e", "print(#arg, arg[0] ~= nil, arg[1])"}
    local stock = script.run(nil, {program = "lua5.4", options = words})
    assert.equal(stock.out, output(words))
  end)

  it("may be stdin, with arguments, as - or as nothing at all", function()
    assert.equal("in\ta\tb\t-\n", output({"-", "a", "b"}, {stdin = "print('in', ..., arg[0])" and
      "local x, y = ... print('in', x, y, arg[0])"}))
    assert.equal("from stdin\n", output({}, {stdin = "print('from stdin')"}))
    assert.equal("waited\n", output({"-"}, {stdin = "require'unsync'.sleep(0.001) print('waited')"}))
    local ran = host({"-"}, {stdin = "error('in it')"})
    assert.equal(1, ran.code)
    assert.matches("stdin:1: in it", ran.err)
  end)

  it("may begin with a shebang line, and be run by it", function()
    local path = script.file("shebang.lua", "#!/usr/bin/env unsync\nprint('line', debug.getinfo(1).currentline)\n")
    assert.equal("line\t2\n", output({path}))
    local full = program:sub(1, 1) == "/" and program or os.getenv("PWD") .. "/" .. program
    path = script.file("run-me", "#!" .. full .. "\nprint('run', ...)\n")
    assert(os.execute("chmod +x " .. quote(path)))
    local pipe = assert(io.popen(quote(path) .. " x"))
    assert.equal("run\tx\n", pipe:read("a"))
    assert.is_true(pipe:close())
  end)

  it("may be compiled", function()
    local path = script.path("compiled.luac")
    script.write_file(path, string.dump(load("print('compiled', ...)")))
    assert.equal("compiled\t1\n", output({path, "1"}))
  end)

  it("is a task: it may wait anywhere, and the program ends when all that it started has ended", function()
    assert.equal("main ends\nlast\n", script.output([[
      local unsync = require "unsync"
      unsync.spawn(function() unsync.sleep(0.01) unsync.spawn(function() unsync.sleep(0.01) print("last") end) end)
      print("main ends")
    ]]))
  end)

  it("looks like Lua's main to the code in it", function()
    assert.equal("true\tfalse\tfalse\n", script.output([[
      local co, is_main = coroutine.running()
      print(is_main, coroutine.isyieldable(), (pcall(coroutine.yield)))
    ]]))
  end)
end)

describe("the exit code", function()
  local function ends(code)
    local ran = script.run(code)
    return ran.code, ran.err
  end

  it("is 0 where nothing went wrong", function()
    assert.same({0, ""}, {ends("return 7")})
    assert.same({0, ""}, {ends("")})
  end)

  it("is 1 for an error, which is printed with its traceback", function()
    local code, err = ends("local function culprit() error('went wrong') end culprit()")
    assert.equal(1, code)
    assert.matches("^unsync: .*%.lua:1: went wrong\nstack traceback:\n", err)
    assert.matches("culprit", err)
  end)

  it("is 1 for an error of any kind, told as well as can be", function()
    for _, case in ipairs({
      {"error()", "nil"}, {"error(nil)", "nil"}, {"error({})", "error object is a table value"}, {"error(12, 0)", "12"},
      {"error(setmetatable({}, {__tostring = function() return 'my text' end}))", "my text"},
      {"error(setmetatable({}, {__tostring = function() error('again') end}))", "tostring failed"},
      {"error(print)", "function"}, {"error(true)", "true"},
      {"require'unsync'.rejected('awaited'):await()", "awaited"},
      {"require'unsync'.thread(function() error('far away', 0) end)():await()", "far away"},
    }) do
      local code, err = ends(case[1])
      assert.equal(1, code)
      assert.matches("^unsync: ", err)
      assert.matches(case[2], err, 1, true)
    end
  end)

  it("is 1 for a syntax error, a missing and an unreadable script, each named", function()
    local code, err = ends("x = = 1")
    assert.equal(1, code)
    assert.matches("%.lua:1: unexpected symbol near '='", err)
    local ran = host({"no/such/file.lua"})
    assert.equal(1, ran.code)
    assert.matches("cannot open no/such/file.lua", ran.err)
    ran = host({"spec"})
    assert.equal(1, ran.code)
    assert.matches("spec", ran.err)
    local path = script.file("unreadable.lua", "print(1)")
    assert(os.execute("chmod 000 " .. quote(path)))
    ran = host({path})
    if ran.code ~= 0 then -- root may read it
      assert.matches("unreadable.lua", ran.err)
    end
  end)

  it("is what os.exit says, in main and in tasks", function()
    for text, expected in pairs({["3"] = 3, ["0"] = 0, ["true"] = 0, ["false"] = 1, [""] = 0, ["255"] = 255,
      ["3, true"] = 3}) do
      assert.same({expected, ""}, {ends("os.exit(" .. text .. ")")}, text)
      assert.same({expected, ""}, {ends(("require'unsync'.spawn(function() os.exit(%s) end)"):format(text))}, text)
      assert.same({expected, ""}, {ends(
        ("local unsync = require'unsync' unsync.spawn(function() unsync.yield() os.exit(%s) end) unsync.sleep(5)")
        :format(text))}, text)
    end
  end)

  it("is what os.exit says in a thread", function()
    assert.same({7, ""}, {ends("require'unsync'.thread(function() os.exit(7) end)():await()")})
    assert.same({4, ""}, {ends([[
      local unsync = require'unsync'
      unsync.thread(function() os.exit(4, true) end)()
      unsync.sleep(20)
    ]])})
  end)

  it("comes after what was printed: nothing is lost", function()
    for _, code in ipairs({"os.exit(0)", "os.exit(0, true)", "", "error('x')"}) do
      local ran = script.run("io.write(('x'):rep(100000)) io.write('end') " .. code)
      assert.equal(100003, #ran.out, code)
    end
  end)
end)

describe("the environment", function()
  it("names where modules are: LUA_PATH and LUA_CPATH, as for lua5.4", function()
    script.file("from_path.lua", "return 'from the path'")
    local env = {LUA_PATH = script.path("?.lua") .. ";;"}
    assert.equal("from the path\n", output({"-e", "print((require 'from_path'))"}, {env = env}))
    env = {LUA_PATH_5_4 = script.path("?.lua")}
    assert.equal("from the path\n", output({"-e", "print((require 'from_path'))"}, {env = env}))
    local show = {"-e", "print(package.path) print(package.cpath)"}
    for _, each in ipairs({{LUA_PATH = false, LUA_CPATH = false}, {LUA_PATH = "./x/?.lua;;", LUA_CPATH = ";;./y/?.so"},
      {LUA_PATH = "only/?.lua", LUA_CPATH_5_4 = "only/?.so"}}) do
      assert.equal(script.run(nil, {program = "lua5.4", options = show, env = each}).out, output(show, {env = each}))
    end
  end)

  it("still finds the library itself, whatever the path", function()
    assert.equal("function\n", output({"-e", "print(type(require'unsync'.io))"}, {env = {LUA_PATH = "nowhere/?.lua"}}))
  end)

  it("runs LUA_INIT first, code or file, LUA_INIT_5_4 before it", function()
    assert.equal("init\nmain\n", output({"-e", "print('main')"}, {env = {LUA_INIT = "print('init')"}}))
    local path = script.file("init.lua", "print('file')")
    assert.equal("file\nmain\n", output({"-e", "print('main')"}, {env = {LUA_INIT = "@" .. path}}))
    assert.equal("5.4\nmain\n", output({"-e", "print('main')"},
      {env = {LUA_INIT = "x", LUA_INIT_5_4 = "print('5.4')"}}))
    local ran = host({"-e", "print('main')"}, {env = {LUA_INIT = "error('in init')"}})
    assert.equal(1, ran.code)
    assert.matches("LUA_INIT:1: in init", ran.err)
    assert.equal("", ran.out)
    ran = host({"-e", "print('main')"}, {env = {LUA_INIT_5_4 = "x ="}})
    assert.matches("LUA_INIT_5_4:1: unexpected symbol", ran.err)
    path = script.file("arguments.lua", "print(select('#', ...))")
    for _, init in ipairs({"print(select('#', ...))", "@" .. path}) do
      assert.equal("0\n2\n", output({path, "a", "b"}, {env = {LUA_INIT = init}}))
    end
  end)

  it("reads the project's own modules from UNSYNC_LUA", function()
    local empty = script.file("unsync_init.lua", ""):match("^(.*)/")
    assert.equal("nil\n", output({"-e", "print(require'unsync'.marker)"}, {env = {UNSYNC_LUA = empty}}))
    os.execute("mkdir -p " .. quote(script.path("own/unsync")))
    script.write_file(script.path("own/unsync/init.lua"), "return {marker = 'from disk'}")
    local env = {UNSYNC_LUA = script.path("own")}
    assert.equal("from disk\n", output({"-e", "print(require'unsync'.marker)"}, {env = env}))
  end)

  it("names a folder in UNSYNC_LUA that is none", function()
    for path, reason in pairs({[script.path("nowhere")] = "No such file", [script.file("a_file", "")] = "Not a dir"}) do
      local ran = host({"-e", "require'unsync'"}, {env = {UNSYNC_LUA = path}})
      assert.equal(1, ran.code)
      assert.truthy(ran.err:find("UNSYNC_LUA: " .. path .. ": " .. reason, 1, true), ran.err)
    end
  end)
end)

describe("Debian's Lua modules", function()
  it("load and work: lpeg, cjson, socket, luv", function()
    assert.equal("3\n[1,2]\t2\nstring\nnumber\n", script.output([[
      local lpeg = require "lpeg"
      print(lpeg.match(lpeg.P("ab"), "abc"))
      local cjson = require "cjson"
      print(cjson.encode({1, 2}), #cjson.decode("[1,2]"))
      local socket = require "socket"
      print(type(socket._VERSION))
      local uv = require "luv"
      print(math.type(uv.hrtime()) and "number")
    ]]))
  end)

  it("work in threads, too", function()
    assert.equal("2\t[3]\tfunction\tnumber\n", script.output([[
      print(require "unsync".thread(function()
        local lpeg, cjson = require "lpeg", require "cjson"
        return lpeg.match(lpeg.P("a"), "a"), cjson.encode({3}), type(require "socket".tcp), type(require "luv".now())
      end)():await())
    ]]))
  end)
end)

describe("stdout", function()
  it("that is closed ends the script with EPIPE, not with a signal", function()
    local pipe = assert(io.popen(("%s -e %s 2>%s | head -c 1 >/dev/null; echo ${PIPESTATUS:-x} >/dev/null"):format(
      quote(program), quote("for i = 1, 1e6 do print(i) end"), quote(script.path("epipe.err")))))
    pipe:close()
    local err = script.read_file(script.path("epipe.err"))
    assert.matches("[Bb]roken pipe", err)
    assert.not_matches("cannot write", err) -- once is enough
  end)

  it("that is full, or was never open, is an error with exit code 1", function()
    local ran = script.run("print('x')", {out = "/dev/full"})
    assert.equal(1, ran.code)
    assert.matches("No space left", ran.err)
    ran = script.run("print('x')", {out = "&-"})
    assert.equal(1, ran.code)
    assert.matches("stdout", ran.err)
  end)

  it("that is full is told of also where a thread or a process has written", function()
    for _, kind in ipairs({"thread", "cpu"}) do
      local code = ("require'unsync'.%s(function() print('x') end)():await()"):format(kind)
      local ran = script.run(code, {out = "/dev/full"})
      assert.matches("cannot write to stdout: No space left", ran.err)
    end
  end)

  it("that is closed costs a script that prints nothing nothing", function()
    local ran = script.run("return 1", {out = "&-"})
    assert.same({0, ""}, {ran.code, ran.err})
  end)
end)

describe("starting up", function()
  it("costs little: nothing heavy is loaded, and it is quick #plain", function()
    assert.equal("false\n", output({"-e", [[
      require "unsync"
      local maps = io.open("/proc/self/maps"):read("a")
      print(maps:find("libcurl") ~= nil or maps:find("libssl") ~= nil)
    ]]}))
    local best = math.huge
    for _ = 1, 10 do best = math.min(best, host({"-e", "require 'unsync'"}).seconds) end
    assert.is_true(best < 0.1, best .. " s")
  end)

  it("starts no thread and no process that nobody asked for", function()
    assert.equal("1\t0\n", output({"-e", [[
      local unsync = require "unsync"
      unsync.thread(print) unsync.cpu(print)
      unsync.sleep(0.001)
      local threads = 0
      local uv = require "luv"
      local request = uv.fs_scandir("/proc/self/task")
      while uv.fs_scandir_next(request) do threads = threads + 1 end
      local children = io.open(("/proc/self/task/%d/children"):format(uv.os_getpid())):read("a")
      print(threads, #children)
    ]]}))
  end)
end)
