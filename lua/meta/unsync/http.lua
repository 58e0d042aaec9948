---@meta unsync.http
-- What `require "unsync.http"` returns: ../unsync.lua has it.

---@type unsync.http
local http
return http
