std = "lua54"
max_line_length = 120
unused_args = false -- an unused argument says what the caller passes

files["spec/**/*_spec.lua"].std = "+busted"
files["examples/testing/*_spec.lua"].std = "+busted"
exclude_files = {
  "lua/meta", -- annotations for editors, never run
}
