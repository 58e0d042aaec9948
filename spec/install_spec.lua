--- make install and uninstall, the manual page, and the documentation's links: what a user gets.
local script = require("spec.support.script")

local function shell(command)
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>&1 </dev/null"))
  local text = pipe:read("a")
  local ok, _, code = pipe:close()
  assert(ok, ("%s\nexit code %s:\n%s"):format(command, code, text))
  return text
end

local prefix = script.read_file("build/prefix"):match("^[^\n]*")
local stage = script.path("stage")
local top = stage .. prefix

-- What there is has been built, perhaps with other flags than those that are known here: nothing is made again.
local function make(goal)
  return shell(("make -s -o all %s PREFIX=%s DESTDIR=%s"):format(goal, script.quote(prefix), script.quote(stage)))
end

local function files() return shell(("cd %s && find . ! -type d | sort"):format(script.quote(top))) end

--- Every link of the documents below `root` leads to something; how many there are.
local function check_links(root)
  local count = 0
  local quoted = script.quote(root)
  for path in shell(("cd %s && ls README.md CONTRIBUTING.md docs/*.md"):format(quoted)):gmatch("[^\n]+") do
    for target in script.read_file(root .. "/" .. path):gmatch("%]%(([^)#]+)[^)]*%)") do
      if not target:find("^https?:") then
        count = count + 1
        shell(("cd %s/%s && test -e %s || { echo %s: %s; false; }"):format(quoted, path:match("^(.*)/") or ".", target,
          path, target))
      end
    end
  end
  return count
end

local function options_of(...)
  local ran = script.run(nil, { options = { ... } })
  assert.equal(0, ran.code, ran.err)
  local found = {}
  for line in ran.out:gmatch("\n  (%-[^\n]*)") do
    for option in (" " .. line:match("^(.-)%s%s+")):gmatch(" (%-[%-%a]*)") do found[#found + 1] = option end
  end
  return found
end

describe("the manual page", function()
  local page = script.read_file("docs/unsync.1")

  it("has every option of --help and of test --help", function()
    local count = 0
    for _, list in ipairs({ options_of("--help"), options_of("test", "--help") }) do
      for _, option in ipairs(list) do
        count = count + 1
        local written = ".It Fl " .. option:sub(2):gsub("%-", "\\-")
        if option == "-" then written = ".It Fl" end
        local found = page:find(written .. " ", 1, true) or page:find(written .. "\n", 1, true)
        -- `-h` and `--help` stand in one line.
        found = found or page:find(" , " .. option:sub(2):gsub("%-", "\\-") .. "\n", 1, true)
        assert.truthy(found, option)
      end
    end
    assert.is_true(count >= 14, tostring(count))
  end)

  it("has every variable of the environment that docs/lua.md has", function()
    local count = 0
    for name in script.read_file("docs/lua.md"):gmatch("`(UNSYNC_%u[%u_]+)`") do
      count = count + 1
      assert.truthy(page:find(".It Ev " .. name .. "\n", 1, true), name)
    end
    assert.is_true(count >= 4)
  end)
end)

describe("the documentation", function()
  it("links to files that are there", function()
    assert.is_true(check_links(".") > 40)
  end)

  it("is linked from the README, all of it", function()
    local readme = script.read_file("README.md")
    for path in shell("ls docs/*.md docs/*.1"):gmatch("[^\n]+") do
      assert.truthy(readme:find("(" .. path .. ")", 1, true), path)
    end
  end)
end)

describe("make install #plain", function()
  it("puts all of it below DESTDIR and PREFIX; uninstall removes that, and nothing else", function()
    make("install")
    local list = files()
    for _, path in ipairs({ "bin/unsync", "lib/lua/5.4/unsync.so", "lib/libunsync.so", "lib/libunsync.a",
      "lib/pkgconfig/unsync.pc", "include/unsync.h", "include/unsync_plugin.h", "share/man/man1/unsync.1",
      "share/unsync/meta/unsync.lua", "share/unsync/meta/unsync/http.lua",
      "share/doc/unsync/README.md", "share/doc/unsync/docs/lua.md",
      "share/doc/unsync/docs/reference.md", "share/doc/unsync/examples/io.lua",
      "share/doc/unsync/examples/support/server.lua" }) do
      assert.truthy(list:find("./" .. path .. "\n", 1, true), path)
    end
    script.write_file(top .. "/share/doc/unsync/mine", "")
    script.write_file(top .. "/bin/another", "")
    make("uninstall")
    assert.equal("./bin/another\n./share/doc/unsync/mine\n", files())
    os.remove(top .. "/share/doc/unsync/mine")
    os.remove(top .. "/bin/another")
    make("install")
    make("uninstall")
    assert.equal("", files())
    local folders = shell(("cd %s && find . -type d -name 'unsync*'"):format(script.quote(top)))
    assert.equal("", folders)
  end)

  it("gives documents whose links lead to what is installed", function()
    make("install")
    assert.equal(check_links("."), check_links(top .. "/share/doc/unsync"))
    make("uninstall")
  end)

  it("gives a program that runs an example, and a library that a C program finds by pkg-config", function()
    make("install")
    local example = top .. "/share/doc/unsync/examples/io.lua"
    local expected = script.read_file(example):match("%-%-%[%[ Output:\n(.-)%]%]\n")
    local quoted = script.quote(top)
    assert.equal(expected, shell(("%s/bin/unsync %s"):format(quoted, script.quote(example))))

    local program = script.path("run")
    local found = ("PKG_CONFIG_PATH=%s/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=%s pkg-config"):format(quoted,
      script.quote(stage))
    local flags = shell(found .. " --cflags --libs unsync"):gsub("\n", " ")
    shell(("cc -std=c11 -o %s %s/share/doc/unsync/examples/embed/run.c %s $(pkg-config --cflags --libs lua5.4)")
      :format(script.quote(program), quoted, flags))
    local said = script.read_file("examples/embed/run.c"):match("\n %*\n( %*     script:.-) %*/"):gsub(" %*     ", "")
    assert.equal(said, shell(("LD_LIBRARY_PATH=%s/lib %s"):format(quoted, script.quote(program))))

    local shown = script.read_file("docs/embed.md"):match("\n```c\n(.-\nint main.-)```\n")
    shell(("cc -std=c11 -Wall -Wextra -Wpedantic -Werror -o %s %s %s"):format(script.quote(program),
      script.quote(script.file("program.c", shown)), flags))
    local directory = program:match("^(.*)/")
    script.file("script.lua", [[
      local unsync = require "unsync"
      print(unsync.cpu(function(n) return 2 * n end)(21):await(), unsync.thread(string.upper)("x"):await())
    ]])
    assert.equal("42\tX\n", shell(("cd %s && LD_LIBRARY_PATH=%s/lib %s"):format(script.quote(directory), quoted,
      script.quote(program))))
    make("uninstall")
  end)
end)
