---@meta unsync.inspect
-- What `require "unsync.inspect"` returns: ../unsync.lua has it.

---@type unsync.inspect
local inspect
return inspect
