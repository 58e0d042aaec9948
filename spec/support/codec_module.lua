--- A module that specs of the codec have required elsewhere.
local Class = {}
Class.__index = Class
function Class.greet() return "hello" end

local Connection = {}

local function connect(host, port)
  return setmetatable({ host = host, port = port, thread = coroutine.create(print) }, Connection)
end

--- What a connection is cannot cross; what it takes to make one can.
function Connection:__unsync_pack() return "spec.support.codec_module.connect", self.host, self.port end

return {
  answer = 42,
  Class = Class,
  connect = connect,
  rebuild = function(...) return { n = select("#", ...), ... } end,
}
