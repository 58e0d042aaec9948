--- Rules that other libraries have written down, each with our answer: one test for each, and one row of a table in
--- docs/cancellation.md, in the test's own words. A rule without its row, or a row without its test, is an error.
local rules = {}

local DOCUMENT = "docs/cancellation.md"

--- The rules in the tables below the heading `## title`, each with the first word of its answer.
local function documented(title)
  local file <close> = assert(io.open(DOCUMENT, "r"))
  local found, inside = {}, false
  for line in file:lines() do
    local heading = line:match("^## (.*)")
    if heading then inside = heading == title end
    local rule, answer = line:match("^| (.-) | (%a+)")
    if inside and rule and rule ~= "rule" then found[rule] = answer end
  end
  return found
end

--- The rules of one library, to be told in the section `title`; `it` is busted's. `list.same(rule, fn)` and
--- `list.differs(rule, fn)` make the test of one; `list.told()`, the last, the one that holds the document to them all.
function rules.of(title, it)
  local list, answers = {}, {}

  local function rule(answer)
    return function(name, fn)
      assert(not answers[name], name)
      answers[name] = answer
      it(name .. " (" .. answer .. ")", fn)
    end
  end
  list.same, list.differs = rule("same"), rule("differs")

  function list.told()
    it("the document has these rules and no others, with the same answers", function()
      local found = documented(title)
      for name, answer in pairs(answers) do assert(found[name] == answer, name .. ": " .. tostring(found[name])) end
      for name in pairs(found) do assert(answers[name], "no test: " .. name) end
    end)
  end

  return list
end

return rules
