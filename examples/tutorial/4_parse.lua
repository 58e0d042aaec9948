local unsync = require "unsync"

local links = unsync.cpu(function(page)
  local found = {}
  for link in page:gmatch('href="([^"]+)"') do found[#found + 1] = link end
  return found
end)

local page = '<a href="/news">News</a> <a href="/about">About</a>'
for _, link in ipairs(links(page):await()) do print(link) end
