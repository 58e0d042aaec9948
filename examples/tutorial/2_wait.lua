package.path = (arg[0]:match("^.*/") or "") .. "?.lua;" .. package.path
local http = require "unsync.http"
local site = require "site"

local server <close> = site.start()

local function length(path)
  local answer = http.get(server.url .. path):await()
  return #answer.body
end

print(length("/"))
print(length("/news"))
