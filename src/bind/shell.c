/*
 * shell: os.execute. The caller's task waits for the command; the loop does not.
 *
 *   - A wait that is broken off ends the command, with what that has started: SIGTERM, after the grace period SIGKILL.
 *   - Where nothing can wait, it blocks as stock Lua does.
 * How a command is started, and how it ends: bind/command.c. io.popen: bind/popen.c.
 */
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>
#include <lualib.h>

#include "bind/command.h"
#include "bind/stdlib.h"

#define COMMAND_TYPE "unsync.Command"

/* __close and __gc: a wait that was broken off, by an error or for ever, ends the command. */
static int command_close(lua_State *L) {
  uns_command **slot = luaL_testudata(L, 1, COMMAND_TYPE);
  if (slot == NULL) return 0;
  uns_command *c = *slot;
  *slot = NULL;
  if (c == NULL) return 0;
  uns_command_reap(c, WNOHANG);
  uns_command_terminate(c);
  uns_command_let_go(c);
  return 0;
}

static int after_execute(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  uns_command *c = *(uns_command **)lua_touserdata(L, 2);
  uns_command_check_wait(L, c);
  if (uns_command_can_wait(L, c)) return uns_command_wait(L, c, after_execute);
  uns_command_reap(c, 0);
  return uns_command_push_result(L, c);
}

/* execute([command]) -> true | nil, "exit" | "signal", code; without a command: whether there is a shell */
static int os_execute(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const char *command = luaL_optstring(L, 1, NULL);
  if (command == NULL) {
    lua_pushboolean(L, access(UNS_SHELL, X_OK) == 0);
    return 1;
  }
  if (uns_stdlib_can_wait(runtime, L)) uns_task_check_can_wait(runtime, L); /* a cancelled task starts nothing */
  lua_settop(L, 1);
  uns_command **slot = lua_newuserdatauv(L, sizeof *slot, 0);
  *slot = NULL;
  luaL_setmetatable(L, COMMAND_TYPE);
  uns_command *c = *slot = uns_command_new(runtime);
  if (c == NULL) return luaL_error(L, "not enough memory");
  int error = uns_command_start(c, command, -1, -1);
  if (error != 0) {
    errno = error;
    return luaL_execresult(L, -1);
  }
  lua_toclose(L, 2);
  if (uns_command_can_wait(L, c)) return uns_command_wait(L, c, after_execute);
  uns_command_reap(c, 0);
  return uns_command_push_result(L, c);
}

static const luaL_Reg command_meta[] = {{"__close", command_close}, {"__gc", command_close}, {NULL, NULL}};

static const luaL_Reg os_functions[] = {{"execute", os_execute}, {NULL, NULL}};

void uns_bind_shell(lua_State *L, uns_runtime *runtime) {
  luaL_newmetatable(L, COMMAND_TYPE);
  luaL_setfuncs(L, command_meta, 0);
  lua_pop(L, 1);
  if (uns_stdlib_push_library(L, LUA_OSLIBNAME)) {
    uns_stdlib_replace(L, runtime, os_functions);
    lua_pop(L, 1);
  }
}
