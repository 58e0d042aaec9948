--- Prices of things, asked of a service once and then kept; the service tells of changes. It has a race.
local prices = {}
prices.__index = prices

---@param ask fun(name: string): number  asks the service, and waits for its answer
function prices.new(ask) return setmetatable({ ask = ask, known = {} }, prices) end

function prices:get(name)
  if not self.known[name] then self.known[name] = self.ask(name) end
  return self.known[name]
end

--- To be called when the service tells of a change.
function prices:changed(name, price) self.known[name] = price end

return prices
