--- A native task is a C function from a plugin: called like any other, in threads or in processes.
--[[ Output:
ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
2100000	to less than	21000	true
the same again:	true
false	bad argument #1 to 'hash.sha256' (string expected, got table)
false	plugin	has no task 'sha265'
]]
local unsync = require("unsync")

local sha256 = unsync.thread("hash.sha256") -- examples/native/hash.c, over OpenSSL
local deflate, inflate = unsync.thread("zlib.compress"), unsync.cpu("zlib.decompress")

print(sha256("abc"):await())

-- Large strings are not copied on their way into a native task.
local text = ("all work and no play "):rep(100000)
local small = deflate(text):await()
print(#text, "to less than", #text // 100, #small < #text // 100)
print("the same again:", deflate(text):and_then(inflate):await() == text)

-- Misuse is named as in Lua; a task that does not exist is missed at once, not at the call.
local misused = sha256({})
print(pcall(misused.await, misused))
local ok, err = pcall(unsync.thread, "hash.sha265")
print(ok, err.code, err.message:match("has no task '%w+'"))
