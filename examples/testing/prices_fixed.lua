--- Prices of things, asked of a service once and then kept; the service tells of changes. An answer that a change has
--- overtaken is not kept.
local prices = {}
prices.__index = prices

---@param ask fun(name: string): number  asks the service, and waits for its answer
function prices.new(ask) return setmetatable({ ask = ask, known = {}, changes = 0 }, prices) end

function prices:get(name)
  while not self.known[name] do
    local before = self.changes
    local price = self.ask(name)
    if self.changes == before then self.known[name] = price end
  end
  return self.known[name]
end

--- To be called when the service tells of a change.
function prices:changed(name, price)
  self.changes = self.changes + 1
  self.known[name] = price
end

return prices
