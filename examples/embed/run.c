/*
 * A program around a host: it gives the script a function of its own, runs it, calls what it left, and reads errors.
 *
 *     cc run.c $(pkg-config --cflags --libs unsync lua5.4) && ./a.out
 *
 *     script: the sum in another thread is 5000050000, as the program's name is run
 *     called: area(3, 4) = 12
 *     failed: broken:1: no such luck
 */
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <string.h>

#include <unsync.h>

static const char script[] =
    "local unsync = require 'unsync'\n"
    "local sum = unsync.thread(function(n) local s = 0 for i = 1, n do s = s + i end return s end)\n"
    "print(('script: the sum in another thread is %d, as the program\\'s name is %s'):format(sum(100000):await(), whoami()))\n"
    "function area(width, height) unsync.sleep(0.01) return width * height end\n";

/* whoami() -> string: a function of this program's */
static int whoami(lua_State *L) {
  lua_pushliteral(L, "run");
  return 1;
}

/* Called in the script's state, and in each that a thread gets. */
static int setup(lua_State *L) {
  lua_register(L, "whoami", whoami);
  return 0;
}

static int check(unsync_host *host, int status) {
  if (status != 0) fprintf(stderr, "%s\n%s\n", unsync_code_text(status), unsync_host_error(host));
  return status;
}

int main(void) {
  unsync_options options = {.size = sizeof options, .setup = setup};
  unsync_host *host;
  if (unsync_host_new(&host, &options) != 0) return 1;

  /* A script, until it and all that it started have ended. */
  if (check(host, unsync_host_run_string(host, script, strlen(script), "=script", 0, NULL, 10000)) != 0) return 1;

  /* A function that it left: as by lua_pcall, but it may wait. */
  lua_State *L = unsync_host_lua(host);
  lua_getglobal(L, "area");
  lua_pushinteger(L, 3);
  lua_pushinteger(L, 4);
  if (check(host, unsync_host_call(host, 2, 1, 0)) != 0) return 1;
  printf("called: area(3, 4) = %lld\n", lua_tointeger(L, -1));
  lua_pop(L, 1);

  /* An error: the first line is the message, the rest where it came from. */
  const char broken[] = "error('no such luck')";
  if (unsync_host_run_string(host, broken, strlen(broken), "=broken", 0, NULL, 0) == UNSYNC_ESCRIPT) {
    const char *text = unsync_host_error(host);
    printf("failed: %.*s\n", (int)strcspn(text, "\n"), text);
  }
  return unsync_host_free(host) == 0 ? 0 : 1;
}
