--- A library that blocks, as LuaSocket does, runs in threads: as many calls at once as you like.
--[[ Output:
200	1000	this is /page/1
200	1000	this is /page/2
200	1000	this is /page/3
200	1000	this is /page/4
200	1000	this is /page/5
200	1000	this is /page/6
200	1000	this is /page/7
200	1000	this is /page/8
200	1000	this is /page/9
200	1000	this is /page/10
ten times 0.2 s took less than one second:	true
false	unsendable	argument 1.socket
]]
package.path = (arg[0]:match("^.*/") or "") .. "?.lua;" .. package.path
local unsync = require("unsync")
local server <close> = require("support.server").start(0.2, 1000)

local download = unsync.thread(function(url)
  local http = require("socket.http") -- each thread has a Lua of its own, with all that can be required
  local body, status = http.request(url)
  return status, #body, body:match("^[^\n]*")
end)

local start, pages = unsync.now(), {}
for i = 1, 10 do pages[i] = download(server.url .. "/page/" .. i) end
for _, page in ipairs(pages) do print(page:await()) end
print("ten times 0.2 s took less than one second:", unsync.now() - start < 1)

-- What cannot cross to a thread is refused by the call itself, with the path to it. Nothing has run.
local send = unsync.thread(function(connection) return connection.socket:send("hello") end)
local connection = { socket = require("socket").tcp(), peer = "nobody" }
local ok, err = pcall(send, connection)
print(ok, err.code, err.path)
