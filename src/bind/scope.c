/*
 * scope: a block that ends when all that was started in it has ended.
 *
 * Stack of a scope's frame: its object, the message handler, then what the block returned or raised. When the block has
 * ended it waits; what ends that wait early (a cancellation, a deadlock) cancels the members, and the wait goes on.
 */
#include <string.h>

#include "bind/bind.h"
#include "bind/wrap.h"
#include "core/error.h"
#include "core/packet.h"
#include "loop/failure.h"
#include "loop/group.h"

#define SCOPE_TYPE "unsync.Scope"
enum { VALUE_GATE = 1 };

enum { SLOT_SCOPE = 1, SLOT_HANDLER, SLOT_RESULTS };

typedef struct {
  uns_group *group; /* one reference; NULL while half-built */
  bool limited;
  bool hooked; /* the block was interrupted where it did not wait */
} scope;

static uns_group *check_group(lua_State *L) { return ((scope *)luaL_checkudata(L, 1, SCOPE_TYPE))->group; }

/* Left in another way than by its end, as when a generator is closed: what it owns is cancelled, nobody waits. */
static int scope_close(lua_State *L) {
  const scope *mine = luaL_testudata(L, 1, SCOPE_TYPE);
  uns_group *group = mine != NULL ? mine->group : NULL;
  if (group == NULL || group->ended) return 0;
  uns_task *task = group->block.scope.task;
  if (task == NULL) return 0; /* never entered, or the state ends */
  uns_group_cancel(group);
  uns_group_leave(group, task);
  return 0;
}

static int scope_gc(lua_State *L) {
  scope *mine = luaL_testudata(L, 1, SCOPE_TYPE); /* scripts can reach the metatable */
  if (mine == NULL || mine->group == NULL) return 0;
  if (!mine->group->runtime->closing) scope_close(L);
  uns_cancel_scope_leave(mine->group->runtime, &mine->group->block.scope);
  mine->group->ended = true;
  uns_group_unref(mine->group);
  mine->group = NULL;
  return 0;
}

/* scope_new([gate]) -> Scope. With a gate, a declared function, each child is a call of it: gate(fn, ...). */
static int core_scope_new(lua_State *L) {
  lua_settop(L, 1);
  bool limited = !lua_isnil(L, 1);
  scope *mine = lua_newuserdatauv(L, sizeof *mine, limited ? 1 : 0);
  mine->group = NULL;
  mine->limited = limited;
  mine->hooked = false;
  if (limited) {
    lua_insert(L, 1);
    lua_setiuservalue(L, 1, VALUE_GATE);
  }
  luaL_setmetatable(L, SCOPE_TYPE);
  mine->group = uns_group_new(uns_upvalue_runtime(L));
  return mine->group != NULL ? 1 : luaL_error(L, "not enough memory");
}

/* ---- the end ---- */

/* True for a failure that the scope has to raise: a child's, or one that nobody looked at. */
static bool counts(uns_runtime *runtime, lua_State *L, const uns_member *member) {
  uns_runtime_push_pin(runtime, L, member->pin);
  bool yes = member->is_child || uns_future_unobserved(L, lua_gettop(L));
  lua_pop(L, 1);
  return yes;
}

/*
 * Pushes a list of the failures of all members that count but `raised`, in order, and before them that of the block where it
 * is not the one to be raised.
 */
static void push_others(uns_runtime *runtime, lua_State *L, uns_group *group, const uns_member *raised,
                        bool with_block) {
  lua_Integer count = 0;
  lua_newtable(L);
  int list = lua_gettop(L);
  if (with_block) {
    uns_failure_push_raised(runtime, L, SLOT_RESULTS);
    lua_rawseti(L, list, ++count);
  }
  for (uns_link *link = group->failed.next; link != NULL && link != &group->failed; link = link->next) {
    const uns_member *member = uns_container_of(link, uns_member, link);
    if (member == raised || !counts(runtime, L, member)) continue;
    uns_runtime_push_pin(runtime, L, member->pin);
    uns_future_push_failure(L, -1);
    lua_rawseti(L, list, ++count);
    lua_settop(L, list);
  }
}

static uns_member *first_that_counts(uns_runtime *runtime, lua_State *L, const uns_group *group) {
  for (uns_link *link = group->failed.next; link != &group->failed; link = link->next) {
    uns_member *member = uns_container_of(link, uns_member, link);
    if (counts(runtime, L, member)) return member;
  }
  return NULL;
}

/* Raises the failure of `member`, with the others in it. */
static int raise_member(uns_runtime *runtime, lua_State *L, uns_group *group, const uns_member *member) {
  uns_runtime_push_pin(runtime, L, member->pin);
  uns_future_push_failure(L, -1);
  push_others(runtime, L, group, member, group->block_failed);
  uns_failure_with_others(runtime, L);
  return uns_failure_raise(runtime, L);
}

/* Raises the error on top, with the failures of members in it. */
static int raise_own(uns_runtime *runtime, lua_State *L, uns_group *group) {
  uns_failure_push_raised(runtime, L, lua_gettop(L));
  push_others(runtime, L, group, NULL, false);
  uns_failure_with_others(runtime, L);
  return uns_failure_raise(runtime, L);
}

/* All has ended: returns what the block returned, or raises the first failure. */
static int finish(lua_State *L, uns_runtime *runtime) {
  const scope *mine = lua_touserdata(L, SLOT_SCOPE);
  uns_group *group = mine->group;
  const char *stopped_by = mine->hooked ? "hook" : "await";
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  bool timed_out = group->block.scope.timed_out && !group->outside;
  uns_group_leave(group, group->block.scope.task);
  if (group->first != NULL) return raise_member(runtime, L, group, group->first);
  if (group->block_failed) {
    lua_settop(L, SLOT_RESULTS);
    return raise_own(runtime, L, group);
  }
  if (timed_out) {
    uns_cancel_push_timeout(L, NULL, stopped_by);
    return raise_own(runtime, L, group);
  }
  if (group->outside) return uns_cancel_raise_again(runtime, L, stopped_by);
  uns_member *failed = first_that_counts(runtime, L, group);
  if (failed != NULL) return raise_member(runtime, L, group, failed);
  return lua_gettop(L) - SLOT_HANDLER;
}

/* The error on top is what the block came to, if nothing else was wrong before. */
static void take_error(lua_State *L, uns_group *group) {
  if (!group->block_failed) {
    lua_replace(L, SLOT_RESULTS);
    lua_settop(L, SLOT_RESULTS);
    group->block_failed = true;
  } else {
    lua_pop(L, 1);
  }
  uns_group_cancel(group);
}

static int after_wait(lua_State *L, int status, lua_KContext context);

static int wait_for_end(lua_State *L, uns_runtime *runtime) {
  uns_group *group = ((scope *)lua_touserdata(L, SLOT_SCOPE))->group;
  uns_task *task = runtime->current;
  const uns_cancel_scope *reaching = group->draining ? NULL : uns_cancel_reaching(task);
  if (reaching != NULL) { /* everything has to end now, and that is waited for whatever comes */
    group->outside = reaching != &group->block.scope;
    uns_group_cancel(group);
    group->draining = true;
    uns_cancel_scope_enter(runtime, &group->drain, 0);
  }
  if (group->count == 0) return finish(L, runtime);
  uns_task_check_can_wait(runtime, L);
  group->waiting = task;
  task->waits_for = UNS_WAITS_SCOPE;
  task->extra->behind = &group->behind;
  return uns_task_park(runtime, L, (lua_KContext)runtime, after_wait);
}

static int after_wait(lua_State *L, int status, lua_KContext context) {
  uns_runtime *runtime = (uns_runtime *)context;
  uns_task *task = runtime->current;
  uns_group *group = ((scope *)lua_touserdata(L, SLOT_SCOPE))->group;
  (void)status;
  group->waiting = NULL;
  if (task->interrupt == UNS_INTERRUPT_ERROR) {
    luaL_checkstack(L, 2, NULL);
    uns_task_take_interrupt_error(runtime, L, task);
    if (lua_gettop(L) == SLOT_RESULTS) lua_pushvalue(L, -1); /* the block had returned nothing */
    take_error(L, group);
  }
  task->interrupt = UNS_INTERRUPT_NONE; /* a cancellation is seen by its scope */
  return wait_for_end(L, runtime);
}

static int after_block(lua_State *L, int status, lua_KContext context) {
  uns_runtime *runtime = (uns_runtime *)context;
  scope *mine = lua_touserdata(L, SLOT_SCOPE);
  uns_group *group = mine->group;
  uns_cancel_caught(runtime, L, uns_cancel_in_clean_up(runtime));
  if (status != LUA_OK && status != LUA_YIELD) {
    const uns_cancel_scope *reaching = uns_cancel_reaching(runtime->current);
    bool consequence = uns_error_is(L, -1, "cancelled") && reaching != NULL;
    if (consequence) { /* of what the scope raises itself */
      mine->hooked = strcmp(uns_cancel_stopped_by(L, -1), "hook") == 0;
      lua_settop(L, SLOT_HANDLER);
    } else {
      lua_settop(L, SLOT_RESULTS);
      lua_pushvalue(L, -1);
      take_error(L, group);
    }
  }
  return wait_for_end(L, runtime);
}

/* scope_run(scope, seconds or nil, fn) -> what fn returns, which is given the scope */
static int core_scope_run(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_group *group = check_group(L);
  uint64_t deadline_ns = uns_opt_deadline(L, 2);
  uns_task *task = uns_task_check_can_wait(runtime, L);
  if (group->ended || group->block.scope.task != NULL) return luaL_error(L, "this scope has been used");
  lua_settop(L, 3);
  lua_pushvalue(L, 1);
  if (uns_group_enter(group, task, deadline_ns) != UNS_OK) return luaL_error(L, "not enough memory");
  lua_pushcfunction(L, uns_failure_keep_traceback);
  lua_replace(L, SLOT_HANDLER);
  lua_toclose(L, SLOT_SCOPE);
  int status = lua_pcallk(L, 1, LUA_MULTRET, SLOT_HANDLER, (lua_KContext)runtime, after_block);
  return after_block(L, status, (lua_KContext)runtime);
}

/* Starts a child while the running task stands elsewhere than in the scope itself. */
static void spawn_from_elsewhere(lua_State *L, uns_runtime *runtime, uns_task *task, uns_group *group) {
  uns_group *own = task->group;
  lua_pushlightuserdata(L, runtime);
  lua_pushcclosure(L, uns_wrap_spawn, 1);
  lua_insert(L, 2);
  task->group = group; /* for this call only, which does not wait */
  int status = lua_pcall(L, lua_gettop(L) - 2, 1, 0);
  task->group = own;
  if (status != LUA_OK) lua_error(L);
}

/* scope:spawn(fn, ...) -> Future of a child */
static int scope_spawn(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (lua_touserdata(L, 1) == NULL || !lua_getmetatable(L, 1) || !lua_rawequal(L, -1, lua_upvalueindex(2))) {
    luaL_checkudata(L, 1, SCOPE_TYPE);
  }
  lua_pop(L, 1);
  scope *mine = lua_touserdata(L, 1);
  uns_group *group = mine->group;
  uns_task *task = runtime->current;
  if (!lua_isfunction(L, 2)) return luaL_typeerror(L, 2, "function");
  if (group->ended || group->block.scope.task == NULL) uns_error_raise(L, "closed", "closed: the scope has ended");
  if (task == NULL) uns_error_raise(L, "EINVAL", "no task runs here: a scope's children are started by tasks");
  uns_kind kind = UNS_KIND_IO;
  const char *name = NULL;
  if (mine->limited) {
    uns_wrapped_describe(L, 2, &kind, &name);
    lua_getiuservalue(L, 1, VALUE_GATE);
    lua_insert(L, 2);
  }
  if (task->group == group) { /* as it mostly does: nothing to put back where this fails */
    lua_remove(L, 1);
    uns_wrap_spawn(L);
  } else {
    spawn_from_elsewhere(L, runtime, task, group);
  }
  uns_future *child = lua_touserdata(L, -1);
  uns_group_make_child(group, child);
  if (mine->limited) { /* what stands in line says what will run, not that a task stands there for it */
    child->kind = (uint8_t)kind;
    child->name = name;
  }
  return 1;
}

static const luaL_Reg metamethods[] = {{"__close", scope_close}, {"__gc", scope_gc}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"scope_new", core_scope_new}, {"scope_run", core_scope_run}, {NULL, NULL}};

void uns_bind_scope(lua_State *L, uns_runtime *runtime) {
  luaL_newmetatable(L, SCOPE_TYPE);
  uns_bind_functions(L, runtime, metamethods);
  lua_newtable(L);
  lua_pushlightuserdata(L, runtime);
  lua_pushvalue(L, -3);
  lua_pushcclosure(L, scope_spawn, 2);
  lua_setfield(L, -2, "spawn");
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  uns_bind_functions(L, runtime, functions);
}
