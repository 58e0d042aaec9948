--- Busted's own runner, without its launcher, which would look for an interpreter on PATH.
require("busted.runner")({ standalone = false })
