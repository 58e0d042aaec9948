--- HTTP requests, any number at once: each returns its future.
--[[ Output:
200	OK	200	this is /one
10000	bytes; fifty times 0.2 s took less than five seconds:	true
ECONNREFUSED	127.0.0.1:1
timeout
]]
package.path = (arg[0]:match("^.*/") or "") .. "?.lua;" .. package.path
local unsync = require("unsync")
local http = require("unsync.http")
local server <close> = require("support.server").start(0.2, 200)

local answer = http.get(server.url .. "/one"):await()
print(answer.status, answer.reason, answer.headers["Content-Length"], answer.body:match("^[^\n]*"))

local start, answers = unsync.now(), {}
for i = 1, 50 do answers[i] = http.get(server.url .. "/" .. i) end
local bytes = 0
for _, one in ipairs(unsync.all(answers):await()) do bytes = bytes + #one.body end
print(bytes, "bytes; fifty times 0.2 s took less than five seconds:", unsync.now() - start < 5)

-- No whole answer is a failure, and says what it was.
local refused = http.get("http://127.0.0.1:1/")
print(refused:catch(function(err) return err.code, err.address end):await())
local slow = http.request({ url = server.url .. "/slow", timeout = 0.01 })
print(slow:catch(function(err) return err.code end):await())
