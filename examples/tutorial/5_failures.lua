local unsync = require "unsync"
local http = require "unsync.http"

local fetch = unsync.io(function(url)
  return http.get(url):await().body
end, { timeout = 10 })

local page = fetch("http://127.0.0.1:1/")
local ok, err = pcall(page.await, page)
print(ok, err.code)

local attempts = 0
print(pcall(unsync.retry, function()
  attempts = attempts + 1
  error("no luck", 0)
end, { attempts = 3, backoff = 0.01 }))
print(attempts)
