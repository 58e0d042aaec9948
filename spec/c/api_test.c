/*
 * api: a host in somebody else's program, as include/unsync.h promises it: runs, limits, calls, options, the end.
 * Driven by the program's own loop, and beside other hosts and threads: api_drive_test.c.
 */
#include "api_host.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

/* ---- running ---- */

static void runs_a_string(void **state) {
  (void)state;
  unsync_host *host = new_host();
  const char *const arguments[] = {"one", "two"};
  const char code[] = "local a, b = ... got = (a == 'one' and b == 'two' and arg[1] == 'one' and arg[2] == 'two' "
                      "and arg[0] == '=test' and #arg == 2) and 1 or 0";
  assert_int_equal(unsync_host_run_string(host, code, strlen(code), "=test", 2, arguments, 0), 0);
  assert_int_equal(global(host, "got"), 1);
  runs_well(host, "got = select('#', ...)");
  assert_int_equal(global(host, "got"), 0);
  assert_int_equal(unsync_host_run_string(host, NULL, 0, NULL, 0, NULL, 0), 0);
  assert_int_equal(unsync_host_run_string(host, "zero = 1\0", 9, NULL, 0, NULL, 0), UNSYNC_ESCRIPT);
  has_error(host, "(string):1:");
  assert_int_equal(unsync_host_free(host), 0);
}

static void runs_a_file(void **state) {
  (void)state;
  unsync_host *host = new_host();
  char path[] = "/tmp/api_test.XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  const char code[] = "#!/usr/bin/env unsync\nrequire('unsync').sleep(0.001) got = arg[0]:sub(1, 5) == '/tmp/' and ... == 'x' and 1";
  assert_int_equal(write(fd, code, strlen(code)), (ssize_t)strlen(code));
  close(fd);
  const char *const arguments[] = {"x"};
  assert_int_equal(unsync_host_run(host, path, 1, arguments, 0), 0);
  assert_int_equal(global(host, "got"), 1);
  unlink(path);
  assert_int_equal(unsync_host_run(host, path, 0, NULL, 0), UNSYNC_ESCRIPT);
  has_error(host, path);
  assert_int_equal(unsync_host_free(host), 0);
}

static void refuses_arguments_that_cannot_be(void **state) {
  (void)state;
  unsync_host *host = new_host();
  assert_int_equal(unsync_host_new(NULL, NULL), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_run(NULL, "x", 0, NULL, 0), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_run_string(host, NULL, 1, NULL, 0, NULL, 0), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_run_string(host, "", 0, NULL, 1, NULL, 0), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_run_string(host, "", 0, NULL, -1, NULL, 0), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_call(host, 0, 0, 0), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_release(host), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_post(host, NULL, NULL), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_turn(NULL), UNSYNC_EINVAL);
  assert_int_equal(unsync_host_free(NULL), 0);
  assert_int_equal(unsync_host_free(host), 0);
}

static void waits_for_what_was_started(void **state) {
  (void)state;
  unsync_host *host = new_host();
  runs_well(host, "local unsync = require 'unsync' count = 0\n"
                  "for i = 1, 10 do unsync.spawn(function() unsync.sleep(i / 1000) count = count + 1 end) end");
  assert_int_equal(global(host, "count"), 10);
  assert_int_equal(unsync_host_free(host), 0);
}

static void tells_errors(void **state) {
  (void)state;
  unsync_host *host = new_host();
  assert_int_equal(run(host, "error('boo')"), UNSYNC_ESCRIPT);
  has_error(host, "test:1: boo\nstack traceback:");
  assert_int_equal(run(host, "x ="), UNSYNC_ESCRIPT);
  has_error(host, "test:1: unexpected symbol");
  assert_int_equal(run(host, "error({})"), UNSYNC_ESCRIPT);
  has_error(host, "(error object is a table value)");
  assert_int_equal(run(host, "error(setmetatable({}, {__tostring = function() error('worse') end}))"), UNSYNC_ESCRIPT);
  assert_int_equal(run(host, "require('unsync').spawn(error, 'unseen')"), UNSYNC_ESCRIPT);
  has_error(host, "a failure that nobody looked at");
  has_error(host, "unseen");
  assert_int_equal(run(host, "require('unsync').promise():await()"), UNSYNC_ESCRIPT);
  has_error(host, "deadlock");
  const char callback[] = "local timer = require('luv').new_timer()\n"
                          "timer:start(1, 0, function() timer:close() error('in luv') end)";
  assert_int_equal(run(host, callback), UNSYNC_ESCRIPT);
  has_error(host, "error in a callback of luv: test:2: in luv");
  runs_well(host, "x = 1"); /* none of it is left */
  assert_int_equal(unsync_host_free(host), 0);
}

static void uses_threads_and_processes(void **state) {
  (void)state;
  unsync_host *host = new_host();
  runs_well(host, "local unsync = require 'unsync'\n"
                  "local function double(n) return n * 2 end\n"
                  "sum = unsync.thread(double)(10):await() + unsync.cpu(double)(100):await()");
  assert_int_equal(global(host, "sum"), 220);
  assert_int_equal(unsync_host_free(host), 0);
}

static void says_where_no_worker_was_found(void **state) {
  (void)state;
  if (getenv("UNSYNC_WORKER") != NULL) skip();
  unsync_options options = {.size = sizeof options, .program = "/nowhere/unsync"};
  unsync_host *host;
  assert_int_equal(unsync_host_new(&host, &options), 0);
  assert_int_equal(run(host, "require('unsync').cpu(function() end)():await()"), UNSYNC_ESCRIPT);
  has_error(host, "/nowhere/unsync");
  assert_int_equal(unsync_host_free(host), 0);
}

/* ---- limits ---- */

static void ends_a_run_at_its_limit(void **state) {
  (void)state;
  unsync_host *host = new_host();
  const char code[] = "local unsync = require 'unsync'\n"
                      "cleaned = 0\n"
                      "for _ = 1, 3 do unsync.spawn(function()\n"
                      "  local _ <close> = setmetatable({}, {__close = function() cleaned = cleaned + 1 end})\n"
                      "  unsync.sleep(60)\n"
                      "end) end\n"
                      "unsync.sleep(60)";
  assert_int_equal(run_with_limit(host, code, 30), UNSYNC_ETIMEDOUT);
  has_error(host, "timeout: the script had not ended after 30 ms");
  assert_int_equal(global(host, "cleaned"), 3);
  runs_well(host, "require('unsync').sleep(0.001)");
  assert_int_equal(run_with_limit(host, "require('unsync').promise():await()", 10000), UNSYNC_ESCRIPT);
  has_error(host, "deadlock"); /* at once: the limit is no hope */
  assert_int_equal(run_with_limit(host, "got = 1", 10000), 0);
  assert_int_equal(unsync_host_free(host), 0);
}

static void gives_up_what_does_not_end(void **state) {
  (void)state;
  unsync_options options = default_options();
  options.grace_ms = 50;
  unsync_host *host;
  assert_int_equal(unsync_host_new(&host, &options), 0);
  const char code[] = "local unsync = require 'unsync'\n"
                      "unsync.spawn(function() while true do pcall(unsync.sleep, 0.01) unsync.shield(unsync.sleep, 0.01) end end)\n"
                      "unsync.sleep(60)";
  assert_int_equal(run_with_limit(host, code, 20), UNSYNC_ETIMEDOUT);
  assert_int_equal(run(host, "x = 1"), UNSYNC_ECLOSED);
  assert_int_equal(unsync_host_turn(host), UNSYNC_ECLOSED);
  assert_int_equal(unsync_host_start(host, "x", 0, NULL), UNSYNC_ECLOSED);
  assert_int_equal(unsync_host_free(host), 0);
}

/* ---- calls ---- */

static void calls_functions_that_wait(void **state) {
  (void)state;
  unsync_host *host = new_host();
  lua_State *L = unsync_host_lua(host);
  runs_well(host, "local unsync = require 'unsync'\n"
                  "function add(a, b) unsync.sleep(0.001) return a + b, nil, 'third' end\n"
                  "function broken() unsync.yield() error({code = 7}) end\n"
                  "function stuck() unsync.sleep(60) end\n"
                  "function hopeless() unsync.promise():await() end");
  int top = lua_gettop(L);
  lua_getglobal(L, "add");
  lua_pushinteger(L, 1);
  lua_pushinteger(L, 2);
  assert_int_equal(unsync_host_call(host, 2, LUA_MULTRET, 0), 0);
  assert_int_equal(lua_gettop(L), top + 3);
  assert_int_equal(lua_tointeger(L, -3), 3);
  assert_true(lua_isnil(L, -2));
  assert_string_equal(lua_tostring(L, -1), "third");
  lua_settop(L, top);
  lua_getglobal(L, "add");
  lua_pushinteger(L, 1);
  lua_pushinteger(L, 2);
  assert_int_equal(unsync_host_call(host, 2, 1, 0), 0);
  assert_int_equal(lua_gettop(L), top + 1);
  lua_settop(L, top);
  lua_getglobal(L, "broken");
  assert_int_equal(unsync_host_call(host, 0, 2, 0), UNSYNC_ESCRIPT);
  assert_int_equal(lua_gettop(L), top + 1);
  lua_getfield(L, -1, "code");
  assert_int_equal(lua_tointeger(L, -1), 7);
  has_error(host, "table");
  lua_settop(L, top);
  lua_getglobal(L, "hopeless");
  assert_int_equal(unsync_host_call(host, 0, 0, 60000), UNSYNC_ESCRIPT);
  has_error(host, "deadlock");
  lua_settop(L, top);
  lua_getglobal(L, "stuck");
  assert_int_equal(unsync_host_call(host, 0, 0, 20), UNSYNC_ETIMEDOUT);
  has_error(host, "timeout: the call had not ended after 20 ms");
  assert_int_equal(lua_gettop(L), top);
  lua_pushinteger(L, 1); /* not callable */
  assert_int_equal(unsync_host_call(host, 0, 0, 0), UNSYNC_ESCRIPT);
  has_error(host, "attempt to call a number value");
  lua_settop(L, top);
  runs_well(host, "x = 1");
  assert_int_equal(unsync_host_free(host), 0);
}

/* reenter(host) -> the codes of all that would turn the loop once more */
static int reenter(lua_State *L) {
  unsync_host *host = lua_touserdata(L, 1);
  int codes[] = {unsync_host_run(host, "x", 0, NULL, 0), unsync_host_start(host, "x", 0, NULL), unsync_host_turn(host),
                 unsync_host_call(host, 0, 0, 0), unsync_host_free(host)};
  for (int i = 0; i < 5; i++) lua_pushboolean(L, codes[i] == UNSYNC_EBUSY);
  lua_pushboolean(L, unsync_host_cancel(host) == 0);
  return 6;
}

static void refuses_to_be_turned_from_inside(void **state) {
  (void)state;
  unsync_host *host = new_host();
  lua_State *L = unsync_host_lua(host);
  lua_register(L, "reenter", reenter);
  lua_pushlightuserdata(L, host);
  lua_setglobal(L, "host");
  runs_well(host, "for i, refused in ipairs({reenter(host)}) do assert(refused, i) end");
  assert_int_equal(start(host, "require('unsync').sleep(0.01)"), 0);
  assert_int_equal(start(host, "x = 1"), UNSYNC_EBUSY);
  assert_int_equal(run(host, "x = 1"), UNSYNC_EBUSY);
  assert_int_equal(drive(host), 0);
  assert_int_equal(unsync_host_free(host), 0);
}

/* ---- options ---- */

typedef struct {
  atomic_int main_states, thread_states, reports;
  char last[4096]; /* of the reports */
} witness;

static int setup(lua_State *L) {
  witness *seen = lua_touserdata(L, 1);
  bool is_thread = lua_toboolean(L, 2);
  atomic_fetch_add(is_thread ? &seen->thread_states : &seen->main_states, 1);
  lua_pushinteger(L, 42);
  lua_setglobal(L, "answer");
  return 0;
}

static void report(void *context, const char *text) {
  witness *seen = context;
  atomic_fetch_add(&seen->reports, 1);
  snprintf(seen->last, sizeof seen->last, "%s", text);
}

static int fails_everywhere(lua_State *L) { return luaL_error(L, "no setup today"); }

static int fails_in_threads(lua_State *L) { return lua_toboolean(L, 2) ? luaL_error(L, "not in threads") : 0; }

static void sets_states_up(void **state) {
  (void)state;
  witness seen = {.last = ""};
  unsync_options options = default_options();
  options.setup = setup;
  options.report = report;
  options.context = &seen;
  options.threads = 1;
  unsync_host *host;
  assert_int_equal(unsync_host_new(&host, &options), 0);
  runs_well(host, "sum = answer + require('unsync').thread(function() return answer end)():await()");
  assert_int_equal(global(host, "sum"), 84);
  assert_int_equal(atomic_load(&seen.main_states), 1);
  assert_int_equal(atomic_load(&seen.thread_states), 1);
  assert_int_equal(atomic_load(&seen.reports), 0);
  assert_int_equal(run(host, "error('told')"), UNSYNC_ESCRIPT);
  assert_int_equal(atomic_load(&seen.reports), 1);
  assert_non_null(strstr(seen.last, "told"));
  has_error(host, "told");
  assert_int_equal(unsync_host_free(host), 0);

  options.setup = fails_everywhere;
  assert_int_equal(unsync_host_new(&host, &options), UNSYNC_ESCRIPT);
  assert_null(host);
  assert_non_null(strstr(seen.last, "no setup today"));

  options.setup = fails_in_threads;
  assert_int_equal(unsync_host_new(&host, &options), 0);
  assert_int_equal(run(host, "require('unsync').thread(function() end)():await()"), UNSYNC_ESCRIPT);
  has_error(host, "cannot make a Lua state for");
  has_error(host, "the setup of a Lua state failed: not in threads");
  assert_int_equal(unsync_host_free(host), 0);
}

static void reads_options_of_other_sizes(void **state) {
  (void)state;
  struct {
    unsync_options known;
    long later;
  } options = {.known = default_options(), .later = 0};
  unsync_host *host;
  options.known.size = sizeof options;
  assert_int_equal(unsync_host_new(&host, &options.known), 0);
  assert_int_equal(unsync_host_free(host), 0);
  options.later = 1;
  assert_int_equal(unsync_host_new(&host, &options.known), UNSYNC_EINVAL);
  assert_null(host);
  options.known.size = offsetof(unsync_options, cores);
  assert_int_equal(unsync_host_new(&host, &options.known), 0);
  assert_int_equal(unsync_host_free(host), 0);
  options.known.size = 0;
  assert_int_equal(unsync_host_new(&host, &options.known), UNSYNC_EINVAL);
  options.known = default_options();
  options.known.threads = -1;
  assert_int_equal(unsync_host_new(&host, &options.known), UNSYNC_EINVAL);
  assert_string_equal(unsync_version(), UNSYNC_VERSION);
  for (int code = 1; code >= UNSYNC_ESTUCK; code--) assert_string_not_equal(unsync_code_text(code), "unknown code");
  assert_string_equal(unsync_code_text(99), "unknown code");
}

/* ---- the end ---- */

static void ends_with_work_in_flight(void **state) {
  (void)state;
  witness seen = {.last = ""};
  unsync_options options = default_options();
  options.grace_ms = 2000;
  options.report = report; /* nobody looks at the request that fails */
  options.context = &seen;
  unsync_host *host;
  assert_int_equal(unsync_host_new(&host, &options), 0);
  assert_int_equal(
      start(host, "local unsync, uv = require 'unsync', require 'luv'\n"
                  "local function spin(s) local t = os.clock() while os.clock() - t < s do end end\n"
                  "computing = unsync.cpu(spin)(5) unsync.cpu(unsync.sleep)(5)\n"
                  "function compute_here() unsync.thread(spin)(0.2) for _ = 1, 20 do unsync.thread(spin)(0.1) end end\n"
                  "unsync.spawn(function() unsync.sleep(60) end) unsync.spawn(function() unsync.promise():await() end)\n"
                  "local p = unsync.promise() unsync.thread(function() p:resolve(1) end)()\n"
                  "uv.new_timer():start(10000, 0, function() end)\n"
                  "require('unsync.http').get('http://127.0.0.1:9/')\n"
                  "keep = setmetatable({}, {__gc = function() p:resolve(2) pcall(unsync.spawn, print)\n"
                  "  pcall(unsync.thread, 'no.such') pcall(unsync.thread(spin), 1) pcall(p.await, p) coroutine.wrap(print) end})\n"
                  "unsync.sleep(60)"),
      0);
  lua_State *L = unsync_host_lua(host);
  for (bool computing = false; !computing;) {
    struct pollfd watched = {.fd = unsync_host_fd(host), .events = POLLIN};
    poll(&watched, 1, 1);
    assert_int_equal(unsync_host_turn(host), UNSYNC_AGAIN);
    assert_int_equal(luaL_dostring(L, "return computing:status() ~= 'pending'"), LUA_OK);
    computing = lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  assert_int_equal(luaL_dostring(L, "compute_here()"), LUA_OK);
  assert_int_equal(unsync_host_turn(host), UNSYNC_AGAIN);
  assert_int_equal(unsync_host_free(host), 0);
}

static sem_t standing;
static atomic_int cleaned;

/* standing(), cleaned(): called in threads, heard of here */
static int tell_standing(lua_State *L) {
  (void)L;
  sem_post(&standing);
  return 0;
}

static int tell_cleaned(lua_State *L) {
  (void)L;
  atomic_fetch_add(&cleaned, 1);
  return 0;
}

/* work(): for a moment, in calls that ThreadSanitizer sees: between those it keeps signals back */
static int work(lua_State *L) {
  (void)L;
  usleep(100);
  return 0;
}

static int open_telling(lua_State *L) {
  lua_register(L, "work", work);
  lua_register(L, "standing", tell_standing);
  lua_register(L, "cleaned", tell_cleaned);
  return 0;
}

static void cancels_what_threads_still_do(void **state) {
  (void)state;
  unsync_options options = default_options();
  options.setup = open_telling;
  options.threads = 2;
  options.grace_ms = 60000;
  unsync_host *host;
  sem_init(&standing, 0, 0);
  assert_int_equal(unsync_host_new(&host, &options), 0);
  assert_int_equal(start(host, "local unsync = require 'unsync'\n"
                               "local function call(body)\n"
                               "  unsync.thread(function()\n"
                               "    local _ <close> = setmetatable({}, {__close = function() cleaned() end})\n"
                               "    standing()\n"
                               "    body()\n"
                               "  end)()\n"
                               "end\n"
                               "call(function() while true do work() end end)\n"
                               "call(function() unsync.sleep(3600) end)\n"
                               "unsync.sleep(3600)"),
                   0);
  assert_int_equal(unsync_host_turn(host), UNSYNC_AGAIN);
  for (int i = 0; i < 2; i++) {
    while (sem_wait(&standing) != 0) continue;
  }
  assert_int_equal(unsync_host_free(host), 0);
  assert_int_equal(atomic_load(&cleaned), 2);
}

/* block(): stands in foreign code for good */
static int block(lua_State *L) {
  (void)L;
  sem_post(&standing);
  for (;;) pause();
  return 0;
}

static int open_blocking(lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, block);
  lua_setfield(L, -2, "block");
  lua_setglobal(L, "blocking");
  return 0;
}

static int free_while_stuck(void) {
  sem_init(&standing, 0, 0);
  unsync_options options = default_options();
  options.setup = open_blocking;
  options.grace_ms = 50;
  unsync_host *host;
  if (unsync_host_new(&host, &options) != 0) return 1;
  if (start(host, "local unsync = require 'unsync' unsync.thread(function() blocking.block() end)() unsync.sleep(60)") != 0) return 2;
  if (unsync_host_turn(host) != UNSYNC_AGAIN) return 3;
  while (sem_wait(&standing) != 0) continue;
  return unsync_host_free(host) == UNSYNC_ESTUCK ? 0 : 4;
}

static void leaves_a_stuck_thread_what_it_may_touch(void **state) {
  (void)state;
  fflush(NULL);
  pid_t child = fork(); /* there is no other thread at this point */
  if (child == 0) _exit(free_while_stuck());
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

/* Each request for memory on the way fails in turn; where it is Lua's, a collection may still find some. */
static void survives_a_lack_of_memory(void **state) {
  (void)state;
  const char *slowness = getenv("UNSYNC_SLOWNESS");
  long step = slowness != NULL && atoi(slowness) >= 10 ? 7 : 1;
  unsync_options options = default_options();
  int failures = 0;
  for (long countdown = 1; countdown < 120; countdown += step) {
    unsync_host *host;
    uns_alloc_fail_after(countdown);
    int status = unsync_host_new(&host, &options);
    uns_alloc_fail_after(0);
    assert_true(status == 0 || status == UNSYNC_ENOMEM || status == UNSYNC_ESYSTEM);
    if (status != 0) failures++;
    assert_int_equal(unsync_host_free(host), 0);
  }
  assert_true(failures > 0);
  unsync_host *host = new_host();
  for (long countdown = 1; countdown < 150; countdown += step) {
    uns_alloc_fail_after(countdown);
    int status = run(host, "local unsync = require 'unsync' unsync.spawn(function() unsync.sleep(0) end):await()");
    uns_alloc_fail_after(0);
    assert_true(status == 0 || status == UNSYNC_ESCRIPT || status == UNSYNC_ENOMEM);
  }
  /* Calls to workers end, one way or another, and so does what crosses with them. */
  runs_well(host, "local unsync = require 'unsync' nested = unsync.thread(function(x) return x, unsync.resolved(x) end)");
  for (long countdown = 1; countdown < 400; countdown += 2 * step) {
    uns_alloc_fail_after(countdown);
    int status = run(host, "local unsync = require 'unsync'\n"
                           "local inner = unsync.resolved(unsync.resolved({}))\n"
                           "local calls = {}\n"
                           "for i = 1, 3 do local ok, call = pcall(nested, inner) calls[#calls + 1] = ok and call or nil end\n"
                           "for _, call in ipairs(calls) do pcall(call.await, call) call:error() end");
    uns_alloc_fail_after(0);
    assert_true(status == 0 || status == UNSYNC_ESCRIPT || status == UNSYNC_ENOMEM);
  }
  runs_well(host, "x = 1");
  assert_int_equal(unsync_host_free(host), 0);
}

int main(void) {
  find_program();
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(leaves_a_stuck_thread_what_it_may_touch),
    cmocka_unit_test(runs_a_string),
    cmocka_unit_test(runs_a_file),
    cmocka_unit_test(refuses_arguments_that_cannot_be),
    cmocka_unit_test(waits_for_what_was_started),
    cmocka_unit_test(tells_errors),
    cmocka_unit_test(uses_threads_and_processes),
    cmocka_unit_test(says_where_no_worker_was_found),
    cmocka_unit_test(ends_a_run_at_its_limit),
    cmocka_unit_test(gives_up_what_does_not_end),
    cmocka_unit_test(calls_functions_that_wait),
    cmocka_unit_test(refuses_to_be_turned_from_inside),
    cmocka_unit_test(sets_states_up),
    cmocka_unit_test(reads_options_of_other_sizes),
    cmocka_unit_test(ends_with_work_in_flight),
    cmocka_unit_test(cancels_what_threads_still_do),
    cmocka_unit_test(survives_a_lack_of_memory),
  };
  return cmocka_run_group_tests_name("api", tests, NULL, NULL);
}
