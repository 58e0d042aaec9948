/*
 * api_drive: a host that the program's own loop drives, by include/unsync.h; and hosts beside others and other threads.
 * What a host does when it is run: api_test.c.
 */
#include "api_host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* ---- somebody else's loop ---- */

static void is_driven_by_another_loop(void **state) {
  (void)state;
  unsync_host *host = new_host();
  assert_int_equal(unsync_host_turn(host), 0); /* nothing to do */
  assert_int_equal(start(host, "local unsync = require 'unsync'\n"
                               "local function double(n) return n * 2 end\n"
                               "unsync.spawn(function() unsync.sleep(0.03) late = 1 end)\n"
                               "unsync.sleep(0.01)\n"
                               "sum = unsync.thread(double)(1):await() + unsync.cpu(double)(10):await()"),
                   0);
  assert_int_equal(drive(host), 0);
  assert_int_equal(global(host, "sum"), 22);
  assert_int_equal(global(host, "late"), 1);
  assert_int_equal(start(host, "error('at once')"), 0);
  assert_int_equal(drive(host), UNSYNC_ESCRIPT);
  has_error(host, "at once");
  assert_int_equal(unsync_host_turn(host), 0); /* told once */
  assert_int_equal(start(host, "require('unsync').promise():await()"), 0);
  assert_int_equal(drive(host), UNSYNC_ESCRIPT);
  has_error(host, "deadlock");
  assert_int_equal(start(host, "local uv = require 'luv' local t = uv.new_timer() fired = 0\n"
                               "t:start(5, 5, function() fired = fired + 1 if fired == 3 then t:close() end end)"),
                   0);
  assert_int_equal(drive(host), 0);
  assert_int_equal(global(host, "fired"), 3);
  assert_int_equal(unsync_host_free(host), 0);
}

/* What falls due while the host is about to sleep, too. */
static void runs_each_timer_of_luv(void **state) {
  (void)state;
  unsync_host *host = new_host();
  assert_int_equal(start(host, "local t = require('luv').new_timer() fired = 0\n"
                               "t:start(1, 1, function() fired = fired + 1 if fired == 500 then t:close() end end)"),
                   0);
  assert_int_equal(drive(host), 0);
  assert_int_equal(global(host, "fired"), 500);
  assert_int_equal(unsync_host_free(host), 0);
}

static void sleeps_while_there_is_nothing_to_do(void **state) {
  (void)state;
  unsync_host *host = new_host();
  assert_int_equal(start(host, "require('unsync').sleep(0.1)"), 0);
  int turns = 0;
  while (unsync_host_turn(host) == UNSYNC_AGAIN) {
    int timeout_ms = unsync_host_timeout_ms(host);
    assert_in_range(timeout_ms, 0, 100);
    struct pollfd watched = {.fd = unsync_host_fd(host), .events = POLLIN};
    poll(&watched, 1, timeout_ms);
    turns++;
  }
  assert_in_range(turns, 1, 20);
  assert_int_equal(unsync_host_free(host), 0);
}

static void cancels_what_runs(void **state) {
  (void)state;
  unsync_host *host = new_host();
  assert_int_equal(start(host, "require('unsync').sleep(60)"), 0);
  assert_int_equal(unsync_host_turn(host), UNSYNC_AGAIN);
  assert_int_equal(unsync_host_cancel(host), 0);
  assert_int_equal(drive(host), UNSYNC_ESCRIPT);
  has_error(host, "cancelled");
  assert_int_equal(unsync_host_free(host), 0);
}

static atomic_int posted_calls, posted_ends;

static void on_post(lua_State *L, void *context) {
  if (L == NULL) {
    atomic_fetch_add(&posted_ends, 1);
    return;
  }
  atomic_fetch_add(&posted_calls, 1);
  lua_getglobal(L, "got");
  lua_pushinteger(L, *(int *)context);
  lua_call(L, 1, 0);
}

typedef struct {
  unsync_host *host;
  int number;
} poster;

static void *post_from_elsewhere(void *argument) {
  poster *mine = argument;
  for (int i = 0; i < 100; i++) unsync_host_post(mine->host, on_post, &mine->number);
  return NULL;
}

static int let_go(lua_State *L) {
  unsync_host_release(lua_touserdata(L, lua_upvalueindex(1)));
  return 0;
}

static void takes_posts_from_any_thread(void **state) {
  (void)state;
  unsync_host *host = new_host();
  lua_State *L = unsync_host_lua(host);
  lua_pushlightuserdata(L, host);
  lua_pushcclosure(L, let_go, 1);
  lua_setglobal(L, "let_go");
  for (int round = 0; round < 2; round++) { /* driven from outside, then by itself */
    atomic_store(&posted_calls, 0);
    assert_int_equal(unsync_host_hold(host), 0);
    const char code[] = "local unsync = require 'unsync' local all = unsync.promise() sum = 0 local count = 0\n"
                        "function got(n) sum = sum + n count = count + 1 if count == 200 then all:resolve() end end\n"
                        "all:await() let_go()";
    if (round == 0) assert_int_equal(start(host, code), 0);
    poster posters[2] = {{host, 1}, {host, 1000}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
      if (round == 1) lua_register(L, "got", let_go); /* until the script has its own; never called before */
      if (round == 0) assert_int_equal(pthread_create(&threads[i], NULL, post_from_elsewhere, &posters[i]), 0);
    }
    if (round == 1) {
      for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, post_from_elsewhere, &posters[i]), 0);
      runs_well(host, code);
    } else {
      assert_int_equal(drive(host), 0);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&posted_calls), 200);
    assert_int_equal(global(host, "sum"), 100 * 1001);
  }
  int number = 0;
  atomic_store(&posted_ends, 0);
  assert_int_equal(unsync_host_post(host, on_post, &number), 0);
  assert_int_equal(unsync_host_free(host), 0);
  assert_int_equal(atomic_load(&posted_ends), 1);
}

static void waits_for_what_is_held(void **state) {
  (void)state;
  unsync_host *host = new_host();
  assert_int_equal(unsync_host_hold(host), 0);
  assert_int_equal(start(host, "p = require('unsync').promise() got = p:await()"), 0);
  for (int i = 0; i < 5; i++) assert_int_equal(unsync_host_turn(host), UNSYNC_AGAIN);
  assert_int_equal(unsync_host_timeout_ms(host), -1);
  lua_State *L = unsync_host_lua(host);
  assert_int_equal(luaL_dostring(L, "p:resolve(5)"), LUA_OK);
  assert_int_equal(unsync_host_turn(host), UNSYNC_AGAIN);
  assert_int_equal(unsync_host_release(host), 0);
  assert_int_equal(drive(host), 0);
  assert_int_equal(global(host, "got"), 5);
  assert_int_equal(unsync_host_free(host), 0);
}

static void lets_plain_calls_start_but_not_wait(void **state) {
  (void)state;
  unsync_host *host = new_host();
  lua_State *L = unsync_host_lua(host);
  assert_int_equal(luaL_dostring(L, "local unsync = require 'unsync'\n"
                                    "unsync.spawn(function() unsync.sleep(0.001) got = 1 end)\n"
                                    "local ok, why = pcall(unsync.sleep, 1) return ok, why.code"),
                   LUA_OK);
  assert_false(lua_toboolean(L, -2));
  assert_string_equal(lua_tostring(L, -1), "unyieldable");
  lua_pop(L, 2);
  assert_int_equal(drive(host), 0);
  assert_int_equal(global(host, "got"), 1);
  assert_int_equal(unsync_host_free(host), 0);
}

/* ---- threads, and several hosts ---- */

static void *try_from_elsewhere(void *argument) {
  unsync_host *host = argument;
  bool refused = run(host, "x = 1") == UNSYNC_ETHREAD && unsync_host_turn(host) == UNSYNC_ETHREAD &&
                 unsync_host_free(host) == UNSYNC_ETHREAD && unsync_host_cancel(host) == UNSYNC_ETHREAD &&
                 unsync_host_hold(host) == UNSYNC_ETHREAD;
  return refused ? host : NULL;
}

static void refuses_other_threads(void **state) {
  (void)state;
  unsync_host *host = new_host();
  pthread_t thread;
  void *refused;
  assert_int_equal(pthread_create(&thread, NULL, try_from_elsewhere, host), 0);
  pthread_join(thread, &refused);
  assert_ptr_equal(refused, host);
  assert_int_equal(unsync_host_free(host), 0);
}

static void *live_a_life(void *argument) {
  unsync_options options = default_options();
  options.processes = 1;
  options.threads = 1;
  unsync_host *host;
  if (unsync_host_new(&host, &options) != 0) return argument;
  char code[512];
  snprintf(code, sizeof code,
           "local unsync = require 'unsync' local me = %d\n"
           "local function add(n) return n + me end sum = 0\n"
           "for i = 1, 20 do sum = sum + unsync.thread(add)(i):await() unsync.sleep(0.0001) end\n"
           "sum = sum + unsync.cpu(add)(1000):await()",
           *(int *)argument);
  bool fine = run(host, code) == 0 && global(host, "sum") == 210 + 1000 + 21 * *(int *)argument;
  if (!fine) fprintf(stderr, "%s\n", unsync_host_error(host));
  return unsync_host_free(host) == 0 && fine ? NULL : argument;
}

static void lives_beside_others(void **state) {
  (void)state;
  int numbers[3] = {1, 2, 3};
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, live_a_life, &numbers[i]), 0);
  for (int i = 0; i < 3; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    assert_null(failed);
  }
  unsync_host *one = new_host(), *other = new_host(); /* on the same thread, by turns */
  const char code[] = "local unsync = require 'unsync' for i = 1, 5 do unsync.sleep(0.002) count = i end";
  assert_int_equal(start(one, code), 0);
  assert_int_equal(start(other, code), 0);
  bool going = true;
  while (going) {
    going = false;
    struct pollfd watched[2] = {{.fd = unsync_host_fd(one), .events = POLLIN}, {.fd = unsync_host_fd(other), .events = POLLIN}};
    going |= unsync_host_turn(one) == UNSYNC_AGAIN;
    going |= unsync_host_turn(other) == UNSYNC_AGAIN;
    if (going) poll(watched, 2, 1);
  }
  assert_int_equal(global(one, "count"), 5);
  assert_int_equal(global(other, "count"), 5);
  assert_int_equal(unsync_host_free(one), 0);
  assert_int_equal(unsync_host_free(other), 0);
}

int main(void) {
  find_program();
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(is_driven_by_another_loop),
    cmocka_unit_test(runs_each_timer_of_luv),
    cmocka_unit_test(sleeps_while_there_is_nothing_to_do),
    cmocka_unit_test(cancels_what_runs),
    cmocka_unit_test(takes_posts_from_any_thread),
    cmocka_unit_test(waits_for_what_is_held),
    cmocka_unit_test(lets_plain_calls_start_but_not_wait),
    cmocka_unit_test(refuses_other_threads),
    cmocka_unit_test(lives_beside_others),
  };
  return cmocka_run_group_tests_name("api_drive", tests, NULL, NULL);
}
