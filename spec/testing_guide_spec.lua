--- docs/testing.md and examples/testing/: the programs it shows are those in the tree, and do what it says.
local script = require("spec.support.script")

local guide = script.read_file("docs/testing.md")

local function run(...)
  local ran = script.run(nil, { options = { "test", ... } })
  ran.text = ran.out .. ran.err
  return ran
end

describe("the guide to testing", function()
  it("shows programs that print what stands behind their arrows, and specs that pass", function()
    local programs, specs, quoted = 0, 0, 0
    for code in guide:gmatch("\n```lua\n(.-)\n```") do
      local path = code:match("^%-%- (examples/testing/[%w_/]+%.lua)\n")
      if path then
        quoted = quoted + 1
        assert.equal(script.read_file(path), code:gsub("^[^\n]*\n", "", 1) .. "\n", path)
      elseif code:find("\n  it(", 1, true) then
        specs = specs + 1
        local ran = run(script.file("guide_spec.lua", code))
        assert.equal(0, ran.code, ran.text)
      else
        programs = programs + 1
        local expected = {}
        for line in code:gmatch("%-%-> ([^\n]*)") do expected[#expected + 1] = line .. "\n" end
        assert.equal(table.concat(expected), script.output(code), code)
      end
    end
    assert.same({ 6, 1, 3 }, { programs, specs, quoted })
  end)

  it("shows a race that no run without a seed finds, and that some seeds find, again and again", function()
    local path = "examples/testing/prices_spec.lua"
    assert.equal(0, run(path).code)
    local ran = run("--repeat", "10", path)
    assert.equal(1, ran.code)
    local count, failed = ran.text:match("(%d+) of 10 seeds failed: ([%d ]+)")
    assert.truthy(guide:find(("%s of 10 seeds failed: %s"):format(count, failed), 1, true), ran.text)
    local again = run("--seed=" .. failed:match("%d+"), path)
    assert.equal(1, again.code)
    assert.truthy(again.text:find("Expected objects to be equal", 1, true), again.text)
  end)

  it("shows how it is mended", function()
    local ran = run("--repeat=20", "examples/testing/prices_fixed_spec.lua")
    assert.equal("all 20 seeds passed: 1 to 20\n", ran.text)
  end)
end)
