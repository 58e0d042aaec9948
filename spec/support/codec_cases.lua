--- What crosses between Lua states, case by case: the files of codec/. spec/c/codec_test.c runs them, and gives
--- `spec` its functions: send(...) carries values to another state and back; call(fn, ...) runs a function there;
--- both raise what is refused.

local case = require("codec.case")
for _, part in ipairs({"values", "functions", "objects", "refusals"}) do require("codec." .. part) end

return {
  names = case.names,
  run = function(name) case.bodies[name]() end,
}
