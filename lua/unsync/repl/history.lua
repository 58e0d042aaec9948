--- history: what was typed, in $XDG_STATE_HOME/unsync/history, an entry a line.
---
--- Each entry is appended when it is made, so sessions that go on side by side share the file. Nothing that is wrong
--- with the file is more than a session without its past: it is only read where it is a plain file, up to a limit, and
--- what in it is no text is left out.
local history = {}
history.__index = history

local ENTRIES, BYTES = 1000, 1024 * 1024
local ENTRY_BYTES = 64 * 1024

local escapes = { ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r" }
local plain = { ["\\\\"] = "\\", ["\\n"] = "\n", ["\\r"] = "\r" }

local function encode(text) return (text:gsub("[\\\n\r]", escapes)) end
local function decode(line) return (line:gsub("\\.", plain)) end

local function place()
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if state and state:sub(1, 1) == "/" then return state .. "/unsync/history" end -- a relative one is to be ignored
  if home and home ~= "" then return home .. "/.local/state/unsync/history" end
  return nil
end

local function is_text(entry)
  return entry ~= "" and #entry <= ENTRY_BYTES and utf8.len(entry) ~= nil and not entry:find("[%z\1-\8\11-\31\127]")
end

--- The history of earlier sessions.
---@param files table  read_file, append and replace of host/files.h
function history.open(files)
  local self = setmetatable({ files = files, path = place(), entries = {} }, history)
  local text = self.path and files.read_file(self.path, BYTES)
  if not text then return self end
  local count = 0
  for line in text:gmatch("[^\n]+") do
    count = count + 1
    local entry = decode(line)
    if is_text(entry) then self.entries[#self.entries + 1] = entry end
  end
  local first = math.max(#self.entries - ENTRIES + 1, 1)
  self.entries = table.move(self.entries, first, #self.entries, 1, {})
  if count > 2 * ENTRIES or #text >= BYTES then
    local lines = {}
    for i, entry in ipairs(self.entries) do lines[i] = encode(entry) .. "\n" end
    files.replace(self.path, table.concat(lines))
  end
  return self
end

--- Adds an entry, unless it is the last one again, begins with a space, or is no text; true if it was added.
function history:add(entry)
  if entry:find("^%s") or not is_text(entry) or entry == self.last then return false end
  self.last = entry
  if self.path then self.files.append(self.path, encode(entry) .. "\n") end
  return true
end

return history
