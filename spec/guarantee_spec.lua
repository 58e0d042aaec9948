-- How soon a cancellation and a timeout end a call, and its work, on each executor: every cell of the table in
-- docs/cancellation.md is measured here. UNSYNC_WRITE=1 writes the table anew, from this run.
local script = require("spec.support.script")

local GRACE = 0.5 -- seconds, the default
local PAGE = "docs/cancellation.md"

--- What must have stopped the call, by executor and by what it stood in. Where two are named, the moment decides.
local expected = {
  ["io|waits"] = "await", ["io|swallows errors"] = "hook",
  ["thread|computes"] = "hook", ["thread|waits"] = "await hook", ["thread|swallows errors"] = "hook await",
  ["thread|blocks in a Lua library"] = "abandoned", ["thread|C that looks at its token"] = "token",
  ["thread|C that does not"] = "abandoned",
  ["cpu|computes"] = "hook", ["cpu|waits"] = "await hook", ["cpu|swallows errors"] = "hook await",
  ["cpu|blocks in a Lua library"] = "sigterm", ["cpu|C that looks at its token"] = "token",
  ["cpu|C that does not"] = "sigterm",
}

local function rows_of(text)
  local rows = {}
  for line in text:gmatch("[^\n]+") do
    local row = {}
    for field in line:gmatch("[^|]+") do row[#row + 1] = field end
    rows[#rows + 1] = {key = row[1] .. "|" .. row[2], executor = row[1], what = row[2], how = row[3],
      settled = tonumber(row[4]), by = row[5], code = row[6], work = tonumber(row[7])}
  end
  return rows
end

local function milliseconds(seconds) return seconds and ("%.0f ms"):format(seconds * 1000) or "goes on" end

local function page_with(rows)
  local lines = {
    "| executor | the call | stopped by | `cancel`: settled | work ended | `timeout`: settled | work ended |",
    "|-|-|-|-|-|-|-|",
  }
  for i = 1, #rows, 2 do
    local cancel, timeout = rows[i], rows[i + 1]
    lines[#lines + 1] = ("| `%s` | %s | `%s` | %s | %s | %s | %s |"):format(
      cancel.executor, cancel.what, cancel.by, milliseconds(cancel.settled), milliseconds(cancel.work),
      milliseconds(timeout.settled), milliseconds(timeout.work))
  end
  local text = script.read_file(PAGE)
  local from = text:find("| executor |", 1, true)
  local to = text:find("\n\n", from, true)
  return text:sub(1, from - 1) .. table.concat(lines, "\n") .. text:sub(to)
end

describe("what a cancellation and a timeout guarantee #plain", function()
  local rows

  setup(function()
    rows = rows_of(script.output(nil, {
      options = {"spec/support/guarantees.lua", tostring(GRACE), script.path("beats"), script.build .. "/spec/plugins"},
      before = "mkdir -p " .. script.quote(script.path("beats")),
      env = {UNSYNC_GRACE = tostring(GRACE)}, limit_s = 120,
    }))
    if os.getenv("UNSYNC_WRITE") then script.write_file(PAGE, page_with(rows)) end
  end)

  it("ends every call, by what is promised for what it stands in", function()
    local seen = {}
    for _, row in ipairs(rows) do
      assert.is_truthy(expected[row.key], row.key)
      assert.is_truthy(expected[row.key]:find(row.by, 1, true),
        ("%s by %s was stopped by %s"):format(row.key, row.how, row.by))
      assert.equal(row.how == "cancel" and "cancelled" or "timeout", row.code, row.key)
      seen[row.key .. row.how] = true
    end
    for key in pairs(expected) do
      assert.is_true(seen[key .. "cancel"] and seen[key .. "timeout"], key .. " was not measured")
    end
  end)

  it("leaves the stuck their grace period, and no call less", function()
    for _, row in ipairs(rows) do
      if row.by == "abandoned" or row.by == "sigterm" then assert.is_true(row.settled >= GRACE * 0.99, row.key) end
    end
  end)

  it("ends the work too, but for C in a thread that nobody can stop", function()
    for _, row in ipairs(rows) do assert.equal(row.by == "abandoned", row.work == nil, row.key) end
  end)

  it("is what the page says", function()
    local page = script.read_file(PAGE)
    for _, row in ipairs(rows) do
      local found = page:match("| `" .. row.executor .. "` | " .. row.what:gsub("%p", "%%%0") .. " | `(%w+)` |")
      assert.is_truthy(found and expected[row.key]:find(found, 1, true), row.key)
    end
  end)
end)
