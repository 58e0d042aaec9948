#include "host/script.h"

#include <lauxlib.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "loop/task.h"

/* ---- the root task ---- */

static int next_step(lua_State *L, int status, lua_KContext next);

/* Pushes the chunk of a step, or raises its syntax error. */
static void push_chunk(lua_State *L, const uns_step *step) {
  int status;
  switch (step->kind) {
    case UNS_STEP_CODE: status = luaL_loadbuffer(L, step->text, strlen(step->text), "=(command line)"); break;
    case UNS_STEP_FILE: status = luaL_loadfile(L, step->text); break;
    default:
      lua_getglobal(L, "require");
      status = LUA_OK;
  }
  if (status != LUA_OK) lua_error(L);
}

/* `-l mod` and `-l g=mod`: what require returned becomes a global. */
static void set_required(lua_State *L, const char *text) {
  const char *equals = strchr(text, '=');
  if (equals != NULL) lua_pushlstring(L, text, (size_t)(equals - text));
  else lua_pushstring(L, text);
  lua_insert(L, -2);
  lua_pushglobaltable(L);
  lua_insert(L, -3);
  lua_settable(L, -3);
  lua_pop(L, 1);
}

/* The body of the root task: each step in turn, any of which may wait. */
static int run_steps(lua_State *L) { return next_step(L, LUA_OK, 0); }

static int next_step(lua_State *L, int status, lua_KContext next) {
  (void)status;
  const uns_script *script = lua_touserdata(L, 1);
  if (next > 0 && script->steps[next - 1].kind == UNS_STEP_REQUIRE) set_required(L, script->steps[next - 1].text);
  lua_settop(L, 1);
  for (; next < script->step_count; next++) {
    const uns_step *step = &script->steps[next];
    push_chunk(L, step);
    int count = 0;
    if (step->kind == UNS_STEP_REQUIRE) {
      const char *equals = strchr(step->text, '=');
      lua_pushstring(L, equals != NULL ? equals + 1 : step->text);
      count = 1;
    } else if (step->kind == UNS_STEP_FILE) {
      count = script->argc - script->script_index - 1;
      if (count < 0) count = 0;
      luaL_checkstack(L, count, "too many arguments to script");
      for (int i = 0; i < count; i++) lua_pushstring(L, script->argv[script->script_index + 1 + i]);
    }
    lua_callk(L, count, step->kind == UNS_STEP_REQUIRE ? 1 : 0, next + 1, next_step);
    if (step->kind == UNS_STEP_REQUIRE) set_required(L, step->text);
    lua_settop(L, 1);
  }
  return 0;
}

static void set_arg(lua_State *L, const uns_script *script) {
  lua_createtable(L, script->argc, 1);
  for (int i = 0; i < script->argc; i++) {
    lua_pushstring(L, script->argv[i]);
    lua_rawseti(L, -2, i - script->script_index);
  }
  lua_setglobal(L, "arg");
}

/* ---- the end ---- */

static int error_text(lua_State *L) {
  if (lua_istable(L, 1) || lua_isuserdata(L, 1)) {
    if (!luaL_getmetafield(L, 1, "__tostring")) {
      lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
      return 1;
    }
  }
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* Prints the failure of the future at `index` as lua.c would, with the traceback of where it failed. */
static void report(uns_runtime *runtime, int index) {
  lua_State *L = runtime->L;
  lua_pushcfunction(L, error_text);
  uns_future_push_error(runtime, L, index);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    lua_pushliteral(L, "(an error object whose tostring failed)");
  }
  uns_future_push_traceback(runtime, L, index);
  const char *text = lua_tostring(L, -2), *traceback = lua_tostring(L, -1);
  fflush(stdout);
  fprintf(stderr, "unsync: %s\n%s%s", text != NULL ? text : "(error)", traceback != NULL ? traceback : "",
          traceback != NULL ? "\n" : "");
  lua_pop(L, 2);
}

/* Turns the loop until nothing is left that could go on; what can never go on is told so. */
static void wait_for_rest(uns_runtime *runtime) {
  for (;;) {
    bool alive = uns_runtime_turn(runtime, true);
    if (alive || uns_task_raise_deadlock(runtime)) continue;
    return;
  }
}

static int start_root(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  set_arg(L, lua_touserdata(L, 2));
  lua_pushcfunction(L, run_steps);
  lua_pushvalue(L, 2);
  uns_task_start(runtime, L, 1, "main");
  return 1;
}

int uns_script_run(uns_runtime *runtime, const uns_script *script) {
  lua_State *L = runtime->L;
  lua_pushcfunction(L, start_root);
  lua_pushlightuserdata(L, runtime);
  lua_pushlightuserdata(L, (void *)script);
  if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
    fprintf(stderr, "unsync: %s\n", luaL_tolstring(L, -1, NULL));
    return 1;
  }
  int root = lua_gettop(L);
  uns_future *future = lua_touserdata(L, root);
  while (!uns_future_settled(future)) {
    if (!uns_runtime_turn(runtime, true) && !uns_task_raise_deadlock(runtime)) break;
  }
  int code = 0;
  if (future->state != UNS_FUTURE_DONE) { /* what it started is not waited for: it cannot be wanted any more */
    report(runtime, root);
    code = 1;
  } else {
    wait_for_rest(runtime);
  }
  if (uns_future_report_unobserved(runtime) > 0) code = 1;
  lua_settop(L, 0);
  if (fflush(stdout) != 0 || ferror(stdout)) {
    fprintf(stderr, "unsync: cannot write to stdout: %s\n", strerror(errno));
    if (code == 0) code = 1;
  }
  return code;
}
