--- A small site to crawl: an HTTP server over luv, on a port of its own, in the loop of whoever starts it.
local uv = require("luv")

local pages = {
  ["/"] = { "/news", "/about" },
  ["/news"] = { "/", "/news/1", "/news/2" },
  ["/news/1"] = { "/news", "/lost" },
  ["/news/2"] = { "/news/1" },
  ["/about"] = { "/" },
}

local function answer(path)
  local links = pages[path]
  local body = links and "" or "not here"
  for _, link in ipairs(links or {}) do body = body .. ('<a href="%s">%s</a>\n'):format(link, link) end
  return ("HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s")
    :format(links and "200 OK" or "404 Not Found", #body, body)
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
    client:write(answer(received:match("^GET (%S+)")), function()
      if not client:is_closing() then client:close() end
    end)
  end)
end

--- `local server <close> = site.start()`: serves at `server.url` until the end of the block.
local function start()
  local listener = uv.new_tcp()
  assert(listener:bind("127.0.0.1", 0))
  assert(listener:listen(16, function(problem)
    local client = uv.new_tcp()
    if not problem and listener:accept(client) then serve(client) else client:close() end
  end))
  local url = "http://127.0.0.1:" .. listener:getsockname().port
  return setmetatable({ url = url }, { __close = function() listener:close() end })
end

return { start = start }
