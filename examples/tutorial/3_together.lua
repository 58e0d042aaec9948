package.path = (arg[0]:match("^.*/") or "") .. "?.lua;" .. package.path
local unsync = require "unsync"
local http = require "unsync.http"
local site = require "site"

local server <close> = site.start()

local length = unsync.io(function(path)
  local answer = http.get(server.url .. path):await()
  return #answer.body
end)

local futures = {}
for n, path in ipairs({ "/", "/news", "/about" }) do futures[n] = length(path) end
print(table.concat(unsync.all(futures):await(), " "))
