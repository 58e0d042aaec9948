# unsync: one Makefile, not recursive; everything it makes lies in build/. `make help` says what there is.
#
#   - CC, CFLAGS, CPPFLAGS, LDFLAGS and LDLIBS are yours: what the build needs is added to them.
#   - Sources are found, not listed: a new .c, .lua, test, example or plugin needs no change here.
#   - Nothing is compiled before `packages` has looked for what it needs. So nothing may ask pkg-config while this
#     file is read: those variables are filled at their first use in a recipe.
#   - One tree of rules is made for each kind of build (plain, asan, tsan) by `build` below.

VERSION = $(shell sed -n 's/.*UNSYNC_VERSION "\(.*\)"/\1/p' include/unsync.h)
ABI := 0

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
CFLAGS ?= -O2 -g
PKG_CONFIG ?= pkg-config
CLANG ?= clang
CLANG_TIDY ?= clang-tidy
PREFIX ?= /usr/local
DESTDIR ?=

# As many jobs as there are processors, unless you said otherwise.
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.PRECIOUS: build/lint/clang/%.o
.DEFAULT_GOAL := all

.PHONY: FORCE all help packages packages-test packages-check demo test stress check asan tsan memcheck bench lint format fuzz seeds faults coverage helgrind soak \
  reference install uninstall clean

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$1' '$2')
comma := ,
quote = '$(subst ','\'',$1)'
same = $(and $(findstring x$1,x$2),$(findstring x$2,x$1))

# $(call remember,FILE,TEXT): a rule that writes TEXT to FILE when it holds another, so that what depends on the file
# is made again. For the flags, and for lists of files, as a file that is gone is newer than nothing.
define remember_
$1: $(if $(call same,$(file <$1),$(strip $2)),,FORCE)
	@mkdir -p $$(@D) && printf '%s\n' $(call quote,$(strip $2)) > $$@
endef
remember = $(eval $(call remember_,$1,$2))

# $(call once,NAME,COMMAND): the command's output, asked for at the first use and kept.
once = $(eval $1 := $$(shell $2))$($1)

# --- what there is -------------------------------------------------------------------------------------------------

MODULE_SOURCE := src/host/module.c
API_SOURCES := $(sort $(wildcard src/host/api*.c))
LIBRARY_SOURCES := $(sort $(filter-out $(MODULE_SOURCE),$(wildcard $(foreach room,base core loop exec bind host,src/$(room)/*.c))))
# In the order of linking: behind what runs in every program lies what only some use. Pages that nobody touches take no memory.
EVERYWHERE := $(filter-out src/exec/%,$(LIBRARY_SOURCES)) src/exec/executors.c src/exec/watchdog.c
LIBRARY_SOURCES := $(EVERYWHERE) $(filter-out $(EVERYWHERE),$(LIBRARY_SOURCES))
PROGRAM_SOURCE := $(wildcard src/main.c)
LUA_SOURCES := $(sort $(wildcard lua/unsync/*.lua lua/unsync/*/*.lua))
ANNOTATIONS := lua/meta/unsync.lua
REFERENCE_DOCS := docs/lua.md $(filter-out docs/lua.md docs/reference.md,$(sort $(wildcard docs/*.md)))
C_TESTS := $(sort $(wildcard spec/c/*_test.c))
SPEC_PLUGINS := $(sort $(wildcard spec/support/plugins/*.c))
SPEC_PROGRAMS := $(sort $(wildcard spec/support/*.c))
EXAMPLE_PLUGINS := $(sort $(wildcard examples/native/*.c))
EMBED_EXAMPLES := $(if $(API_SOURCES),$(sort $(wildcard examples/embed/*.c)))

# Libraries that one plugin needs, by its name; the others need none.
PLUGIN_LIBS_hash = -lcrypto
PLUGIN_LIBS_zlib = -lz
# It knows what it destroys.
PLUGIN_LIBS_mad = -Isrc $(UV_CFLAGS) $(LUA_CFLAGS)

# --- flags -----------------------------------------------------------------------------------------------------------

system = $(PKG_CONFIG) --cflags $1 | sed 's/-I */-isystem /g'
LUA_CFLAGS = $(call once,LUA_CFLAGS,$(call system,lua5.4))
LUA_LIBS = $(call once,LUA_LIBS,$(PKG_CONFIG) --libs lua5.4)
UV_CFLAGS = $(call once,UV_CFLAGS,$(call system,libuv))
UV_LIBS = $(call once,UV_LIBS,$(PKG_CONFIG) --libs libuv)
CMOCKA_CFLAGS = $(call once,CMOCKA_CFLAGS,$(call system,cmocka))
CMOCKA_LIBS = $(call once,CMOCKA_LIBS,$(PKG_CONFIG) --libs cmocka)

# _GNU_SOURCE is empty, as a source that must have it says it so too.
LANGUAGE := -std=c11 -D_GNU_SOURCE=
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
INCLUDES = -Isrc -Iinclude $(LUA_CFLAGS) $(UV_CFLAGS)
# What one object alone is told.
DEFINES =
# One set of objects for the program, the module and the library: with hidden symbols, position-independent code is
# what a position-independent program, the compiler's default, would get anyway.
OBJECT = -fPIC -fvisibility=hidden -pthread -MMD -MP
COMPILE = $(CC) $(LANGUAGE) $(WARNINGS) $(OBJECT) $(INCLUDES) $(DEFINES) $(CPPFLAGS) $(CFLAGS)
# A plugin sees include/ and nothing else of ours.
COMPILE_PLUGIN = $(CC) $(LANGUAGE) $(WARNINGS) $(OBJECT) -Iinclude $(CPPFLAGS) $(CFLAGS)

# The program carries Lua itself, whole, and shows its symbols to the C modules it loads. The static luv is not
# position-independent: shared objects use the shared one, which is the one stock Lua loads.
LUA_STATIC ?= -l:liblua5.4.a
LUV_STATIC ?= -l:liblua5.4-luv.a
LUV_SHARED ?= -llua5.4-luv
SYSTEM_LIBS = $(UV_LIBS) -lpthread -ldl -lm $(LDLIBS)
PROGRAM_LIBS = -Wl,-E -Wl,--whole-archive $(LUA_STATIC) -Wl,--no-whole-archive $(LUV_STATIC) $(SYSTEM_LIBS)

PLUGIN_DIR = $(PREFIX)/lib/unsync/plugins

# --- one build: $(call build,DIRECTORY,FLAGS TO COMPILE AND LINK WITH) -----------------------------------------------

define build
$1/objects := $1/obj/gen/lua_modules.o $$(patsubst src/%.c,$1/obj/%.o,$$(LIBRARY_SOURCES))
$1/program := $$(if $$(PROGRAM_SOURCE),$1/unsync)
$1/plugins := $$(patsubst examples/native/%.c,$1/plugins/%.so,$$(EXAMPLE_PLUGINS))
$1/spec-plugins := $$(patsubst spec/support/plugins/%.c,$1/spec/plugins/%.so,$$(SPEC_PLUGINS))
$1/spec-programs := $$(patsubst spec/support/%.c,$1/spec/support/%,$$(SPEC_PROGRAMS))
$1/tests := $$(patsubst spec/c/%.c,$1/spec/%,$$(C_TESTS)) $$($1/spec-programs)

$$(call remember,$1/flags,$$(CC) $$(LANGUAGE) $$(WARNINGS) $$(CPPFLAGS) $$(CFLAGS) $$(LDFLAGS) $$(LDLIBS) $2)
$$(call remember,$1/objects.list,$$($1/objects))
$$(call remember,$1/prefix,$$(PREFIX))

$1/obj/%.o: src/%.c $1/flags | packages
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $2 -c -o $$@ $$<

$1/obj/gen/lua_modules.o: build/gen/lua_modules.c $1/flags | packages
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $2 -c -o $$@ $$<

# The one object that knows where things are installed.
$1/obj/exec/registry.o: $1/prefix
$1/obj/exec/registry.o: private DEFINES = -DUNSYNC_PLUGIN_DIR='"$$(PLUGIN_DIR)"'

$1/libunsync.a: $$($1/objects) $1/objects.list
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && $$(AR) rcs $$@ $$(filter %.o,$$^)

$1/unsync: $1/obj/main.o $$($1/objects) $1/obj/tools/place.o $1/objects.list
	$$(call say,LINK,$$@)
	$$(Q)$$(CC) $$(CFLAGS) $2 -pthread $$(LDFLAGS) -o $$@ $$(filter-out $1/obj/tools/place.o,$$(filter %.o,$$^)) $$(LUV_STATIC) $1/obj/tools/place.o $$(PROGRAM_LIBS)

$1/plugins/%.so: examples/native/%.c $1/flags | packages
	$$(call say,PLUGIN,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE_PLUGIN) $2 -shared $$(LDFLAGS) -o $$@ $$< $$(PLUGIN_LIBS_$$*)

$1/spec/plugins/%.so: spec/support/plugins/%.c $1/flags | packages
	$$(call say,PLUGIN,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE_PLUGIN) $2 -shared $$(LDFLAGS) -o $$@ $$< $$(PLUGIN_LIBS_$$*)

$1/spec/support/%: spec/support/%.c $1/flags | packages
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LANGUAGE) $$(WARNINGS) -MMD -MP $$(CPPFLAGS) $$(CFLAGS) $$(LDFLAGS) -o $$@ $$< -lutil

$1/spec/%: spec/c/%.c $1/libunsync.a | packages-test
	$$(call say,TEST,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(COMPILE) $2 $$(CMOCKA_CFLAGS) $$(LDFLAGS) -o $$@ $$< $1/libunsync.a $$(TEST_LIBS_$$*) $$(CMOCKA_LIBS) $$(PROGRAM_LIBS)

-include $$(wildcard $1/obj/*.d $1/obj/*/*.d $1/plugins/*.d $1/spec/*.d $1/spec/plugins/*.d $1/spec/support/*.d)
endef

SANITIZE := -O1 -fno-omit-frame-pointer
$(eval $(call build,build,))
$(eval $(call build,build/asan,$(SANITIZE) -fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -DUNS_FAULTS))
# In this one, in asan and in coverage, the environment can make allocations fail: src/base/base.c.
$(eval $(call build,build/faults,-O1 -DUNS_FAULTS))
# What each source is that ran in the tests. Counts of several processes add up; those of several threads must not be lost.
$(eval $(call build,build/coverage,-O0 --coverage -fprofile-update=atomic -DUNS_FAULTS))
# A wait leaves our frames by longjmp, so that ThreadSanitizer's own record of the call stack would grow without end.
$(eval $(call build,build/tsan,$(SANITIZE) -fsanitize=thread $(if $(findstring clang,$(CC)),,--param=tsan-instrument-func-entry-exit=0)))

# What specs preload into the program: spec/support/preload/NAME.c is build/spec/preload/NAME.so.
PRELOADS := $(patsubst spec/support/preload/%.c,build/spec/preload/%.so,$(wildcard spec/support/preload/*.c))

build/spec/preload/%.so: spec/support/preload/%.c build/flags | packages
	$(call say,PRELOAD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LANGUAGE) $(WARNINGS) -fPIC -shared -pthread $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< -ldl

# --- fuzzing: build/fuzz/NAME from spec/fuzz/NAME.c, with all of src/ made by clang for it ------------------------------

FUZZERS := $(patsubst spec/fuzz/%.c,%,$(filter-out %/seeds.c,$(sort $(wildcard spec/fuzz/*.c))))
FUZZ := codec
SECONDS := 60
FUZZ_FLAGS = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined -DUNS_PLAIN_HEAP
COMPILE_FUZZ = $(CLANG) $(LANGUAGE) $(WARNINGS) $(OBJECT) $(INCLUDES) -Ispec/fuzz $(CPPFLAGS) $(FUZZ_FLAGS)
fuzz/objects := $(patsubst src/%.c,build/fuzz/obj/%.o,$(LIBRARY_SOURCES)) build/fuzz/obj/gen/lua_modules.o

# The dynamic linker's part is played by the target of that name, wherever it is linked in.
WRAP_dl := $(foreach name,dlopen dlsym dlclose dlinfo dladdr1 dlerror,-Wl,--wrap=$(name))
FUZZ_LIBS_plugin := $(WRAP_dl)
TEST_LIBS_corpus_test := $(WRAP_dl)

$(call remember,build/fuzz/flags,$(CLANG) $(LANGUAGE) $(WARNINGS) $(CPPFLAGS) $(FUZZ_FLAGS))

build/fuzz/obj/%.o: src/%.c build/fuzz/flags | packages-check
	$(call say,CLANG,$@)
	@mkdir -p $(@D)
	$(Q)$(COMPILE_FUZZ) -fsanitize=fuzzer-no-link -c -o $@ $<

build/fuzz/obj/gen/lua_modules.o: build/gen/lua_modules.c build/fuzz/flags | packages-check
	@mkdir -p $(@D)
	$(Q)$(COMPILE_FUZZ) -c -o $@ $<

build/fuzz/libunsync.a: $(fuzz/objects)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

build/fuzz/%: spec/fuzz/%.c build/fuzz/libunsync.a
	$(call say,FUZZER,$@)
	$(Q)$(COMPILE_FUZZ) -fsanitize=fuzzer -o $@ $< build/fuzz/libunsync.a $(FUZZ_LIBS_$*) $(PROGRAM_LIBS)

build/fuzz/seeds: spec/fuzz/seeds.c build/libunsync.a
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -o $@ $< build/libunsync.a $(WRAP_dl) $(PROGRAM_LIBS)

-include $(wildcard build/fuzz/*.d build/fuzz/obj/*/*.d)

# --- the Lua modules, compiled in --------------------------------------------------------------------------------------

build/tools/embed: src/tools/embed.c build/flags | packages
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LANGUAGE) $(WARNINGS) $(LUA_CFLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LUA_STATIC) -ldl -lm

build/tools/lua: src/tools/lua.c build/flags | packages
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LANGUAGE) $(WARNINGS) $(LUA_CFLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LUA_STATIC) -ldl -lm

# What .doc shows at the prompt is what the documentation says.
REFERENCE := build/gen/lua/unsync/reference.lua
$(REFERENCE): build/tools/lua src/tools/reference.lua src/tools/annotations.lua $(ANNOTATIONS) $(REFERENCE_DOCS)
	$(call say,LUA,$@)
	@mkdir -p $(@D)
	$(Q)build/tools/lua src/tools/reference.lua $@ $(ANNOTATIONS) $(REFERENCE_DOCS)

$(call remember,build/gen/lua_modules.list,$(LUA_SOURCES))

build/gen/lua_modules.c: build/tools/embed build/gen/lua_modules.list $(LUA_SOURCES) $(REFERENCE)
	$(call say,EMBED,$@)
	@mkdir -p $(@D)
	$(Q)build/tools/embed $@ lua $(LUA_SOURCES) build/gen/lua $(REFERENCE)

# --- the module for stock Lua, the library for other programs ------------------------------------------------------------

MODULE := $(if $(wildcard $(MODULE_SOURCE)),build/unsync.so)
LIBRARY := $(if $(API_SOURCES),build/libunsync.so build/libunsync.so.$(ABI) build/libunsync.a build/unsync.pc)
EMBEDDERS := $(patsubst examples/embed/%.c,build/embed/%,$(EMBED_EXAMPLES))

build/unsync.so: build/obj/host/module.o $(filter-out $(API_SOURCES:src/%.c=build/obj/%.o),$(build/objects)) build/objects.list
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -shared -pthread -Wl,-z,nodelete $(LDFLAGS) -o $@ $(filter %.o,$^) $(LUV_SHARED) $(SYSTEM_LIBS)

build/libunsync.so.$(ABI): $(build/objects) build/objects.list
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -shared -pthread -Wl,-z,defs -Wl,-soname,$(@F) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LUV_SHARED) $(LUA_LIBS) $(SYSTEM_LIBS)

build/libunsync.so: build/libunsync.so.$(ABI)
	@ln -sf $(<F) $@

build/unsync.pc: build/prefix build/flags include/unsync.h
	@printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' 'includedir=$${prefix}/include' 'plugindir=$(PLUGIN_DIR)' '' \
	  'Name: unsync' 'Description: a Lua host in which any function can be awaited' 'Version: $(VERSION)' \
	  'Requires.private: lua5.4 lua5.4-luv libuv' 'Libs: -L$${libdir} -lunsync' 'Libs.private: -lpthread -ldl -lm' \
	  'Cflags: -I$${includedir}' > $@

build/embed/%: examples/embed/%.c build/libunsync.so build/flags | packages
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LANGUAGE) $(WARNINGS) -MMD -MP -pthread -Iinclude $(LUA_CFLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< -Lbuild -lunsync $(LUA_LIBS) '-Wl,-rpath,$$ORIGIN/..' $(UV_CFLAGS) $(UV_LIBS)
-include $(wildcard build/embed/*.d)

# What the bench compares with, in C: bench/c/NAME.c is build/bench/NAME. One of them is a host of its own.
BENCHES := $(patsubst bench/c/%.c,build/bench/%,$(sort $(wildcard bench/c/*.c)))

build/bench/processes: build/libunsync.so
build/bench/processes: BENCH_LIBS = -Lbuild -lunsync '-Wl,-rpath,$$ORIGIN/..'
build/bench/%: bench/c/%.c build/flags | packages
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LANGUAGE) $(WARNINGS) -pthread $(INCLUDES) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(BENCH_LIBS) $(LUA_LIBS) $(UV_LIBS) $(LDLIBS)

# --- goals -----------------------------------------------------------------------------------------------------------------

all: $(build/program) $(MODULE) $(LIBRARY) $(build/plugins) $(EMBEDDERS) ## build the program, the libraries and the example plugins

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r goal text; do printf '%-17s %s\n' "$$goal" "$$text"; done
	@echo
	@echo '  V=1 shows the commands; SPEC=spec/x_spec.lua and ARGS=--filter=… choose specs for test, asan, tsan, memcheck;'
	@echo '  CC CFLAGS CPPFLAGS LDFLAGS LDLIBS are added to; PREFIX DESTDIR are for install and uninstall.'

packages: ## look for the packages of .ci/packages, install those that are missing
	@.ci/install-packages build
packages-test: | packages
	@.ci/install-packages test
packages-check: | packages-test
	@.ci/install-packages check

demo: all ## build, then run examples/mixed.lua
	@build/unsync examples/mixed.lua

# Tests have the machine to themselves: goals named together run one after another.
after = $(filter $1,$(MAKECMDGOALS))
export SPEC ARGS V

test: all $(build/tests) $(build/spec-plugins) $(PRELOADS) $(if $(SPEC),$(if $(findstring faults,$(SPEC)),build/faults/unsync),build/faults/unsync) | packages-test ## build, then run every test
	@.ci/tests test build
asan: all $(foreach part,program plugins spec-plugins tests,$(build/asan/$(part))) | packages-test $(call after,test) ## tests under AddressSanitizer and UBSan
	@.ci/tests asan build/asan
tsan: all $(foreach part,program plugins spec-plugins tests,$(build/tsan/$(part))) | packages-test $(call after,test asan) ## tests under ThreadSanitizer
	@.ci/tests tsan build/tsan
memcheck: all $(build/tests) $(build/spec-plugins) | packages-check $(call after,test asan tsan) ## C tests, and specs tagged #memcheck, under valgrind
	@.ci/tests memcheck build
stress: SPEC = spec/stress/tree_spec.lua spec/stress/coordination_spec.lua spec/stress/kill_spec.lua
stress: all $(build/spec-plugins) | packages-test $(call after,test asan tsan memcheck) ## random programs on all executors: SEEDS=2000 of them, or SEED=n alone
	@UNSYNC_SEEDS=$(or $(SEEDS),2000) UNSYNC_SEED=$(SEED) .ci/tests test build
check: ## what CI runs: test, asan, tsan, memcheck and lint
	@.ci/run
bench: all $(BENCHES) | packages-test $(call after,test asan tsan memcheck) ## measure, beside a baseline
	@build/unsync bench/run.lua $(ARGS)

# New inputs that reach something new are kept in build/fuzz; a finding is left in build/fuzz/NAME-findings, and its input
# belongs into spec/corpus with its repair.
fuzz: build/fuzz/$(FUZZ) | packages-check ## FUZZ=codec|frame|plugin SECONDS=60: any bytes for the decoder, the frame reader, the plugin loader
	@mkdir -p build/fuzz/$(FUZZ)-corpus build/fuzz/$(FUZZ)-findings
	@ASAN_OPTIONS=allocator_may_return_null=1 build/fuzz/$(FUZZ) -max_total_time=$(SECONDS) -max_len=6000 -timeout=20 \
	  -rss_limit_mb=3000 -print_final_stats=1 -artifact_prefix=build/fuzz/$(FUZZ)-findings/ $(ARGS) \
	  build/fuzz/$(FUZZ)-corpus spec/corpus/$(FUZZ) >build/fuzz/$(FUZZ).log 2>&1 || { tail -60 build/fuzz/$(FUZZ).log; exit 1; }
	@grep '^#[0-9].*DONE\|^Done\|^stat::' build/fuzz/$(FUZZ).log
coverage: all $(foreach part,program plugins spec-plugins tests,$(build/coverage/$(part))) $(PRELOADS) | packages-test ## how many lines of each source the tests run
	@find build/coverage -name '*.gcda' -delete
	@.ci/tests coverage build/coverage
	@LUA_PATH='./?.lua;;' UNSYNC_BUILD=build build/unsync spec/support/fault_sweep.lua 43 7 build/coverage/unsync
	@.ci/coverage build/coverage
helgrind: $(build/tests) | packages-check ## tests in C of what threads share, under helgrind
	@.ci/tests helgrind build
soak: all $(build/spec-plugins) ## a million calls on every executor (ARGS=calls): nothing may grow
	@LUA_PATH='./?.lua;;' UNSYNC_PLUGIN_PATH=build/spec/plugins build/unsync spec/support/soak.lua $(ARGS)
faults: build/faults/unsync build/unsync build/spec/plugins/echo.so ## every allocation of a script that uses every executor fails once
	@LUA_PATH='./?.lua;;' UNSYNC_BUILD=build build/unsync spec/support/fault_sweep.lua $(ARGS)
seeds: build/fuzz/seeds $(build/plugins) ## write the inputs that fuzzing begins with into spec/corpus
	@build/fuzz/seeds spec/corpus $(firstword $(build/plugins))

C_FILES := $(PROGRAM_SOURCE) $(LIBRARY_SOURCES) $(wildcard $(MODULE_SOURCE) src/tools/*.c spec/fuzz/*.c spec/support/preload/*.c) $(C_TESTS) $(SPEC_PLUGINS) $(SPEC_PROGRAMS) $(EXAMPLE_PLUGINS) $(wildcard examples/embed/*.c)
C_HEADERS := $(wildcard include/*.h src/*/*.h spec/c/*.h spec/fuzz/*.h spec/support/plugins/*.h)
LINT_WARNINGS := $(WARNINGS) -Wformat=2 -Wundef -Wpointer-arith -Wwrite-strings -Wimplicit-fallthrough -Werror
LINT = $(LANGUAGE) $(LINT_WARNINGS) -pthread $(INCLUDES) $(CMOCKA_CFLAGS) $(CPPFLAGS)

build/lint/gcc/%.o: %.c build/flags | packages-check
	$(call say,GCC,$<)
	@mkdir -p $(@D)
	$(Q)gcc $(LINT) -MMD -MP -O2 -c -o $@ $<
build/lint/clang/%.o: %.c build/flags | packages-check
	$(call say,CLANG,$<)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(LINT) -MMD -MP -O1 -c -o $@ $<
build/lint/tidy/%: %.c .clang-tidy build/lint/clang/%.o
	$(call say,TIDY,$<)
	@mkdir -p $(@D)
	$(Q)$(CLANG_TIDY) --quiet --warnings-as-errors='*' $< -- $(LINT) 2>$@.log || { grep -v ' warnings\? generated' $@.log >&2; exit 1; }
	@touch $@
-include $(wildcard build/lint/*/*/*.d build/lint/*/*/*/*.d build/lint/*/*/*/*/*.d)

# Unlike the others it looks at all files at once, which takes seconds.
build/lint/cppcheck: $(C_FILES) $(C_HEADERS) .ci/cppcheck.supp | packages-check
	$(call say,CPPCHECK,all of them)
	@mkdir -p $(@D)
	$(Q)cppcheck --quiet --std=c11 --enable=warning,portability,performance --max-configs=1 --error-exitcode=1 \
	  --suppressions-list=.ci/cppcheck.supp --template=gcc -Iinclude -Isrc -D_GNU_SOURCE $(C_FILES)
	@touch $@

lint: $(patsubst %.c,build/lint/gcc/%.o,$(C_FILES)) $(patsubst %.c,build/lint/tidy/%,$(C_FILES)) build/lint/cppcheck | packages-check ## warnings of gcc, clang, clang-tidy, cppcheck and luacheck, as errors
	@luacheck --quiet --no-color $(wildcard lua spec examples bench .ci src/tools)
	@echo "lint: nothing to say"

reference: build/tools/lua ## write docs/reference.md from lua/meta/unsync.lua
	@build/tools/lua src/tools/annotations.lua $(ANNOTATIONS) > build/reference.md && mv build/reference.md docs/reference.md

format: | packages-check ## lay out the C sources by .clang-format
	clang-format -i $(C_FILES) $(C_HEADERS)

# --- install: the list of what goes where, and both ways to use it -----------------------------------------------------------

# What there is to read, all that it links to included: it lies in the installation as it does here.
DOCUMENTS = $(wildcard README.md LICENSE CONTRIBUTING.md .ci/packages docs/* include/*.h lua/meta/*.lua \
  lua/meta/unsync/*.lua examples/*.* examples/*/*.*)
# SOURCE:DIRECTORY:MODE, directories below PREFIX.
INSTALLED = $(foreach f,$(build/program),$f:bin:755) \
  $(foreach f,$(MODULE),$f:lib/lua/5.4:755) \
  $(foreach f,$(filter %.$(ABI) %.a,$(LIBRARY)),$f:lib:644) $(foreach f,$(filter %.pc,$(LIBRARY)),$f:lib/pkgconfig:644) \
  $(foreach f,$(wildcard include/*.h),$f:include:644) \
  $(foreach f,$(build/plugins),$f:lib/unsync/plugins:644) \
  $(foreach f,$(wildcard lua/meta/*.lua),$f:share/unsync/meta:644) \
  $(foreach f,$(wildcard lua/meta/unsync/*.lua),$f:share/unsync/meta/unsync:644) \
  $(foreach f,$(wildcard docs/*.1),$f:share/man/man1:644) \
  $(foreach f,$(DOCUMENTS),$f:share/doc/unsync/$(patsubst %/,%,$(dir $f)):644)
# Directories that are ours alone, the innermost first.
INSTALLED_DIRS = lib/unsync/plugins lib/unsync share/unsync/meta/unsync share/unsync/meta share/unsync \
  $(patsubst %/,share/doc/unsync/%,$(sort $(dir $(wildcard examples/*/*.*)))) \
  $(addprefix share/doc/unsync/,examples lua/meta/unsync lua/meta lua include docs .ci) share/doc/unsync
to = $(DESTDIR)$(PREFIX)

install: all ## install below PREFIX (/usr/local), itself below DESTDIR
	@set -e; for item in $(INSTALLED); do \
	  file=$${item%%:*} rest=$${item#*:}; dir=$(to)/$${rest%:*}; \
	  mkdir -p "$$dir"; install -m "$${rest##*:}" "$$file" "$$dir/"; $(if $(V),echo "$$dir/$${file##*/}";) \
	done
	@mkdir -p $(to)/lib/unsync/plugins
	@$(if $(LIBRARY),ln -sf libunsync.so.$(ABI) $(to)/lib/libunsync.so)
	@echo 'installed below $(to)'

uninstall: ## remove what install put there, and nothing else
	@for item in $(INSTALLED); do \
	  file=$${item%%:*} rest=$${item#*:}; rm -f "$(to)/$${rest%:*}/$${file##*/}"; \
	done
	@$(if $(LIBRARY),rm -f $(to)/lib/libunsync.so)
	@for dir in $(INSTALLED_DIRS); do rmdir "$(to)/$$dir" 2>/dev/null || true; done
	@echo 'removed from below $(to)'

clean: ## remove build/
	rm -rf build
