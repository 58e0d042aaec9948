--- wrap makes an awaitable function of one that takes a callback last, as luv's do.
--[[ Output:
--- wrap makes an awaitable function of one that takes a callback last, as luv's do.
nil	ENOENT: no such file or directory: no/such/file
file
the timer rang
]]
local unsync = require("unsync")
local uv = require("luv")

local stat, open, read, close = unsync.wrap(uv.fs_stat), unsync.wrap(uv.fs_open), unsync.wrap(uv.fs_read),
  unsync.wrap(uv.fs_close)

local first_line = unsync.io(function(path)
  local problem, fd = open(path, "r", 0):await()
  if problem then return nil, problem end
  local _, text = read(fd, 100, 0):await()
  close(fd):await()
  return text:match("^[^\n]*")
end)

print(first_line(arg[0]):await())
print(first_line("no/such/file"):await())
print(select(2, stat(arg[0]):await()).type)

-- A callback of your own may settle a promise: it need not know who waits.
local rang = unsync.promise()
local timer = uv.new_timer()
timer:start(1, 0, function()
  timer:close()
  rang:resolve("the timer rang")
end)
print(rang:await())
