---@meta unsync.testing
-- What `require "unsync.testing"` returns: ../unsync.lua has it.

---@type unsync.testing
local testing
return testing
