local unsync = require("unsync")
local testing = require("unsync.testing")
local prices = require("examples.testing.prices")

describe("prices", function()
  it("never fall back to what they were before a change", function()
    local clock <close> = testing.clock({ autojump = true })
    local service = { tea = 3 }
    local shop = prices.new(function(name)
      local price = service[name]
      unsync.sleep(1) -- the answer is under way
      return price
    end)
    unsync.scope(function(s)
      s:spawn(function() shop:get("tea") end)
      s:spawn(function()
        unsync.sleep(1)
        service.tea = 4
        shop:changed("tea", 4)
      end)
    end)
    assert.equal(4, shop:get("tea"))
    assert.equal(1, clock:now())
  end)
end)
