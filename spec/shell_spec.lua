-- What goes out, and what is started: print and io.write, os.execute, io.popen.
local unsync = require("unsync")
local script = require("spec.support.script")
local stock = require("spec.support.stock")
local turns_of_others = require("spec.support.turns")

local os, select = os, select -- what crosses to a worker brings its upvalues, and busted's environment must not be one

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

  it("ends what the command has started, too, the deaf at once or after the grace period", function()
    for _, deaf in ipairs({"", "trap '' TERM; "}) do
      local pid_file = script.path("pid")
      os.remove(pid_file)
      -- The shell waits for one that waits for the one that is looked at, beside another one.
      local inner = ("%secho $$ >%s.part; mv %s.part %s; while :; do sleep 0.05; done"):format(
        deaf, pid_file, pid_file, pid_file)
      local middle = ("sh -c %s; true"):format(script.quote(inner))
      local command = ("sleep 3600 & sh -c %s; true"):format(script.quote(middle))
      local future = unsync.spawn(os.execute, command)
      assert.is_true(script.eventually(function() return io.open(pid_file) ~= nil end))
      local pid = script.read_file(pid_file):match("%d+")
      assert.is_true(future:cancel())
      assert.equal("cancelled", select(2, pcall(future.await, future)).code)
      assert.is_true(script.eventually(function()
        local file <close> = io.open(("/proc/%s/stat"):format(pid))
        local state = file and file:read("a")
        return not state or state:match("^%d+ %b() (%S)") == "Z" -- dead, and waiting for init
      end))
    end
  end)

  it("leaves a daemon alone that the command has let go", function()
    local pid_file = script.path("pid")
    os.remove(pid_file)
    local future = unsync.spawn(os.execute, ("(sleep 3600 & echo $! >%s.part); mv %s.part %s; sleep 3600"):format(
      pid_file, pid_file, pid_file))
    assert.is_true(script.eventually(function() return io.open(pid_file) ~= nil end))
    local pid = script.read_file(pid_file):match("%d+")
    future:cancel()
    pcall(future.await, future)
    assert.is_true(os.execute("kill " .. pid))
  end)

  it("keeps its command in the program's own process group, as the terminal wants it", function()
    local pipe <close> = io.popen("cut -d' ' -f5 /proc/$$/stat /proc/$PPID/stat | sort -u | wc -l")
    assert.equal("1", pipe:read("l"):match("%d+"))
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

describe("a file of io.popen that is read", function()
  it("gives what it gives in stock Lua", function()
    stock.compare [[
      local function reads(command, ...)
        local file <close> = io.popen(command)
        for _, formats in ipairs({...}) do show(file:read(table.unpack(formats))) end
      end
      reads("printf '12 0x1F -3.5e2 abc 77'", {"n", "n", "n", "n"}, {"a"}, {"n"}, {"a"}, {"l"})
      reads("printf abcdef", {2, 0, 3}, {5}, {0}, {1}, {"a"}, {"l"}, {})
      reads("printf 'l1\nl2\n\nl4'", {"l", "*L", "l", "L", "l"})
      reads("printf '\\0a\\0\nrest'", {"L"}, {"*a"})
      reads("printf a; sleep 0.02; printf 'b\nc'; sleep 0.02; printf 'd\n'", {"l"}, {1}, {"a"})
      reads("cat /nonexistent 2>/dev/null", {}, {"a"})
      for _, format in ipairs({"x", "", 1.5, {}}) do try(reads, "echo text", {format}) end
      try(reads, "echo text", {"l", false})
      for one, line in io.popen("printf 'l1\nl2\nl3'"):lines(1, "l") do show(one, line) end
      for line in io.popen("printf 'l1\nl2'"):lines("L") do show(line) end
      try(function() for line in io.popen("echo x"):lines("q") do show(line) end end)
      try(function() for line in io.popen("echo x"):lines(nil) do show(line) end end)
      try(function() for line in io.popen("cat", "w"):lines() do show(line) end end)
      try(function() return io.popen("cat", "w"):read() end)
      local file = io.popen("echo text")
      local line = file:lines()
      show(file:seek("set", 0))
      file:close()
      try(line)
      try(file.lines, file)
      local long = io.popen("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end")
      show(#long:read("l"), long:read("a"), long:close())
      local count, sum = 0, 0
      for line in io.popen("seq 50000"):lines() do count, sum = count + 1, sum + tonumber(line) end
      show(count, sum)
      local numbers = io.popen("seq 20000")
      for i = 1, 20000 do sum = sum - numbers:read("n") end
      show(sum, numbers:read("n"))
    ]]
  end)

  it("lets others go on until it has what is asked for", function()
    local function slow() return io.popen("sleep 0.05; echo first; sleep 0.05; echo second") end
    for name, read in pairs({
      all = function(file) return file:read("a") end,
      lines = function(file) return file:read("l") .. "\n" .. file:read("L") end,
      bytes = function(file) return file:read(13) end,
      iterator = function(file)
        local lines = {}
        for line in file:lines() do lines[#lines + 1] = line .. "\n" end
        return table.concat(lines)
      end,
    }) do
      local file <close> = slow()
      local turns, text = turns_of_others(read, file)
      assert.equal("first\nsecond\n", text, name)
      assert.is_true(turns > 5, name)
    end
  end)

  it("may be read in a generator, in a thread and in a process", function()
    local function words()
      local file <close> = io.popen("sleep 0.01; echo one; echo two")
      local found = {}
      for line in coroutine.wrap(function()
        for line in file:lines() do coroutine.yield(line) end
      end) do
        found[#found + 1] = line
      end
      return table.concat(found, " ")
    end
    assert.equal("one two", words())
    assert.equal("one two", unsync.thread(words)():await())
    assert.equal("one two", unsync.cpu(words)():await())
  end)

  it("can be read on after a wait that was broken off", function()
    local file <close> = io.popen("echo $$; printf half; exec sleep 3600")
    local pid = file:read("l")
    local ok, err = pcall(unsync.timeout, 0.01, file.read, file, "l")
    assert.same({false, "timeout"}, {ok, err.code})
    assert.equal("half", file:read(4))
    local task = unsync.spawn(file.read, file, "a")
    unsync.yield()
    task:cancel()
    pcall(task.await, task)
    assert.is_true(task:cancelled())
    os.execute("kill " .. pid)
    assert.equal("", file:read("a"))
  end)

  it("is closed at once, for a command that writes for ever", function()
    local file = io.popen("exec yes 2>/dev/null")
    assert.equal("y", file:read("l"))
    local ended
    -- Nothing can wait in a finalizer.
    local in_finalizer = setmetatable({}, {__gc = function() ended = select(2, file:close()) end})
    assert.is_table(in_finalizer)
    in_finalizer = nil
    collectgarbage()
    collectgarbage()
    assert.is_nil(in_finalizer)
    assert.equal("signal", ended)
  end)

  it("says that it was closed to a task that waits for it", function()
    local file = io.popen("exec sleep 0.05")
    local task = unsync.spawn(file.read, file)
    unsync.yield()
    file:close()
    local _, err = pcall(task.await, task)
    assert.matches("closed file", err)
  end)

  it("is not waited for at the end, where a wait for it was broken off and it was forgotten", function()
    local ran = script.run([[
      local unsync = require "unsync"
      print(pcall(unsync.timeout, 0.01, function() return io.popen("exec sleep 3600"):read("a") end))
    ]])
    assert.same({0, "false\ttimeout: the block did not end in time\n", ""}, {ran.code, ran.out, ran.err})
  end)
end)

describe("a file of io.popen that is written", function()
  local full = ("x"):rep(65536) -- a pipe is full then,
  local rest = ("x"):rep(1000)  -- and this remains in the file's own buffer until it is flushed
  local many = ("x"):rep(300000)

  it("takes what it takes in stock Lua", function()
    stock.compare [[
      local many = ("x"):rep(300000)
      local file = io.popen("wc -c", "w")
      show(file:write(many, 1, 2.5, "\n") == file, file:flush(), file:write("end") == file)
      show(file:close())
      for _, mode in ipairs {"no", "line", "full"} do
        file = io.popen("wc -c; exit 3", "w")
        show(file:setvbuf(mode), file:write(many) == file, file:write("a\n", "b") == file)
        show(file:close())
      end
      file = io.popen("cat >/dev/null", "w")
      show(file:seek("set", 1))
      show(file:read())
      try(file.write, file, {})
      show(file:close())
      try(file.write, file, "x")
      try(file.flush, file)
      io.output(io.popen("wc -c; exit 5", "w"))
      show(io.write(many, "\n") == io.output(), io.flush())
      show(io.close())
      try(io.write, "x")
      try(io.flush)
    ]]
  end)

  it("lets others go on while its command does not read", function()
    for name, use in pairs({
      write = function(file) return file:write(many) == file end,
      flush = function(file) return file:write(full) and file:write(rest) and file:flush() end,
      close = function(file) return file:write(full) and file:write(rest) and file:close() end,
      output = function(file)
        local before = io.output()
        io.output(file)
        local fine = io.write(many) == file and io.flush()
        io.output(before)
        return fine
      end,
    }) do
      local file = io.popen("sleep 0.1; cat >/dev/null", "w")
      local turns, fine = turns_of_others(use, file)
      assert.is_true(fine, name)
      assert.is_true(turns > 5, name)
      if io.type(file) == "file" then assert.is_true(file:close()) end
    end
  end)

  it("keeps the text of each task in one piece, and in their order", function()
    local path = script.path("pieces")
    local file = io.popen("sleep 0.02; cat >" .. script.quote(path), "w")
    local tasks, expected = {}, {}
    for i = 1, 20 do
      expected[i] = ("%d"):format(i % 10):rep(30000) .. "\n"
      tasks[i] = unsync.spawn(function() return file:write(expected[i]) == file end)
    end
    for i = 1, 20 do assert.is_true(tasks[i]:await()) end
    assert.is_true(file:close())
    assert.is_true(script.read_file(path) == table.concat(expected))
  end)

  it("may be written in a thread and in a process", function()
    local function write()
      local file = io.popen("sleep 0.01; exit $(wc -c | tr -d ' 0')", "w")
      assert(file:write(("x"):rep(300000)))
      return select(3, file:close())
    end
    assert.equal(3, write())
    assert.equal(3, unsync.thread(write)():await())
    assert.equal(3, unsync.cpu(write)():await())
  end)

  it("says that its command is gone to all that wait for it", function()
    local file = io.popen("sleep 0.02", "w")
    local one = unsync.spawn(function() return file:write(many) end)
    local two = unsync.spawn(function() return file:write(many) end)
    for _, task in ipairs({one, two}) do assert.same({n = 3, nil, "Broken pipe", 32}, table.pack(task:await())) end
    file:close()
  end)

  it("can be waited for no longer than one likes, and its command ends where it is forgotten then", function()
    local function gone(pid)
      return script.eventually(function() return io.open(("/proc/%s"):format(pid)) == nil end)
    end
    local function stuck()
      local path = script.path("stuck")
      os.remove(path)
      local file = io.popen(("echo $$ >%s.part; mv %s.part %s; exec sleep 3600"):format(path, path, path), "w")
      assert.is_true(script.eventually(function() return io.open(path) ~= nil end))
      return file, script.read_file(path):match("%d+")
    end
    local file, pid = stuck()
    local ok, err = pcall(unsync.timeout, 0.01, file.write, file, many)
    assert.same({false, "timeout"}, {ok, err.code})
    local task = unsync.spawn(file.write, file, many)
    task:cancel()
    assert.equal("cancelled", select(2, pcall(task.await, task)).code)
    assert.equal("file", io.type(file))
    file, task = nil, nil
    assert.is_nil(file or task)
    collectgarbage()
    collectgarbage()
    assert.is_true(gone(pid))
    file, pid = stuck()
    assert.is_true(file == file:write(full) and file == file:write(rest))
    ok, err = pcall(unsync.timeout, 0.01, file.close, file)
    assert.same({false, "timeout", "closed file"}, {ok, err.code, io.type(file)})
    assert.is_true(gone(pid))
  end)

  it("gets all of it to a command, where it is forgotten before that reads", function()
    local path = script.path("forgotten")
    script.output(([[
      local unsync = require "unsync"
      do
        local file = io.popen("sleep 0.05; cat >%s.part; mv %s.part %s", "w")
        file:write(("x"):rep(65536))
        file:write(("x"):rep(1000))
      end
      collectgarbage()
      collectgarbage()
    ]]):format(path, path, path))
    assert.is_true(script.eventually(function() return io.open(path) ~= nil end))
    assert.equal(66536, #script.read_file(path))
  end)
end)

describe("the default input, where that is what a command writes", function()
  it("gives what it gives in stock Lua", function()
    stock.compare [[
      io.input(io.popen("printf 'one\\n12 0x10\\nthree\\nfour\\nfive'"))
      show(io.read("l", "n", "n"))
      show(io.read(), io.read("L"))
      for line in io.lines() do show(line) end
      show(io.read("l"), io.read("a"), io.read(0))
      try(io.read, "x")
      try(io.lines, nil, "x")
      show(io.close(io.input()))
      try(io.read)
      try(io.lines)
      io.input(io.popen("seq 5"))
      for line in io.lines(nil, "L") do io.write(line) end
      io.input(io.popen("seq 5"))
      for one, two in io.lines(nil, "n", 1) do show(one, two) end
      io.input(io.stdin)
      show(io.read())
    ]]
  end)

  it("lets others go on until it has what is asked for", function()
    local before = io.input()
    for name, read in pairs({
      read = function() return io.read("l") .. io.read("L") .. io.read("a") end,
      lines = function()
        local lines = {}
        for line in io.lines(nil, "L") do lines[#lines + 1] = line end
        return lines[1]:sub(1, -2) .. lines[2]
      end,
    }) do
      local file <close> = io.popen("sleep 0.05; echo first; sleep 0.05; echo second")
      io.input(file)
      local turns, text = turns_of_others(read)
      io.input(before)
      assert.equal("firstsecond\n", text, name)
      assert.is_true(turns > 5, name)
    end
  end)

  it("is the one that was there when the read began", function()
    local before = io.input()
    local slow <close> = io.popen("sleep 0.02; echo slow")
    local other <close> = io.popen("echo other")
    io.input(slow)
    local task = unsync.spawn(function() return io.read() end)
    unsync.yield()
    io.input(other)
    assert.equal("slow", task:await())
    assert.equal("other", io.read())
    io.input(before)
  end)
end)
