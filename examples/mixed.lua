--- One program, four ways to run: computation in processes, a blocking library in threads, C in threads, and whatever
--- can wait, here on the loop. It runs twice: each call after the one before, and then as it stands.
---     unsync examples/mixed.lua
package.path = (arg[0]:match("^.*/") or "") .. "?.lua;" .. package.path
local unsync = require("unsync")
local http = require("unsync.http")
local timeline = require("support.timeline")

-- How things run is decided here, by those who write them.

local work = {}

--- Heavy computation: in a process, on a core of its own.
work.compute = unsync.cpu(function(first, last)
  local sqrt, sum = math.sqrt, 0
  for i = first, last do sum = sum + sqrt(i) end
  return sum
end)

--- A library that blocks: in a thread.
work.download = unsync.thread(function(url)
  return (assert(require("socket.http").request(url)))
end)

--- One that can wait: right here.
work.fetch = unsync.io(function(url)
  return http.get(url):await().body
end)

--- C without a line of Lua: in a thread, too.
work.digest = unsync.thread("hash.sha256")

--- Waits a while, then for others, whatever they are, and makes one thing of what they bring.
work.combine = unsync.io(function(sums, pages)
  unsync.sleep(0.5)
  local texts, total = {}, 0
  for i, page in ipairs(pages) do texts[i] = page:await() end
  local digest = work.digest(table.concat(texts))
  for _, sum in ipairs(sums) do total = total + sum:await() end
  return ("the square roots of 1 to 80 million sum up to %.8g, the pages hash to %s"):format(
    total, digest:await():sub(1, 8))
end)

-- And here they are called.

local million = 1000000
local server <close> = require("support.server").start(0.6)

local function program()
  local sums, pages = {}, {}
  for i = 1, 4 do sums[i] = work.compute((i - 1) * 20 * million + 1, i * 20 * million) end
  for i = 1, 3 do pages[i] = work.download(server.url .. "/page/" .. i) end
  for i = 4, 6 do pages[i] = work.fetch(server.url .. "/page/" .. i) end
  return work.combine(sums, pages):await()
end

local serial = timeline.run("Each call after the one before", work, program, { serially = true })
local whole = timeline.run("The same program, as it stands", work, program)
assert(serial.result == whole.result)
print("Both times, " .. whole.result)

timeline.compare("one by one", serial, "with unsync", whole)
local lane, seconds = whole:longest_lane("combine")
print(("%.1f times as fast; the longest lane, %s, takes %.2f s of it"):format(
  serial.seconds / whole.seconds, lane, seconds))
