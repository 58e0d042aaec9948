--- Every example prints what its top comment says: what stands there between the markers, and nothing else.
---     --[[ Output:                    what goes to stdout
---     --[[ Errors, exit code 1:       what goes to stderr; without it that is nothing, and the exit code is 0
local build = os.getenv("UNSYNC_BUILD") or "build"
local limit = 60 * (tonumber(os.getenv("UNSYNC_SLOWNESS")) or 1) -- seconds; whatever hangs ends with exit code 124

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read("a")
end

--- Runs an example as a user would: stdout, stderr, exit code.
local function run(path)
  local errors = os.tmpname()
  local pipe = assert(io.popen(("timeout %d %s/unsync %s 2>%s </dev/null"):format(limit, build, path, errors)))
  local output = pipe:read("a")
  local _, how, code = pipe:close()
  local text = read(errors)
  os.remove(errors)
  return output, text, how == "exit" and code or how .. " " .. code
end

local paths = {}
for path in io.popen("ls examples/*.lua"):lines() do paths[#paths + 1] = path end

describe("examples", function()
  it("are there", function() assert.is_true(#paths > 10) end)

  for _, path in ipairs(paths) do
    local source = read(path)
    local output = source:match("^%-%-%-[^\n]*\n%-%-%[%[ Output:\n(.-)%]%]\n")
    if output then
      it(path .. " prints what it says", function()
        local code, errors = source:match("\n%-%-%[%[ Errors, exit code (%d+):\n(.-)%]%]\n")
        local actual_output, actual_errors, actual_code = run(path)
        assert.same({ output, errors or "", tonumber(code) or 0 }, { actual_output, actual_errors, actual_code })
      end)
    end
  end

  it("docs/lua.md: each piece of code prints what stands behind its arrows", function()
    local path = os.tmpname()
    for code in read("docs/lua.md"):gmatch("\n```lua\n(.-)\n```") do
      local expected = {}
      for line in code:gmatch("%-%-> ([^\n]*)") do expected[#expected + 1] = line .. "\n" end
      local file <close> = assert(io.open(path, "w"))
      file:write(code)
      file:flush()
      assert.same({ table.concat(expected), "", 0 }, { run(path) }, code)
    end
    os.remove(path)
  end)

  it("examples/mixed.lua says what ran where, and saves time #slow #plain", function()
    local output, errors, code = run("examples/mixed.lua")
    assert.same({ "", 0 }, { errors, code })
    for name, place in pairs({ compute = "process", download = "thread", fetch = "the loop", digest = "thread" }) do
      assert.truthy(output:find("\n  " .. name .. " +in [^\n]*" .. place), name)
    end
    local serial, whole = output:match("one by one +([%d.]+) s\nwith unsync +([%d.]+) s")
    assert.is_true(tonumber(serial) > tonumber(whole), output)
  end)

  it("examples/mixed.lua ends its server with it #slow #plain", function()
    local function servers()
      local list <close> = io.popen("grep -ls support/delayed.lua /proc/[0-9]*/cmdline")
      local pids = {}
      for pid in list:read("a"):gmatch("/proc/(%d+)/cmdline") do pids[pid] = true end
      return pids
    end
    local before = servers()
    local pipe = assert(io.popen(("timeout %d %s/unsync examples/mixed.lua </dev/null"):format(limit, build)))
    assert(pipe:read("l"))
    local mine
    for pid in pairs(servers()) do mine = mine or (not before[pid] and pid) end
    assert.truthy(mine)
    pipe:read("a")
    assert.is_true((pipe:close()))
    assert.is_nil(servers()[mine])
  end)
end)
