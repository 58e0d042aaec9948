-- channel.lua: nanoseconds for one item from hand to hand, between two tasks. channel.lua buffered: through a channel
-- with room for 100, which two tasks fill and empty in turn. channel.lua threads: from a thread to the script's loop.
local unsync = require "unsync"

local mode = arg[1]
local N = 1000000

if mode == "threads" then
  local produce = unsync.thread(function(channel, n)
    for i = 1, n do channel:send(i) end
    channel:close()
  end)
  local function run(n)
    local channel = unsync.channel(1024)
    local producer, count = produce(channel, n), 0
    for _ in channel do count = count + 1 end
    producer:await()
    assert(count == n)
  end
  run(N // 10)
  local from = unsync.now()
  run(N)
  print((unsync.now() - from) / N * 1e9)
else
  local function run(n)
    local channel = unsync.channel(mode == "buffered" and 100 or 0)
    local producer = unsync.spawn(function()
      for i = 1, n do channel:send(i) end
      channel:close()
    end)
    local consumer = unsync.spawn(function()
      for _ in channel do end
    end)
    producer:await()
    consumer:await()
  end
  run(N // 10)
  local from = os.clock()
  run(N)
  print((os.clock() - from) / N * 1e9)
end
