-- The library as a program links it. What a host promises is tested in C: spec/c/api_test.c.
local script = require("spec.support.script")

local function has(part, text)
  if not text:find(part, 1, true) then error(("no %q in:\n%s"):format(part, text), 2) end
end

--- What the shell's command writes to stdout; it must end well, without a word on stderr.
local function output(command)
  local errors = script.path("errors")
  local pipe <close> = assert(io.popen(command .. " 2>" .. errors))
  local text = pipe:read("a")
  local _, how, code = pipe:close()
  local said = script.read_file(errors)
  if how ~= "exit" or code ~= 0 or said ~= "" then
    error(("%s: %s %d\n%s%s"):format(command, how, code, text, said), 2)
  end
  return text
end

--- Words that name those of a library's own dynamic symbols that do not match the pattern.
local function other_symbols(library, pattern)
  local names = {}
  for name in output("nm --dynamic --defined-only --format=posix " .. library):gmatch("(%S+) [^\n]*\n") do
    if not name:match(pattern) then names[#names + 1] = name end
  end
  return names
end

local function compiles(compiler, text)
  local name = compiler:match("%+%+") and "header.cc" or "header.c"
  output(compiler .. " -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only " .. script.file(name, text))
end

describe("embedding #plain", function()
  for path in io.popen("ls examples/embed/*.c"):lines() do
    local name = path:match("([^/]+)%.c$")
    it(path .. " prints what it says", function()
      local source = script.read_file(path)
      local expected = source:match("^/%*.-%./a%.out\n %*\n(.-)\n %*/"):gsub(" %*     ", "") .. "\n"
      assert.equal(expected, output("build/embed/" .. name))
    end)
  end

  it("the header is one for C99 and for C++", function()
    compiles("gcc -std=c99", "#include <unsync.h>\nint main(void) { return unsync_version() == 0; }\n")
    if os.execute("command -v g++ >/dev/null") then
      compiles("g++ -std=c++11", "#include <unsync.h>\nint main() { return unsync_version() == nullptr; }\n")
    end
  end)

  it("the header goes together with the plugins' one", function()
    compiles("gcc -std=c99", "#include <unsync.h>\n#include <unsync_plugin.h>\nint main(void) { return 0; }\n")
  end)

  it("the libraries show what is promised, and nothing else", function()
    assert.same({}, other_symbols("build/libunsync.so", "^unsync_"))
    assert.same({}, other_symbols("build/unsync.so", "^luaopen_unsync"))
  end)

  it("the library has every function of its header", function()
    local there = {}
    for name in output("nm --dynamic --defined-only --format=posix build/libunsync.so"):gmatch("(%S+) [^\n]*\n") do
      there[name] = true
    end
    local count = 0
    for name in script.read_file("include/unsync.h"):gmatch("UNSYNC_API [^;(]-(unsync_[%w_]+)%(") do
      count = count + 1
      assert.is_true(there[name], name)
    end
    assert.is_true(count > 15)
  end)

  it("the version is one for the program, the library and pkg-config", function()
    local version = script.read_file("include/unsync.h"):match('UNSYNC_VERSION "([^"]+)"')
    has("unsync " .. version, output(script.program .. " -v"))
    has("Version: " .. version, script.read_file("build/unsync.pc"))
  end)
end)
