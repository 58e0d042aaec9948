--- An HTTP server that takes its time: answers every GET with a page that depends on its path, after a delay.
--- A program of its own, over luv alone, so that it runs here and in any other Lua:
---     unsync delayed.lua [SECONDS [BYTES]]
--- prints its port on 127.0.0.1, and serves until its standard input ends: with whoever holds the other end.
local uv = require("luv")

local delay_ms = math.ceil(1000 * (tonumber(arg[1]) or 0.5))
local size = math.tointeger(arg[2] or 1 << 18)

local function page(path)
  local line = "this is " .. path .. "\n"
  return line:rep(size // #line + 1):sub(1, size)
end

local function answer(client, path)
  local body = page(path)
  client:write(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"):format(#body, body), function()
    if not client:is_closing() then client:close() end
  end)
end

local function serve(client)
  local received = ""
  client:read_start(function(problem, bytes)
    if problem or not bytes then
      if not client:is_closing() then client:close() end
      return
    end
    received = received .. bytes
    if not received:find("\r\n\r\n", 1, true) then return end
    client:read_stop()
    local timer = uv.new_timer()
    timer:start(delay_ms, 0, function()
      timer:close()
      answer(client, received:match("^GET (%S+)") or "/")
    end)
  end)
end

local server = uv.new_tcp()
assert(server:bind("127.0.0.1", 0))
assert(server:listen(128, function(problem)
  local client = uv.new_tcp()
  if not problem and server:accept(client) then serve(client) else client:close() end
end))
io.stdout:write(server:getsockname().port, "\n")
io.stdout:flush()

local stdin = uv.new_pipe(false)
stdin:open(0)
stdin:read_start(function(_, bytes)
  if not bytes then os.exit(true) end
end)
uv.run()
