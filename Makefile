# unsync: one Makefile, not recursive; everything it makes lies in build/. `make help` says what there is.
#
#   - CC, CFLAGS, CPPFLAGS, LDFLAGS and LDLIBS are yours: what the build needs is added to them.
#   - Sources are found, not listed: a new .c, .lua, test, example or plugin needs no change here.
#   - Nothing is compiled before `packages` has looked for what it needs. So nothing may ask pkg-config while this
#     file is read: those variables are filled at their first use in a recipe.

comma := ,
VERSION := 0.1.0

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
CFLAGS ?= -O2 -g
PKG_CONFIG ?= pkg-config
PREFIX ?= /usr/local
DESTDIR ?=
INSTALL ?= install
LUA ?= lua5.4

# As many jobs as there are processors, unless you said otherwise; each job's output in one piece.
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif
MAKEFLAGS += --output-sync=target --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$1' '$2')

# --- what is there -----------------------------------------------------------------------------------------------

MODULE_SOURCE := src/host/module.c
API_SOURCE := src/host/api.c
LIBRARY_SOURCES := $(filter-out $(MODULE_SOURCE),$(sort $(wildcard $(addsuffix /*.c,$(addprefix src/,base core loop exec bind host)))))
LUA_SOURCES := $(sort $(wildcard lua/unsync/*.lua lua/unsync/*/*.lua))
EXAMPLE_PLUGINS := $(sort $(wildcard examples/native/*.c))
SPEC_PLUGINS := $(sort $(wildcard spec/support/plugins/*.c))
C_TESTS := $(sort $(wildcard spec/c/*_test.c))

# Libraries that one plugin needs, by its name: the rest need none.
PLUGIN_LIBS_hash = -lcrypto
PLUGIN_LIBS_gzip = -lz
PLUGIN_LIBS_deflate = -lz
PLUGIN_LIBS_zlib = -lz

# --- flags -------------------------------------------------------------------------------------------------------

# $(call once,NAME,COMMAND): the command's output, asked for at the first use and kept.
once = $(eval $1 := $$(shell $2))$($1)
LUA_CFLAGS = $(call once,LUA_CFLAGS,$(PKG_CONFIG) --cflags lua5.4 | sed 's/-I/-isystem /g')
UV_CFLAGS = $(call once,UV_CFLAGS,$(PKG_CONFIG) --cflags libuv | sed 's/-I/-isystem /g')
UV_LIBS = $(call once,UV_LIBS,$(PKG_CONFIG) --libs libuv)
LUA_LIBS = $(call once,LUA_LIBS,$(PKG_CONFIG) --libs lua5.4)
CMOCKA_CFLAGS = $(call once,CMOCKA_CFLAGS,$(PKG_CONFIG) --cflags cmocka)
CMOCKA_LIBS = $(call once,CMOCKA_LIBS,$(PKG_CONFIG) --libs cmocka)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
LANGUAGE := -std=c11 -D_GNU_SOURCE
# One set of objects for the program, the module and the library: hidden symbols cost position-independent code
# next to nothing against the compiler's default, a position-independent program.
COMPILE = $(CC) $(LANGUAGE) $(WARNINGS) -fPIC -fvisibility=hidden -pthread -MMD -MP -Isrc -Iinclude \
  $(LUA_CFLAGS) $(UV_CFLAGS) $(CPPFLAGS) $(CFLAGS)

# The program carries Lua itself, whole, and shows its symbols to the C modules it loads.
LUA_STATIC ?= -l:liblua5.4.a
LUV_STATIC ?= -l:liblua5.4-luv.a
SYSTEM_LIBS = $(UV_LIBS) -lpthread -ldl -lm
PROGRAM_LIBS = -Wl,-E -Wl,--whole-archive $(LUA_STATIC) -Wl,--no-whole-archive $(LUV_STATIC) $(SYSTEM_LIBS) $(LDLIBS)

.PHONY: FORCE help all demo test specs ctests check asan tsan memcheck bench format lint install uninstall clean packages packages-test packages-check

# --- one build: $(call build,DIRECTORY,EXTRA COMPILER AND LINKER FLAGS) ------------------------------------------

define build
$1/objects := $$(patsubst src/%.c,$1/obj/%.o,$$(LIBRARY_SOURCES)) $1/obj/gen/lua_modules.o
$1/plugins := $$(patsubst examples/native/%.c,$1/plugins/%.so,$$(EXAMPLE_PLUGINS))
$1/spec-plugins := $$(patsubst spec/support/plugins/%.c,$1/spec/plugins/%.so,$$(SPEC_PLUGINS))
$1/tests := $$(patsubst spec/c/%.c,$1/spec/%,$$(C_TESTS))
$1/program := $$(if $$(wildcard src/main.c),$1/unsync)

# Changes when the flags or the set of objects do, so that both are reasons to build again.
$1/flags: FORCE
	@mkdir -p $$(@D); printf '%s\n' '$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(LDFLAGS) $$(LDLIBS) $2' $$($1/objects) | cmp -s - $$@ || \
	  printf '%s\n' '$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(LDFLAGS) $$(LDLIBS) $2' $$($1/objects) > $$@

$1/obj/%.o: src/%.c $1/flags | packages
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $2 -c -o $$@ $$<

$1/obj/gen/lua_modules.o: build/gen/lua_modules.c $1/flags | packages
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $2 -c -o $$@ $$<

$1/libunsync.a: $$($1/objects)
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && $$(AR) rcs $$@ $$^

$1/unsync: $1/obj/main.o $$($1/objects)
	$$(call say,LINK,$$@)
	$$(Q)$$(CC) $$(CFLAGS) $2 -pthread $$(LDFLAGS) -o $$@ $$^ $$(PROGRAM_LIBS)

$1/plugins/%.so: examples/native/%.c $1/flags | packages
	$$(call say,PLUGIN,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LANGUAGE) $$(WARNINGS) -fPIC -fvisibility=hidden -pthread -MMD -MP -MF $$(@:.so=.d) -Iinclude $$(CPPFLAGS) $$(CFLAGS) $2 \
	  -shared $$(LDFLAGS) -o $$@ $$< $$(PLUGIN_LIBS_$$*)

$1/spec/plugins/%.so: spec/support/plugins/%.c $1/flags | packages
	$$(call say,PLUGIN,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LANGUAGE) $$(WARNINGS) -fPIC -fvisibility=hidden -pthread -MMD -MP -MF $$(@:.so=.d) -Iinclude $$(CPPFLAGS) $$(CFLAGS) $2 \
	  -shared $$(LDFLAGS) -o $$@ $$< $$(PLUGIN_LIBS_$$*)

$1/spec/%: spec/c/%.c $1/libunsync.a $1/flags | packages-test
	$$(call say,TEST,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $2 -MF $$@.d $$(CMOCKA_CFLAGS) $$(LDFLAGS) -o $$@ $$< $1/libunsync.a $$(CMOCKA_LIBS) $$(PROGRAM_LIBS)

-include $$(patsubst %.o,%.d,$$($1/objects)) $1/obj/main.d $1/obj/host/module.d \
  $$(addsuffix .d,$$($1/tests)) $$(patsubst %.so,%.d,$$($1/plugins) $$($1/spec-plugins))
endef

SANITIZE := -O1 -g -fno-omit-frame-pointer
$(eval $(call build,build,))
$(eval $(call build,build/asan,$(SANITIZE) -fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined))
$(eval $(call build,build/tsan,$(SANITIZE) -fsanitize=thread))

# --- the Lua modules, compiled in ----------------------------------------------------------------------------------

build/tools/embed: src/tools/embed.c | packages
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LANGUAGE) $(WARNINGS) -MMD -MP -MF $@.d $(LUA_CFLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LUA_STATIC) -ldl -lm
-include build/tools/embed.d

build/gen/lua_modules.list: FORCE
	@mkdir -p $(@D); printf '%s\n' $(LUA_SOURCES) | cmp -s - $@ || printf '%s\n' $(LUA_SOURCES) > $@

build/gen/lua_modules.c: build/tools/embed build/gen/lua_modules.list $(LUA_SOURCES)
	$(call say,EMBED,$@)
	$(Q)build/tools/embed lua $@ $(LUA_SOURCES)

# --- the module for stock Lua, the library for other programs ------------------------------------------------------

LIBRARIES := $(if $(wildcard $(MODULE_SOURCE)),build/unsync.so) $(if $(wildcard $(API_SOURCE)),build/libunsync.so build/libunsync.a)

build/unsync.so: build/obj/host/module.o $(filter-out build/obj/host/api.o,$(build/objects))
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -shared -pthread $(LDFLAGS) -o $@ $^ $(LUV_STATIC) $(SYSTEM_LIBS) $(LDLIBS)

build/libunsync.so: $(build/objects)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -shared -pthread -Wl,-soname,libunsync.so.0 $(LDFLAGS) -o $@ $^ $(LUV_STATIC) $(LUA_LIBS) $(SYSTEM_LIBS) $(LDLIBS)

# --- goals -----------------------------------------------------------------------------------------------------------

all: $(build/program) $(LIBRARIES) $(build/plugins) build/libunsync.a

packages:
	@.ci/install-packages build
packages-test: packages
	@.ci/install-packages test
packages-check: packages-test
	@.ci/install-packages check

clean:
	rm -rf build
