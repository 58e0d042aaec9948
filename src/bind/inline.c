#include "bind/inline.h"

#include <lauxlib.h>

#include "core/codec.h"
#include "loop/failure.h"

/* Encodes the values from `first` to the top, which are popped; their copies lie there then. Raises what cannot cross. */
static int copy(lua_State *L, int first, const uns_codec_names *names) {
  uns_packet packet;
  uns_packet_init(&packet);
  if (uns_codec_encode(L, first, lua_gettop(L) - first + 1, names, &packet) != UNS_OK) {
    uns_packet_deinit(&packet);
    return lua_error(L);
  }
  lua_settop(L, first - 1);
  int count = uns_codec_decode(L, &packet);
  uns_packet_deinit(&packet);
  return count >= 0 ? count : lua_error(L);
}

/* Stack: the handler, then what the function returned or raised. */
static int after_body(lua_State *L, int status, lua_KContext context) {
  static const uns_codec_names results = {"result", 1, false}, errors = {"error", 0, false};
  (void)context;
  if (status == LUA_OK || status == LUA_YIELD) return copy(L, 2, &results);
  copy(L, 2, &errors);
  return lua_error(L);
}

/* The body of the task: the function, then its arguments. */
static int body(lua_State *L) {
  lua_pushcfunction(L, uns_failure_keep_traceback);
  lua_insert(L, 1);
  return after_body(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, after_body), 0);
}

int uns_inline_call(lua_State *L, uns_runtime *runtime) {
  static const uns_codec_names names = {"argument", 1, true};
  (void)runtime;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_insert(L, 1);
  int count = copy(L, 1, &names);
  lua_pushcfunction(L, body);
  return count;
}
