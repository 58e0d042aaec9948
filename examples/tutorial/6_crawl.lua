package.path = (arg[0]:match("^.*/") or "") .. "?.lua;" .. package.path
local unsync = require "unsync"
local http = require "unsync.http"
local site = require "site"

local server <close> = site.start()

local fetch = unsync.io(function(path)
  return http.get(server.url .. path):await()
end, { limit = 4, timeout = 10 })

local links = unsync.cpu(function(page)
  local found = {}
  for link in page:gmatch('href="([^"]+)"') do found[#found + 1] = link end
  return found
end)

local seen, broken = {}, {}

unsync.scope({ timeout = 60 }, function(s)
  local function visit(path)
    if seen[path] then return end
    seen[path] = true
    s:spawn(function()
      local answer = fetch(path):await()
      if answer.status ~= 200 then
        broken[#broken + 1] = path
        return
      end
      for _, link in ipairs(links(answer.body):await()) do visit(link) end
    end)
  end
  visit("/")
end)

local pages = {}
for path in pairs(seen) do pages[#pages + 1] = path end
table.sort(pages)
print(table.concat(pages, " "))
print("broken: " .. table.concat(broken, " "))
