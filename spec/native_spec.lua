local unsync = require("unsync")
local script = require("spec.support.script")

local plugins = script.build .. "/spec/plugins/"
unsync.plugin(plugins .. "echo.so")
unsync.plugin(plugins .. "crash.so")

--- The same for a task on a thread and in a process.
local function on_both(name, test)
  for _, kind in ipairs {"thread", "cpu"} do
    it(("%s (%s)"):format(name, kind), function() test(unsync[kind], kind) end)
  end
end

--- The error that awaiting `future` raises.
local function failure_of(future)
  local fine, problem = pcall(future.await, future)
  assert.is_false(fine)
  return problem
end

--- The error that `fn` raises.
local function raised_by(fn, ...)
  local fine, problem = pcall(fn, ...)
  assert.is_false(fine)
  return problem
end

describe("context variables", function()
  on_both("reach native tasks by their names, as the caller sees them", function(executor)
    local id = unsync.var("none", "spec.request_id")
    local get = executor("echo.context")
    assert.same({nil, 1}, {get("spec.request_id"):await()})
    id:with("r1", function()
      assert.same({"r1", 1}, {get("spec.request_id"):await()})
      assert.same({"r1", 3}, {get("spec.request_id", nil, nil):await()})
      local inner = unsync.spawn(function()
        id:set({deep = {1, 2, "x"}})
        return get("spec.request_id"):await()
      end)
      assert.same({deep = {1, 2, "x"}}, (inner:await()))
      assert.same({nil, 1}, {get("spec.other"):await()})
    end)
    assert.same({nil, 1}, {get("spec.request_id"):await()})
  end)

  on_both("leave out what cannot cross, and fail by name what is of another kind", function(executor)
    local socket = unsync.var(nil, "spec.socket")
    local level = unsync.var(nil, "spec.level")
    socket:with(coroutine.create(print), function()
      level:with("high", function()
        assert.same({nil, 1}, {executor("echo.context")("spec.socket"):await()})
        assert.equal("bad context variable of 'echo.context_number' (number expected for 'spec.level', got string)",
          tostring(failure_of(executor("echo.context_number")("spec.level"))))
        assert.equal("bad context variable of 'echo.context_number' (number expected for 'spec.none', got nil)",
          tostring(failure_of(executor("echo.context_number")("spec.none"))))
      end)
    end)
  end)

  it("follow through a worker into native tasks that it calls", function()
    local id = unsync.var(nil, "spec.request_id")
    id:with("through", function()
      for _, kind in ipairs({"thread", "cpu"}) do
        local path = plugins .. "echo.so"
        local f = unsync[kind](function(inner)
          local there = require("unsync")
          there.plugin(path)
          return there[inner]("echo.context")("spec.request_id"):await()
        end)
        assert.equal("through", (f("thread"):await()))
        assert.equal("through", (f("cpu"):await()))
      end
    end)
  end)

  it("have names that are names, and are one variable wherever the name is given", function()
    assert.is_true(unsync.var(1, "spec.same") == unsync.var(2, "spec.same"))
    assert.is_false(unsync.var(1, "spec.same") == unsync.var(1, "spec.different"))
    for _, name in ipairs({"", "1a", "@a", "a b", "a:b", "a\0b"}) do
      assert.matches("bad argument #2 to .*a name is made of", raised_by(unsync.var, nil, name))
    end
    assert.matches("string expected", raised_by(unsync.var, nil, 7))
  end)
end)

describe("unsync.plugin", function()
  it("lists a plugin's tasks, by its name and by its path", function()
    local hash = unsync.plugin("hash")
    assert.equal("hash", hash.name)
    assert.equal("1.0", hash.version)
    assert.equal("Message digests over OpenSSL", hash.doc)
    assert.equal(1, hash.abi)
    assert.equal("hash.sha256", hash.tasks[1].name)
    assert.equal("sha256(bytes) -> hex: the SHA-256 digest of a string", hash.tasks[1].doc)
    assert.matches("^/.*/plugins/hash%.so$", hash.path)
    assert.same(hash, unsync.plugin(hash.path))
    assert.same("echo", unsync.plugin(plugins .. "../plugins/echo.so").name)
  end)

  it("says where it looked, and what is wrong with a file", function()
    local err = raised_by(unsync.plugin, "no_such_plugin")
    assert.equal("plugin", err.code)
    assert.matches("no plugin 'no_such_plugin' was found; looked for\n\t.*/no_such_plugin%.so", err.message)
    assert.matches("not_there%.so cannot be loaded: No such file or directory",
      raised_by(unsync.plugin, "./not_there.so").message)
    local function refuses(name, ...)
      local problem = raised_by(unsync.plugin, plugins .. name .. ".so")
      assert.equal("plugin", problem.code)
      for _, text in ipairs {name .. ".so", ...} do
        assert.truthy(problem.message:find(text, 1, true), problem.message)
      end
    end
    refuses("other_abi", "was built for plugin ABI version 2; this host has version 1")
    refuses("no_descriptor", "it has no descriptor: the symbol unsync_plugin_descriptor is missing")
    refuses("wrong_descriptor", "its unsync_plugin_descriptor is no descriptor")
    refuses("duplicate", "it has two tasks with the name 'twice'")
    refuses("no_function", "its task 'hollow' has no function")
    refuses("unknown_flag", "its task 'one' has flags that this host does not know")
    refuses("newer", "it was built with a newer unsync_plugin.h")
    refuses("unresolved", "this_function_is_nowhere")
    assert.matches("cannot be loaded", raised_by(unsync.plugin, "./spec/native_spec.lua").message)
  end)

  it("checks its argument", function()
    assert.matches("bad argument #1 to '[^']*' %(string expected, got nil%)", raised_by(unsync.plugin, nil))
    assert.matches("a zero byte in the name", raised_by(unsync.plugin, "a\0b"))
    assert.matches("'a b' does not name a plugin", raised_by(unsync.plugin, "a b").message)
    assert.matches("'' does not name a plugin", raised_by(unsync.plugin, "").message)
  end)
end)

describe("a native task", function()
  on_both("that does not exist is missed when it is declared", function(declare)
    local err = raised_by(declare, "no.such")
    assert.matches("no plugin 'no' was found", err.message)
    assert.equal("plugin", err.code)
    err = raised_by(declare, "hash.sha257")
    assert.matches("plugin 'hash' %(.*hash%.so%) has no task 'sha257'; it has 'sha256', 'sha512'", err.message)
    assert.matches("'sha256' does not name a native task", raised_by(declare, "sha256").message)
    assert.matches("'' does not name a native task", raised_by(declare, "").message)
  end)

  on_both("takes and gives every kind of value", function(declare)
    for _, task in ipairs {"echo.all", "echo.walk"} do
      local echo = declare(task)
      local cases = {true, false, 0, -1, 1 << 40, math.maxinteger, math.mininteger, 1.5, -0.0, 1 / 0, "", "a\0b",
        ("long"):rep(100), {}, {1, 2, 3}, {1, nil, 3}, {a = {b = {c = "deep"}}}, {[true] = 1, [1.5] = 2, [-3] = 3}}
      for _, value in ipairs(cases) do
        local back = echo(value):await()
        assert.same(value, back)
        assert.equal(math.type(value), math.type(back))
      end
      assert.same(table.pack(nil, 1, nil), table.pack(echo(nil, 1, nil):await()))
      assert.same(table.pack(), table.pack(echo():await()))
      local nan = echo(0 / 0):await()
      assert.is_true(nan ~= nan)
      assert.equal(1 / -0.0, 1 / echo(-0.0):await())
    end
    local shared = {}
    local a, b = declare("echo.all")({shared, shared}, shared):await()
    assert.equal(a[1], a[2])
    assert.equal(a[1], b)
  end)

  on_both("sees what kind a value is", function(declare)
    local types = declare("echo.types")
    assert.same({"nil", "boolean", "integer", "number", "string", "table", "function", "userdata"},
      {types(nil, true, 1, 1.5, "s", {}, function() end, unsync.promise()):await()})
  end)

  on_both("takes and gives large bytes", function(declare)
    local large = ("0123456789abcdef"):rep(1 << 18)
    assert.equal(large, declare("echo.all")(large):await())
    assert.equal(large, declare("echo.walk")({{large}}):await()[1][1])
    local one, two = declare("echo.all")(large, large):await()
    assert.equal(large, one)
    assert.equal(large, two)
    assert.equal(("x"):rep(1 << 22), declare("echo.bytes")(1 << 22):await())
    assert.equal(("y"):rep(1 << 22), declare("echo.foreign")(1 << 22):await())
  end)

  on_both("fails with the code and the message that it gives", function(declare)
    local err = failure_of(declare("echo.fail")("my_code", "what went wrong"))
    assert.equal("my_code", err.code)
    assert.equal("what went wrong", err.message)
    assert.equal("what went wrong", tostring(err))
    local long = ("a long message "):rep(1000)
    assert.equal(long, failure_of(declare("echo.fail")("long", long)).message)
    err = failure_of(declare("echo.fail_errno")(13, "/root"))
    assert.equal("EACCES", err.code)
  end)

  on_both("names the argument that is wrong", function(declare)
    local future = declare("echo.typed")(true, "one")
    local err = failure_of(future)
    assert.equal("argument", err.code)
    assert.equal("bad argument #2 to 'echo.typed' (integer expected, got string)", err.message)
    assert.equal("failed", future:status())
    err = failure_of(declare("echo.path")({a = {b = {0, {c = {}}}}}))
    assert.equal("bad argument #1 to 'echo.path' (integer expected for 'a.b[2].c', got table)", err.message)
  end)

  on_both("refuses what cannot cross, before it starts", function(declare)
    local err = raised_by(declare("echo.all"), 1, {coroutine.create(print)})
    assert.equal("unsendable", err.code)
    assert.equal("argument 2[1]", err.path)
  end)

  on_both("is told its mistakes", function(declare)
    assert.equal("native task 'echo.leave_open' put a table that was not ended",
      failure_of(declare("echo.leave_open")()).message)
    assert.equal("native task 'echo.all' put a function", failure_of(declare("echo.all")(function() end)).message)
    assert.equal("native task 'echo.returns' failed without saying why (3)",
      failure_of(declare("echo.returns")(3)).message)
  end)

  on_both("reports progress", function(declare)
    local work = declare("echo.work")(50, 1)
    local reports, last = 0, 0
    work:progress(function(done, total)
      assert.equal(50, total)
      assert.is_true(done >= last)
      reports, last = reports + 1, done
    end)
    assert.equal(50, work:await())
    local done, total = work:progress()
    assert.equal(50, done)
    assert.equal(50, total)
    assert.is_true(script.eventually(function() return last == 50 end))
    assert.is_true(reports >= 1)
    local slow = declare("echo.work")(30, 10)
    assert.is_true(script.eventually(function() return (slow:progress() or 30) < 30 end)) -- while it runs
    assert.equal(30, slow:await())
    assert.is_nil(declare("echo.all")():progress())
    local many = {}
    for i = 1, 40 do many[i] = declare("echo.work")(i, 1) end -- each its own
    for i = 1, 40 do
      assert.equal(i, many[i]:await())
      assert.equal(i, (many[i]:progress()))
    end
  end)

  it("reports progress to a worker that has made the call, too", function()
    for _, outer in ipairs({"thread", "cpu"}) do
      for _, inner in ipairs({"thread", "cpu"}) do
        local last, reports, done, total = unsync[outer](function(kind)
          local here = require("unsync")
          local work = here[kind]("echo.work")(30, 3)
          local seen, count = 0, 0
          work:progress(function(now) seen, count = now, count + 1 end)
          local reached = here.promise()
          here.spawn(function()
            while (work:progress() or 30) >= 30 and not work:done() do here.sleep(0.001) end
            reached:resolve(not work:done()) -- while it runs
          end)
          reached:await()
          work:await()
          while seen < 30 do here.sleep(0.001) end
          return seen, count, work:progress()
        end)(inner):await()
        assert.same({30, 30, 30}, {last, done, total}, outer .. " " .. inner)
        assert.is_true(reports >= 1)
      end
    end
  end)

  on_both("may be sent to a worker and called there", function(declare)
    local sha256 = declare("hash.sha256")
    local digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert.equal(digest, unsync.thread(function() return sha256("abc"):await() end)():await())
    assert.equal(digest, unsync.cpu(function() return sha256("abc"):await() end)():await())
    local declare_there = unsync.cpu(function()
      local there = require("unsync")
      return there.thread("hash.sha256")("abc"):await()
    end)
    assert.equal(digest, declare_there():await())
  end)

  on_both("is found in a worker in the very file that it came from", function(declare)
    assert.equal(1, declare("echo.all")(1):await()) -- it lies nowhere on the search path
  end)

  on_both("runs many times at once", function(declare)
    local digest, calls = declare("hash.sha256"), {}
    for i = 1, 200 do calls[i] = digest(("%d"):format(i)) end
    for i = 200, 1, -1 do
      assert.equal(unsync.thread("hash.digest")("sha256", tostring(i)):await(), calls[i]:await())
    end
  end)

  it("runs in a process of its own where it was declared so", function()
    local own = unsync.thread("echo.pid")():await()
    assert.are_not.equal(own, unsync.cpu("echo.pid")():await())
  end)

  on_both("stops when its token says so", function(declare)
    local future = declare("echo.work")(100000, 1)
    assert.is_true(script.eventually(function() return (future:progress() or 0) > 0 end))
    future:cancel("enough")
    local err = failure_of(future)
    assert.equal("cancelled", err.code)
    assert.equal("token", err.stopped_by)
    assert.equal("cancelled", future:status())
  end)

  it("that crashes in a process fails its own call and no other", function()
    local work = unsync.cpu("echo.work")(20, 5)
    local crashed = {
      SIGSEGV = unsync.cpu("crash.segfault")(),
      SIGABRT = unsync.cpu("crash.abort")(),
      SIGKILL = unsync.cpu("crash.signal")(9),
    }
    for signal, future in pairs(crashed) do
      local err = failure_of(future)
      assert.equal("crashed", err.code)
      assert.equal(signal, err.signal)
    end
    local err = failure_of(unsync.cpu("crash.wild")())
    assert.equal("crashed", err.code)
    err = failure_of(unsync.cpu("crash.overflow")())
    assert.equal("crashed", err.code)
    err = failure_of(unsync.cpu("crash.exit")(7))
    assert.equal("crashed", err.code)
    assert.equal(7, err.exit_code)
    assert.equal(20, work:await())
    assert.equal("x", unsync.cpu("echo.all")("x"):await())
  end)

  it("logs to stderr, from the level that UNSYNC_LOG names", function()
    local code = ([[
      local unsync = require "unsync"
      unsync.plugin(%q)
      for _, declare in ipairs {unsync.thread, unsync.cpu} do
        local log = declare("echo.log")
        for level, text in ipairs {"one", "two", "three", "four"} do log(level, text):await() end
      end
    ]]):format(plugins .. "echo.so")
    local function logged(level)
      local ran = script.run(code, {env = {UNSYNC_LOG = level or false}})
      assert.equal(0, ran.code)
      return ran.err
    end
    local lines = {"debug: one\n", "info: two\n", "warn: three\n", "error: four\n"}
    for i, line in ipairs(lines) do lines[i] = "echo.log: " .. line end
    assert.equal((lines[3] .. lines[4]):rep(2), logged(nil))
    assert.equal(table.concat(lines):rep(2), logged("debug"))
    assert.equal((lines[2] .. lines[3] .. lines[4]):rep(2), logged("info"))
    assert.equal(lines[4]:rep(2), logged("error"))
    assert.equal("", logged("off"))
  end)
end)

describe("the search path", function()
  local function copy(name, folder)
    local to, from = script.quote(script.path(folder)), script.quote(plugins .. name .. ".so")
    assert.is_true(os.execute(("mkdir -p %s && cp %s %s"):format(to, from, to)))
  end
  local code = [[
    local unsync = require "unsync"
    print(unsync.plugin("echo").path)
    print(unsync.thread("echo.all")(1):await(), unsync.cpu("echo.all")(2):await())
    print(unsync.cpu(function() return require("unsync").thread("echo.all")(3):await() end)():await())
  ]]

  it("begins with UNSYNC_PLUGIN_PATH", function()
    copy("echo", "second")
    copy("echo", "plugins")
    local path = "/nowhere:" .. script.path("second")
    assert.equal(script.path("second") .. "/echo.so\n1\t2\n3\n",
      script.output(code, {env = {UNSYNC_PLUGIN_PATH = path}}))
  end)

  it("goes on with plugins/ beside the script", function()
    copy("echo", "plugins")
    assert.equal(script.path("plugins") .. "/echo.so\n1\t2\n3\n", script.output(code))
    os.remove(script.path("plugins/echo.so"))
    local ran = script.run(code)
    assert.equal(1, ran.code)
    assert.truthy(ran.err:find("\n\t" .. script.path("plugins") .. "/echo.so\n", 1, true), ran.err)
  end)

  it("stops at the first file of that name, right or wrong", function()
    copy("misnamed", "wrong")
    local ran = script.run([[print(pcall(require("unsync").plugin, "misnamed"))]],
      {env = {UNSYNC_PLUGIN_PATH = script.path("wrong")}})
    assert.equal(("false\tplugin 'misnamed' cannot be loaded from %s/misnamed.so: it calls itself 'other_name'\n")
      :format(script.path("wrong")), ran.out)
  end)

  it("takes no plugin for another of the same name", function()
    copy("echo", "here")
    copy("echo", "there")
    local ran = script.run(([[
      local unsync = require "unsync"
      unsync.plugin(%q)
      unsync.plugin(%q)
      print(pcall(unsync.plugin, %q))
    ]]):format(script.path("here/echo.so"), script.path("here/../here/echo.so"), script.path("there/echo.so")))
    assert.equal(("false\tplugin %s cannot be loaded: a plugin with its name, 'echo', is loaded from %s\n")
      :format(script.path("there/echo.so"), script.path("here/echo.so")), ran.out)
  end)
end)

describe("the example plugin hash", function()
  local abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

  on_both("digests strings", function(declare)
    assert.equal(abc, declare("hash.sha256")("abc"):await())
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      declare("hash.sha256")(""):await())
    assert.equal("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
      declare("hash.digest")("SHA256", ("a"):rep(1000000)):await())
    assert.equal("900150983cd24fb0d6963f7d28e17f72", declare("hash.digest")("md5", "abc"):await())
    assert.equal("f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8",
      declare("hash.hmac")("sha256", "key", "The quick brown fox jumps over the lazy dog"):await())
    assert.equal("unknown_algorithm", failure_of(declare("hash.digest")("sha3000", "abc")).code)
  end)

  on_both("digests many strings, and files", function(declare)
    assert.same({abc = abc, [""] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      declare("hash.all")({"abc", ""}):await())
    local path = script.file("digest.txt", ("a"):rep(1000000))
    local future = declare("hash.file")(path)
    assert.equal("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", future:await())
    assert.equal(1000000, (future:progress()))
    local err = failure_of(declare("hash.file")("/no/such/file"))
    assert.equal("ENOENT", err.code)
    assert.equal("/no/such/file: no such file or directory", err.message)
  end)

  on_both("makes random bytes", function(declare)
    local random = declare("hash.random")
    assert.equal(1000000, #random(1000000):await())
    assert.are_not.equal(random(16):await(), random(16):await())
    assert.equal("", random(0):await())
    assert.matches("bad argument #1 to 'hash.random' %(size out of range%)", failure_of(random(-1)).message)
  end)

  it("knows many algorithms", function()
    local names = unsync.thread("hash.algorithms")():await()
    local known = {}
    for _, name in ipairs(names) do known[name] = true end
    assert.is_true(known["SHA2-256"] or known.SHA256)
  end)
end)

describe("the example plugin zlib", function()
  on_both("gives back what it has compressed", function(declare)
    local compress, decompress = declare("zlib.compress"), declare("zlib.decompress")
    for _, format in ipairs {"zlib", "gzip", "raw"} do
      for _, text in ipairs {"", "a", ("unsync "):rep(200000)} do
        for level = 0, 9, 3 do
          local options = {format = format, level = level}
          assert.equal(text, decompress(compress(text, options):await(), options):await())
        end
      end
    end
    local noise = unsync.thread("hash.random")(3000000):await()
    assert.equal(noise, decompress(compress(noise):await()):await())
    assert.equal(0xcbf43926, declare("zlib.crc32")("123456789"):await())
  end)

  on_both("says what is wrong", function(declare)
    local compress, decompress = declare("zlib.compress"), declare("zlib.decompress")
    assert.equal("zlib: incorrect header check", failure_of(decompress("no such thing")).message)
    assert.equal("zlib: the data end too early", failure_of(decompress(compress("text"):await():sub(1, -3))).message)
    assert.equal("too_large", failure_of(decompress(compress(("x"):rep(1000)):await(), {max = 999})).code)
    assert.equal("bad argument #2 to 'zlib.compress' (level 10 is not from 0 to 9)",
      failure_of(compress("x", {level = 10})).message)
    assert.equal("bad argument #2 to 'zlib.compress' (integer expected for 'level', got string)",
      failure_of(compress("x", {level = "9"})).message)
    assert.equal("bad argument #2 to 'zlib.compress' (no format is called 'rar': it is zlib, gzip or raw)",
      failure_of(compress("x", {format = "rar"})).message)
    assert.equal("bad argument #2 to 'zlib.compress' (table expected, got number)",
      failure_of(compress("x", 9)).message)
  end)
end)

describe("include/unsync_plugin.h", function()
  local header = script.read_file("include/unsync_plugin.h")
  local compiler = "-Iinclude -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -fsyntax-only"

  it("needs nothing but the standard library", function()
    local included = {}
    for name in header:gmatch("#include ([^\n]+)") do included[#included + 1] = name end
    table.sort(included)
    assert.same({"<stdarg.h>", "<stddef.h>", "<stdint.h>"}, {included[1], included[2], included[3]})
    for _, name in ipairs(included) do assert.falsy(name:find("lua", 1, true) or name:find("uv", 1, true)) end
  end)

  it("is good for C99 and C11, and for C++11 and later", function()
    local commands = {"cc -std=c99", "cc -std=c11", "c++ -x c++ -std=c++11 -Wold-style-cast", "c++ -x c++ -std=c++20"}
    for _, command in ipairs(commands) do
      local program = command:match("^%S+")
      if os.execute("command -v " .. program .. " >/dev/null") then
        assert.is_true(os.execute(("%s %s spec/support/plugins/misnamed.c"):format(command, compiler)), command)
      end
    end
  end)
end)

describe("docs/native.md", function()
  local guide = script.read_file("docs/native.md")
  local here = assert(io.popen("pwd", "r"))
  local root = here:read("l")
  here:close()

  it("has plugins that can be built, and scripts that print what it says", function()
    os.execute("mkdir -p " .. script.quote(script.path("plugins")))
    local built = 0
    for source in guide:gmatch("```c\n(.-)```") do
      local name = source:match('UNSYNC_PLUGIN%("([%w_]+)"')
      local path = script.file(name .. ".c", source)
      assert.is_true(os.execute(("cc -shared -fPIC -O2 -Wall -Wextra -Wpedantic -Werror -Iinclude -o %s %s"):format(
        script.quote(script.path("plugins/" .. name .. ".so")), script.quote(path))), name)
      built = built + 1
    end
    assert.is_true(built >= 5)
    local ran = 0
    for code in guide:gmatch("```lua\n(.-)```") do
      local expected = {}
      for line in code:gmatch("%-%-> ([^\n]*)") do expected[#expected + 1] = line .. "\n" end
      local program = script.program:sub(1, 1) == "/" and script.program or root .. "/" .. script.program
      assert.equal(table.concat(expected),
        script.output(code, {before = "cd " .. script.quote(script.path(".")), program = program}))
      ran = ran + 1
    end
    assert.is_true(ran >= 3)
  end)

  it("has tasks that do what they say", function()
    local function run(code)
      return script.output('local unsync = require "unsync" ' .. code)
    end
    assert.equal("7\tnil\n", run([[print(unsync.thread("text.find")("hello world", "world"):await(),
      unsync.thread("text.find")("hello", "x"):await())]]))
    assert.equal("3\t12.0\t6.0\n", run([[local s = unsync.cpu("stats.summary")({1, 2, 3}, {scale = 2}):await()
      print(s.count, s.sum, s.max)]]))
    assert.equal("bad argument #1 to 'stats.summary' (number expected for '[3]', got string)\n",
      run([[print(select(2, pcall(function() unsync.thread("stats.summary")({1, 2, "x"}):await() end)))]]))
    assert.equal("100000\n", run([[print(#unsync.thread("noise.bytes")(100000):await())]]))
    assert.equal("5\n", run([[print(unsync.thread("slow.count")(5):await())]]))
  end)
end)
