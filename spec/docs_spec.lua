--- docs/tutorial.md and docs/howto.md: the programs they show run, and print what it says there.
local script = require("spec.support.script")

describe("the tutorial", function()
  local tutorial = script.read_file("docs/tutorial.md")

  for path in io.popen("ls examples/tutorial/[1-9]*.lua"):lines() do
    it("shows " .. path .. " as it is, and what it prints", function()
      local shown = tutorial:match("\n```lua\n%-%- " .. path:gsub("%p", "%%%0") .. "\n(.-)```\n")
      assert.equal(script.read_file(path), shown)
      local expected = tutorial:match("\n```\n%$ unsync " .. path:gsub("%p", "%%%0") .. "\n(.-)```\n")
      assert.is_string(expected)
      assert.equal(expected, script.output(nil, { options = { path } }))
    end)
  end

  it("shows nothing else", function()
    for path in tutorial:gmatch("\n```lua\n%-%- ([^\n]*)\n") do assert.truthy(io.open(path)) end
    local _, programs = tutorial:gsub("\n```lua\n", "")
    local _, paths = tutorial:gsub("\n```lua\n%-%- examples/tutorial/%d_%l+%.lua\n", "")
    assert.equal(6, programs)
    assert.equal(programs, paths)
  end)
end)

describe("the how-to", function()
  local section = ""
  for text, code in ("\n" .. script.read_file("docs/howto.md")):gmatch("(.-)\n```lua\n(.-)\n```") do
    section = text:match(".*\n## ([^\n]*)") or section
    it(section .. ": prints what stands behind its arrows", function()
      local expected = {}
      for line in code:gmatch("%-%-> ([^\n]*)") do expected[#expected + 1] = line .. "\n" end
      assert.equal(table.concat(expected), script.output(code))
    end)
  end
end)
