#include "bind/native.h"

#include <lauxlib.h>
#include <string.h>

#include "base/base.h"
#include "core/error.h"
#include "exec/executors.h"
#include "exec/registry.h"

#define TEXT_TYPE "unsync.text"

static int text_release(lua_State *L) {
  char **text = luaL_testudata(L, 1, TEXT_TYPE);
  if (text == NULL) return 0;
  uns_free(*text);
  *text = NULL;
  return 0;
}

/* Pushes a box for a text of the C side, so that it is freed whatever is raised. */
static char **push_text(lua_State *L) {
  char **text = lua_newuserdatauv(L, sizeof *text, 0);
  *text = NULL;
  luaL_newmetatable(L, TEXT_TYPE);
  if (lua_getfield(L, -1, "__gc") == LUA_TNIL) { /* new, or memory ran out when it was */
    lua_pushcfunction(L, text_release);
    lua_setfield(L, -3, "__gc");
  }
  lua_pop(L, 1);
  lua_setmetatable(L, -2);
  return text;
}

static int raise_text(lua_State *L, char **text) {
  if (*text == NULL) return luaL_error(L, "not enough memory");
  return uns_error_raise(L, "plugin", "%s", *text);
}

static uns_registry *check_registry(lua_State *L, uns_executors *executors) {
  uns_registry *registry = uns_registry_of(executors);
  if (registry == NULL) luaL_error(L, "not enough memory");
  return registry;
}

static void set_text(lua_State *L, const char *field, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, field);
}

int uns_native_plugin(lua_State *L) {
  size_t size;
  const char *name = luaL_checklstring(L, 1, &size);
  luaL_argcheck(L, strlen(name) == size, 1, "a zero byte in the name");
  const uns_runtime *runtime = uns_runtime_of(L);
  if (runtime->closing) return uns_error_raise(L, "closed", "closed: the state is ending");
  uns_registry *registry = check_registry(L, runtime->executors);
  char **text = push_text(L);
  const uns_plugin *plugin = strchr(name, '/') != NULL ? uns_registry_load(registry, name, text)
                                                       : uns_registry_plugin(registry, name, text);
  if (plugin == NULL) return raise_text(L, text);
  lua_createtable(L, 0, 6);
  set_text(L, "name", plugin->name);
  set_text(L, "version", plugin->version);
  set_text(L, "doc", plugin->doc);
  set_text(L, "path", plugin->path);
  lua_pushinteger(L, UNSYNC_PLUGIN_ABI);
  lua_setfield(L, -2, "abi");
  lua_createtable(L, plugin->task_count < 1024 ? (int)plugin->task_count : 1024, 0);
  for (size_t i = 0; i < plugin->task_count; i++) {
    const uns_native *task = &plugin->tasks[i];
    lua_createtable(L, 0, 2);
    lua_pushfstring(L, "%s.%s", plugin->name, task->name);
    lua_setfield(L, -2, "name");
    set_text(L, "doc", task->doc);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "tasks");
  return 1;
}
