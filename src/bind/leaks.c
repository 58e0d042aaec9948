/*
 * leaks: what `unsync test` looks at after each test: calls that were made, failures that nobody looked at, descriptors.
 *
 * Nothing of it costs a program that does not load it. What is made of it: lua/unsync/testing/runner.lua.
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bind/bind.h"
#include "bind/testing.h"
#include "core/weak.h"
#include "exec/executors.h"
#include "exec/pool.h"
#include "loop/failure.h"
#include "loop/transfer.h"

/* Registry keys, by address. */
static const char sites_key = 0;   /* future of a call -> "file:line" of where it was made; weak */
static const char reports_key = 0; /* a list of what was reported, in order */

/* ---- what was started where ---- */

/* Pushes "file:line" of the script's own code that runs on L, or nil. */
static void push_site(lua_State *L) {
  lua_Debug frame;
  for (int level = 1; lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "Sl", &frame);
    if (frame.currentline <= 0 || strncmp(frame.source, "@unsync/", 8) == 0) continue;
    lua_pushfstring(L, "%s:%d", frame.short_src, frame.currentline);
    return;
  }
  lua_pushnil(L);
}

/* The future of a call lies on top. One that has ended well will be no leak. */
static void note_call(uns_runtime *runtime, lua_State *L) {
  (void)runtime;
  const uns_future *future = uns_future_test(L, -1);
  if (future == NULL || future->state == UNS_FUTURE_DONE) return;
  luaL_checkstack(L, 4, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &sites_key);
  lua_pushvalue(L, -2);
  push_site(L);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* note_calls(boolean): from now on it is known where calls were made */
static int core_note_calls(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  runtime->note_call = lua_toboolean(L, 1) ? note_call : NULL;
  return 0;
}

/* site(future) -> "file:line", or nil */
static int core_site(lua_State *L) {
  uns_check_future(L, 1);
  lua_settop(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &sites_key);
  lua_insert(L, 1);
  lua_rawget(L, 1);
  return 1;
}

/* unseen() -> the futures of noted requests that have failed, and nobody has looked: their reports do not say where */
static int core_unseen(lua_State *L) {
  lua_settop(L, 0);
  lua_newtable(L);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &sites_key);
  lua_Integer count = 0;
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    const uns_future *future = lua_touserdata(L, 3);
    if (future->kind != UNS_KIND_PROMISE || future->state != UNS_FUTURE_FAILED || !uns_future_unobserved(L, 3))
      continue;
    if (future->cell != NULL && atomic_load_explicit(&future->cell->looked_at, memory_order_relaxed)) continue;
    lua_pushvalue(L, 3);
    lua_rawseti(L, 1, ++count);
  }
  lua_settop(L, 1);
  return 1;
}

/* ---- what was reported ---- */

static int add_report(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &reports_key);
  lua_pushstring(L, lua_touserdata(L, 1));
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  return 0;
}

/* May come out of a finalizer. */
static void keep_report(uns_runtime *runtime, const char *text) {
  lua_State *L = runtime->L;
  if (lua_checkstack(L, 3)) {
    lua_pushcfunction(L, add_report);
    lua_pushlightuserdata(L, (void *)text);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK) return;
    lua_pop(L, 1);
  }
  runtime->report = NULL; /* no memory to keep it: told in the usual way */
  uns_runtime_report(runtime, text);
  runtime->report = keep_report;
}

/* keep_reports(boolean): what goes wrong with nobody to tell is kept, instead of being written to stderr */
static int core_keep_reports(lua_State *L) {
  uns_upvalue_runtime(L)->report = lua_toboolean(L, 1) ? keep_report : NULL;
  return 0;
}

/*
 * reports() -> what was kept, failures that nobody has looked at included, and how many failures that were, those told
 * elsewhere too. They count for nothing from now on.
 */
static int core_reports(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  int unobserved = uns_failure_report_all(runtime);
  runtime->unobserved = 0;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &reports_key);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &reports_key);
  lua_pushinteger(L, unobserved);
  return 2;
}

/* ---- descriptors ---- */

/* Adds the descriptor `name` to the table on top. */
static void add_descriptor(lua_State *L, const char *name) {
  static const char directory[] = "/proc/self/fd/";
  char path[64], target[512];
  size_t size = strlen(name);
  if (size > 12) return;
  memcpy(path, directory, sizeof directory - 1);
  memcpy(path + sizeof directory - 1, name, size + 1);
  ssize_t length = readlink(path, target, sizeof target);
  if (length <= 0) return;
  lua_pushlstring(L, target, (size_t)length);
  lua_rawseti(L, -2, atoi(name));
}

/* rest(): closes the connections that this state's HTTP client keeps */
static int core_rest(lua_State *L) {
  uns_http_rest(uns_upvalue_runtime(L));
  return 0;
}

/* threads() -> how many the pool has; 0: it has not been needed */
static int core_threads(lua_State *L) {
  const uns_executors *executors = uns_upvalue_runtime(L)->executors;
  lua_pushinteger(L, executors->pool != NULL ? (lua_Integer)uns_pool_threads(executors->pool) : 0);
  return 1;
}

/* descriptors() -> a table: number of an open descriptor -> what it is, as /proc has it */
static int core_descriptors(lua_State *L) {
  lua_settop(L, 0);
  lua_newtable(L);
  DIR *directory = opendir("/proc/self/fd");
  if (directory == NULL) return 1;
  int own = dirfd(directory);
  for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    if (*entry->d_name != '.' && atoi(entry->d_name) != own) add_descriptor(L, entry->d_name);
  }
  closedir(directory);
  return 1;
}

static const luaL_Reg functions[] = {
    {"note_calls", core_note_calls},     {"site", core_site},       {"unseen", core_unseen},
    {"keep_reports", core_keep_reports}, {"reports", core_reports}, {"descriptors", core_descriptors},
    {"threads", core_threads},           {"rest", core_rest},       {NULL, NULL}};

int uns_open_leaks(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  if (runtime == NULL) return luaL_error(L, "unsync test: this state has no event loop");
  uns_weak_push(L, "k");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &sites_key);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &reports_key);
  luaL_newlibtable(L, functions);
  uns_bind_functions(L, runtime, functions);
  return 1;
}
