/*
 * require: loads a module whose body may wait, and once, although several tasks ask for it meanwhile.
 *
 * As stock in what it finds, returns and says. What is new: whoever asks for a module that another task is loading
 * waits for that, then looks again; if the loading failed, it tries itself.
 *   - While a module loads, a guard in its loader's frame stands for it in the table of modules under way. The guard is
 *     to be closed: it goes when the frame does, by return or error, or when its coroutine is closed or collected.
 *   - Within one task a require that leads back to a module under way behaves as in stock Lua: it loads it once more,
 *     which a real cycle ends with a C stack overflow.
 * Where the compiled-in modules come from: host/modules.c.
 */
#include "bind/stdlib.h"
#include "core/weak.h"

/* Upvalues of require, after the runtime. */
#define PACKAGE lua_upvalueindex(2)
#define UNDER_WAY lua_upvalueindex(3) /* name -> guard, weak values */
#define GUARD_META lua_upvalueindex(4)

/* require's frame. */
enum { SLOT_NAME = 1, SLOT_LOADED, SLOT_GUARD = UNS_REQUIRE_BLOCK, SLOT_SEARCHERS, SLOT_TRIED, SLOT_DATA = SLOT_TRIED };

/* User values: the name, the table of modules under way, the future that others wait for, if there are any. */
enum { GUARD_NAME = 1, GUARD_TABLE, GUARD_FUTURE, GUARD_VALUES = GUARD_FUTURE };

typedef struct {
  uns_barrier barrier;
  uns_runtime *runtime;  /* not touched once nobody waits: the state may outlive it */
  const uns_task *owner; /* only compared */
  bool gone;
} guard;

/* The module whose guard is at `index` is no longer under way, however that ended. */
static void release(lua_State *L, int index) {
  guard *mine = lua_touserdata(L, index);
  if (mine->gone) return;
  mine->gone = true;
  int top = lua_gettop(L);
  if (lua_getiuservalue(L, index, GUARD_TABLE) == LUA_TTABLE) {
    lua_getiuservalue(L, index, GUARD_NAME);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_rawequal(L, -1, index)) {
      lua_pop(L, 1);
      lua_pushnil(L);
      lua_rawset(L, -3);
    }
  }
  if (lua_getiuservalue(L, index, GUARD_FUTURE) == LUA_TUSERDATA) {
    const uns_future *future = lua_touserdata(L, -1);
    if (!uns_list_empty(&future->waiters)) uns_future_resolve(mine->runtime, L, lua_gettop(L), 0);
  }
  lua_settop(L, top);
}

void uns_require_leave(lua_State *L, int index) {
  guard *mine = lua_touserdata(L, index);
  uns_stdlib_leave_barrier(mine->runtime, &mine->barrier);
  release(L, index);
}

static int guard_close(lua_State *L) {
  if (lua_touserdata(L, 1) != NULL) uns_require_leave(L, 1);
  return 0;
}

/* Its coroutine was collected in the middle. */
static int guard_gc(lua_State *L) {
  if (lua_touserdata(L, 1) != NULL) release(L, 1);
  return 0;
}

/* Puts a new guard into SLOT_GUARD, and into the table, unless there is one already. */
static void put_guard(lua_State *L, uns_runtime *runtime, bool first) {
  guard *mine = lua_newuserdatauv(L, sizeof *mine, GUARD_VALUES);
  mine->runtime = runtime;
  mine->owner = runtime->current;
  mine->gone = true;
  lua_replace(L, SLOT_GUARD);
  uns_stdlib_enter_barrier(L, runtime, SLOT_GUARD, GUARD_META);
  if (!first) return;
  lua_pushvalue(L, SLOT_NAME);
  lua_setiuservalue(L, SLOT_GUARD, GUARD_NAME);
  lua_pushvalue(L, UNDER_WAY);
  lua_setiuservalue(L, SLOT_GUARD, GUARD_TABLE);
  lua_pushvalue(L, SLOT_NAME);
  lua_pushvalue(L, SLOT_GUARD);
  lua_rawset(L, UNDER_WAY);
  mine->gone = false;
}

/* Called by require, so that it can go on when the wait is over. */
static int await_guard(lua_State *L) { return uns_task_await(uns_upvalue_runtime(L), L, 1, 0); }

/* Pushes a call that waits until the guard on top (popped) is gone. */
static void push_await(lua_State *L, uns_runtime *runtime) {
  if (lua_getiuservalue(L, -1, GUARD_FUTURE) != LUA_TUSERDATA || uns_future_settled(lua_touserdata(L, -1))) {
    lua_pop(L, 1); /* none yet, or cancelled with a task that alone waited for it */
    uns_future_push(runtime, L, UNS_KIND_PROMISE, "require");
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, -3, GUARD_FUTURE);
  }
  lua_pushlightuserdata(L, runtime);
  lua_pushcclosure(L, await_guard, 1);
  lua_replace(L, -3);
}

/* The loader has returned its value, which lies on top. */
static int after_loader(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  const char *name = lua_tostring(L, SLOT_NAME);
  if (!lua_isnil(L, -1)) lua_setfield(L, SLOT_LOADED, name);
  else lua_pop(L, 1);
  if (lua_getfield(L, SLOT_LOADED, name) == LUA_TNIL) {
    lua_pushboolean(L, 1);
    lua_copy(L, -1, -2);
    lua_setfield(L, SLOT_LOADED, name);
  }
  lua_pushvalue(L, SLOT_DATA);
  return 2;
}

/* A searcher has returned its two values. Runs the loader if it has found one, else asks the next searcher. */
static int after_searcher(lua_State *L, int status, lua_KContext asked) {
  (void)status;
  const char *name = lua_tostring(L, SLOT_NAME);
  for (;;) {
    if (asked > 0 && lua_isfunction(L, -2)) {
      lua_copy(L, -1, SLOT_DATA);
      lua_pop(L, 1);
      lua_pushvalue(L, SLOT_NAME);
      lua_pushvalue(L, SLOT_DATA);
      lua_callk(L, 2, 1, 0, after_loader);
      return after_loader(L, LUA_OK, 0);
    }
    if (asked > 0 && lua_isstring(L, -2)) {
      lua_pushfstring(L, "%s\n\t%s", lua_tostring(L, SLOT_TRIED), lua_tostring(L, -2));
      lua_replace(L, SLOT_TRIED);
    }
    lua_settop(L, SLOT_TRIED);
    if (lua_rawgeti(L, SLOT_SEARCHERS, ++asked) == LUA_TNIL) {
      return luaL_error(L, "module '%s' not found:%s", name, lua_tostring(L, SLOT_TRIED));
    }
    lua_pushstring(L, name);
    lua_callk(L, 1, 2, asked, after_searcher);
  }
}

/* Looks whether the module is there, or under way; else loads it. After each wait again. */
static int look(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const char *name = lua_tostring(L, SLOT_NAME);
  for (;;) {
    lua_settop(L, SLOT_LOADED);
    lua_getfield(L, SLOT_LOADED, name);
    if (lua_toboolean(L, -1)) return 1;
    lua_settop(L, SLOT_GUARD);
    lua_pushvalue(L, SLOT_NAME);
    if (lua_rawget(L, UNDER_WAY) != LUA_TUSERDATA) {
      lua_pop(L, 1);
      put_guard(L, runtime, true);
      break;
    }
    if (((guard *)lua_touserdata(L, -1))->owner == runtime->current) {
      lua_pop(L, 1);
      put_guard(L, runtime, false);
      break;
    }
    push_await(L, runtime);
    lua_callk(L, 1, 0, 0, look);
  }
  if (lua_getfield(L, PACKAGE, "searchers") != LUA_TTABLE) luaL_error(L, "'package.searchers' must be a table");
  lua_pushliteral(L, "");
  return after_searcher(L, LUA_OK, 0);
}

/* require(name) -> module [, loader data] */
int uns_require(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  lua_settop(L, SLOT_NAME);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, SLOT_LOADED, name);
  if (lua_toboolean(L, -1)) return 1;
  return look(L, LUA_OK, 0);
}

static const luaL_Reg guard_meta[] = {{"__close", guard_close}, {"__gc", guard_gc}, {NULL, NULL}};

/* Lua's own has the table `package` as its only upvalue, and takes the searchers from there. */
void uns_bind_require(lua_State *L, uns_runtime *runtime) {
  if (!uns_stdlib_push_library(L, LUA_GNAME)) return;
  int top = lua_gettop(L);
  lua_getfield(L, top, "require");
  if (lua_tocfunction(L, -1) != NULL && lua_getupvalue(L, -1, 1) != NULL && lua_istable(L, -1)) {
    lua_pushlightuserdata(L, runtime);
    lua_insert(L, -2);
    uns_weak_push(L, "v");
    lua_createtable(L, 0, 2);
    luaL_setfuncs(L, guard_meta, 0);
    lua_pushcclosure(L, uns_require, 4);
    lua_setfield(L, top, "require");
  }
  lua_settop(L, top - 1);
}
