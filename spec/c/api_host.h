/*
 * api_host: a host as the tests of the embedding interface make, run and drive it.
 *
 * Its worker processes are the program of the build under test.
 */
#ifndef API_HOST_H
#define API_HOST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lua.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unsync.h"

static char program[4096];

static inline void find_program(void) {
  const char *build = getenv("UNSYNC_BUILD");
  snprintf(program, sizeof program, "%s/unsync", build != NULL ? build : "build");
}

static inline unsync_options default_options(void) {
  return (unsync_options){.size = sizeof(unsync_options), .program = program};
}

static inline unsync_host *new_host(void) {
  unsync_options options = default_options();
  unsync_host *host = NULL;
  assert_int_equal(unsync_host_new(&host, &options), 0);
  assert_non_null(host);
  return host;
}

static inline int run_with_limit(unsync_host *host, const char *code, uint64_t timeout_ms) {
  return unsync_host_run_string(host, code, strlen(code), "=test", 0, NULL, timeout_ms);
}

static inline int run(unsync_host *host, const char *code) { return run_with_limit(host, code, 0); }

static inline void runs_well(unsync_host *host, const char *code) {
  int status = run(host, code);
  if (status != 0) fail_msg("%s: %s", unsync_code_text(status), unsync_host_error(host));
  assert_string_equal(unsync_host_error(host), "");
}

static inline void has_error(const unsync_host *host, const char *part) {
  if (strstr(unsync_host_error(host), part) == NULL) fail_msg("no \"%s\" in: %s", part, unsync_host_error(host));
}

static inline lua_Integer global(unsync_host *host, const char *name) {
  lua_State *L = unsync_host_lua(host);
  lua_getglobal(L, name);
  lua_Integer value = luaL_optinteger(L, -1, -1);
  lua_pop(L, 1);
  return value;
}

/* Turns the host as a program's own loop would, until there is no more to come. */
static inline int drive(unsync_host *host) {
  for (;;) {
    int status = unsync_host_turn(host);
    if (status != UNSYNC_AGAIN) return status;
    struct pollfd watched = {.fd = unsync_host_fd(host), .events = POLLIN};
    int timeout_ms = unsync_host_timeout_ms(host);
    int found = poll(&watched, 1, timeout_ms >= 0 && timeout_ms < 20000 ? timeout_ms : 20000);
    if (found == 0 && timeout_ms < 0) fail_msg("nothing came in 20 s");
  }
}

static inline int start(unsync_host *host, const char *code) {
  return unsync_host_start_string(host, code, strlen(code), "=test", 0, NULL);
}
#endif
