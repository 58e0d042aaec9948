--- Starts the server of delayed.lua as a child process, and ends it with whoever started it.
local uv = require("luv")
local unsync = require("unsync")

local Server = {}
Server.__index = Server

--- Tells the server to end, and waits until it has.
function Server:__close()
  if not self.stdin:is_closing() then self.stdin:close() end
  self.ended:await()
end

local folder = debug.getinfo(1, "S").source:match("^@(.*)/") or "."

--- Waits until it serves. `local server <close> = start(0.5)`: it ends with the block, and if need be with the program.
---@param seconds number  to wait before each answer
---@param bytes? integer  the size of a page
---@return {url: string}  without a slash at its end
local function start(seconds, bytes)
  local stdin, stdout = uv.new_pipe(false), uv.new_pipe(false)
  local port, ended, text = unsync.promise(), unsync.promise(), ""
  local args = { folder .. "/delayed.lua", tostring(seconds), tostring(bytes or 1 << 18) }
  local process, problem
  process, problem = uv.spawn(uv.exepath(), { args = args, stdio = { stdin, stdout, 2 } }, function(code)
    port:reject("the server ended with exit code " .. code)
    ended:resolve()
    process:close()
  end)
  assert(process, problem)
  stdout:read_start(function(_, piece)
    text = text .. (piece or "")
    if piece and not text:find("\n") then return end
    stdout:close()
    if piece then port:resolve(math.tointeger(text)) end
  end)
  return setmetatable({ url = "http://127.0.0.1:" .. port:await(), stdin = stdin, ended = ended }, Server)
end

return { start = start }
