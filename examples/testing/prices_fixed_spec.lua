-- The spec of prices.lua, word for word, on the mended prices.
package.loaded["examples.testing.prices"] = require("examples.testing.prices_fixed")
assert(loadfile("examples/testing/prices_spec.lua", "t", _ENV))()
