--- A small HTTP/1.1 server on 127.0.0.1 and a free port, for specs and examples: answers late, wrongly or not at all,
--- as the request says. Over luv alone, so it runs here, in stock lua5.4, and in a process of its own:
---     unsync spec/support/http_server.lua     prints its port, serves until its standard input ends
---
---     /?delay=0.5&size=100      100 bytes (default 2) after half a second (default 0)
---     /status/404               that status
---     /echo                     what was asked: request line, headers, an empty line, the body
---     /redirect?to=URL&status=302&count=3   count times to itself, then to URL
---     /headers                  one header twice, in two spellings
---     /again?count=3            one header so often, its values 1, 2, 3
---     /flood?size=1000          a head of at least so many bytes
---     /chunked?count=3&delay=0.01           so many chunks, "chunk 1\n" and so on
---     /gzip                     "compressed hello\n", compressed if the client allows it
---     /short                    promises 100 bytes, sends 10, closes
---     /empty                    closes without a word
---     /reset                    resets the connection
---     /garbage                  answers, but not in HTTP
---     /never                    does not answer
---     /stats                    "connections open most requests", counted since the start
local uv = require("luv")

local reasons = {
  [200] = "OK", [204] = "No Content", [301] = "Moved Permanently", [302] = "Found", [303] = "See Other",
  [307] = "Temporary Redirect", [400] = "Bad Request", [404] = "Not Found", [500] = "Internal Server Error",
}

local gzipped = ("1f8b08000000000002034bcecf2d284a2d2e4e4d51c848cdc9c9e702002b89931011000000")
  :gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)

local function unescape(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(byte) return string.char(tonumber(byte, 16)) end))
end

local function parse_query(query)
  local fields = {}
  for name, value in query:gmatch("([^&=]+)=?([^&]*)") do fields[unescape(name)] = unescape(value) end
  return fields
end

--- One call of `fn`, `seconds` from now.
local function later(seconds, fn)
  local timer = uv.new_timer()
  timer:start(math.ceil(seconds * 1000), 0, function()
    timer:close()
    fn()
  end)
end

local pages = {}

local function respond(client, request, status, body, headers)
  local lines = {("HTTP/1.1 %d %s"):format(status, reasons[status] or "Something")}
  for _, header in ipairs(headers or {}) do lines[#lines + 1] = header end
  if status ~= 204 then lines[#lines + 1] = "Content-Length: " .. #body end
  lines[#lines + 1] = "\r\n"
  client:send(table.concat(lines, "\r\n") .. (request.method == "HEAD" and "" or body))
  client:next()
end

pages["/"] = function(client, request)
  local body = ("x"):rep(tonumber(request.query.size) or 2)
  local delay = tonumber(request.query.delay) or 0
  if delay == 0 then return respond(client, request, 200, body) end
  later(delay, function() respond(client, request, 200, body) end)
end

pages["/status"] = function(client, request)
  local status = tonumber(request.path:match("^/status/(%d+)$")) or 400
  respond(client, request, status, status == 204 and "" or "status " .. status .. "\n")
end

pages["/echo"] = function(client, request)
  local lines = {request.method .. " " .. request.target}
  for _, header in ipairs(request.header_list) do lines[#lines + 1] = header[1] .. ": " .. header[2] end
  respond(client, request, 200, table.concat(lines, "\n") .. "\n\n" .. request.body, {"Content-Type: text/plain"})
end

pages["/redirect"] = function(client, request)
  local count, to = tonumber(request.query.count) or 1, request.query.to or "/echo"
  local status = tonumber(request.query.status) or 302
  if count > 1 then to = ("/redirect?count=%d&status=%d&to=%s"):format(count - 1, status, to) end
  respond(client, request, status, "elsewhere\n", {"Location: " .. to})
end

pages["/headers"] = function(client, request)
  respond(client, request, 200, "", {"Set-Cookie: a=1", "X-Blank:", "set-cookie: b=2", "X-Padded:   in between  \t"})
end

pages["/again"] = function(client, request)
  local lines = {}
  for i = 1, tonumber(request.query.count) or 3 do lines[i] = "A: " .. i end
  respond(client, request, 200, "", lines)
end

pages["/flood"] = function(client, request)
  local lines, line = {}, "X: " .. ("x"):rep(995)
  for i = 1, math.ceil((tonumber(request.query.size) or 1000) / 1000) do lines[i] = line end
  respond(client, request, 200, "", lines)
end

pages["/chunked"] = function(client, request)
  local count, delay = tonumber(request.query.count) or 3, tonumber(request.query.delay) or 0
  client:send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
  local function chunk(number)
    if number > count then
      client:send("0\r\n\r\n")
      return client:next()
    end
    local text = "chunk " .. number .. "\n"
    client:send(("%x\r\n%s\r\n"):format(#text, text))
    later(delay, function() chunk(number + 1) end)
  end
  chunk(1)
end

pages["/gzip"] = function(client, request)
  if (request.headers["accept-encoding"] or ""):find("gzip") then
    return respond(client, request, 200, gzipped, {"Content-Encoding: gzip"})
  end
  respond(client, request, 200, "compressed hello\n")
end

pages["/short"] = function(client)
  client:send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789", function() client:close() end)
end

pages["/empty"] = function(client) client:close() end

pages["/reset"] = function(client) client.socket:close_reset() end

pages["/garbage"] = function(client)
  client:send("this is\r\nno HTTP at all\r\n\r\n", function() client:close() end)
end

pages["/never"] = function() end

pages["/stats"] = function(client, request)
  local stats = client.server
  respond(client, request, 200, ("%d %d %d %d"):format(stats.connections, stats.open, stats.most, stats.requests))
end

local Client = {}
Client.__index = Client

function Client:send(bytes, fn)
  if not self.socket:is_closing() then self.socket:write(bytes, fn) end
end

function Client:close()
  if not self.socket:is_closing() then self.socket:close() end
end

--- Serves the next request if it has come whole.
function Client:next()
  self.busy = false
  if self.received:find("^[^%u]") then return self:close() end -- no HTTP: TLS, say
  local head, rest = self.received:match("^(.-\r\n)\r\n(.*)$")
  if not head then return end
  local request = {headers = {}, header_list = {}}
  request.method, request.target = head:match("^(%S+) (%S+) HTTP/1%.[01]\r\n")
  if not request.method then return self:close() end
  for name, value in head:gmatch("\r\n([^:\r\n]+):[ \t]*([^\r\n]*)") do
    request.headers[name:lower()] = value
    request.header_list[#request.header_list + 1] = {name, value}
  end
  local size = tonumber(request.headers["content-length"]) or 0
  if #rest < size then return end
  request.body, self.received = rest:sub(1, size), rest:sub(size + 1)
  request.path = request.target:match("^[^?]*")
  request.query = parse_query(request.target:match("%?(.*)$") or "")
  self.busy = true
  self.server.requests = self.server.requests + 1
  local page = pages[request.path:match("^/[^/]*")]
  if not page then return respond(self, request, 404, "no such page\n") end
  page(self, request)
end

local function accept(server)
  local socket = uv.new_tcp()
  if not server.socket:accept(socket) then return socket:close() end
  socket:nodelay(true)
  local client = setmetatable({socket = socket, server = server, received = ""}, Client)
  server.clients[client] = true
  server.connections, server.open = server.connections + 1, server.open + 1
  server.most = math.max(server.most, server.open)
  socket:read_start(function(problem, bytes)
    if problem or not bytes then
      server.clients[client] = nil
      server.open = server.open - 1
      return client:close()
    end
    client.received = client.received .. bytes
    if not client.busy then client:next() end
  end)
end

local http_server = {}

--- Starts one on the loop of the caller. `url` has no slash at its end; `close()` ends it with all its connections.
---@return {url: string, port: integer, close: fun()}  and connections, open, most, requests: see /stats
function http_server.start()
  local server = {clients = {}, connections = 0, open = 0, most = 0, requests = 0, socket = uv.new_tcp()}
  assert(server.socket:bind("127.0.0.1", 0))
  assert(server.socket:listen(1024, function(problem)
    if not problem then accept(server) end
  end))
  server.port = server.socket:getsockname().port
  server.url = "http://127.0.0.1:" .. server.port
  function server.close()
    if not server.socket:is_closing() then server.socket:close() end
    for client in pairs(server.clients) do client:close() end
  end
  return server
end

--- Starts one in a process of its own, so that a loop that is held, or a limit of descriptors, is not the server's too.
--- Waits until it serves. It ends with `close()`, or with this process.
---@param program? string  what runs this file; default: the program that runs now
---@return {url: string, port: integer, close: fun()}
function http_server.spawn(program)
  local file = debug.getinfo(1, "S").source:sub(2)
  local stdin, stdout = uv.new_pipe(false), uv.new_pipe(false)
  local text, ended, process = "", false, nil
  process = assert(uv.spawn(program or uv.exepath(), {args = {file}, stdio = {stdin, stdout, 2}}, function()
    process:close()
  end))
  stdout:read_start(function(problem, bytes)
    if bytes then
      text = text .. bytes
    else
      ended = true
      stdout:close()
    end
  end)
  while not ended and not text:find("\n") do uv.run("once") end
  local port = assert(text:match("^(%d+)\n"), "the HTTP server did not start")
  for _, handle in ipairs({stdin, stdout, process}) do handle:unref() end
  return {
    port = math.tointeger(port),
    url = "http://127.0.0.1:" .. port,
    close = function()
      if not stdin:is_closing() then stdin:close() end
    end,
  }
end

if arg and arg[0] and arg[0]:find("http_server%.lua$") and not ... then
  local server = http_server.start()
  io.stdout:write(server.port, "\n")
  io.stdout:flush()
  local stdin = uv.new_pipe(false)
  stdin:open(0)
  stdin:read_start(function(problem, bytes)
    if problem or not bytes then
      stdin:close()
      server.close()
    end
  end)
  uv.run()
end

return http_server
