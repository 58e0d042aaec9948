#include "loop/future.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "core/codec.h"
#include "core/weak.h"
#include "loop/cancel.h"
#include "loop/failure.h"
#include "loop/task.h"

/* Registry keys, by address. */
static const char companions_key = 0; /* future -> companion, weak keys: what must end with a future */
static const char untold_key = 0;     /* a list of settled futures whose cells are still to be told */
static const char no_memory_key = 0;  /* a failure for where there is no memory to make one */
static const char by_cell_key = 0;    /* cell -> future, weak values: the future of this state that stands for it */

const char uns_future_mark = 0;

#define COMPANION_TYPE "unsync.FutureCompanion"

/* The reference to a cell, and our ear on it. It may outlive the userdata that made it: the notice may be under way. */
typedef struct companion {
  uns_cell_watcher watcher;
  uns_cell *cell; /* one reference */
  bool watching, orphaned;
} companion;

static const char *const kind_names[] = {"io", "thread", "cpu", "promise"};
static const char *const state_names[] = {"pending", "running", "done", "failed", "cancelled"};

const char *uns_future_kind_name(const uns_future *future) { return kind_names[future->kind]; }
const char *uns_future_state_name(const uns_future *future) { return state_names[future->state]; }

/* ---- the userdata ---- */

static int companion_gc(lua_State *L) {
  companion **slot = luaL_testudata(L, 1, COMPANION_TYPE);
  if (slot == NULL) return 0;
  companion *mine = *slot;
  *slot = NULL;
  if (mine == NULL) return 0;
  /* Where the whole state ends, the future may still be used: by a finalizer of the script's that comes later. */
  lua_getiuservalue(L, 1, 1);
  uns_future *future = lua_touserdata(L, -1);
  if (future != NULL && future->cell == mine->cell) future->cell = NULL;
  bool told = mine->watching && !uns_cell_unwatch(mine->cell, &mine->watcher);
  uns_shared_unref(mine->cell);
  mine->cell = NULL;
  if (told) mine->orphaned = true; /* freed when the notice arrives */
  else uns_free(mine);
  return 0;
}

static void weak_table(lua_State *L, const void *key, const char *mode) {
  uns_weak_push(L, mode);
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

void uns_future_open(lua_State *L, uns_runtime *runtime) {
  weak_table(L, &companions_key, "k");
  weak_table(L, &by_cell_key, "v");
  uns_failure_open(L, runtime);
  lua_pushliteral(L, "not enough memory");
  lua_pushnil(L);
  uns_failure_push(runtime, L, UNS_KIND_IO, NULL);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &no_memory_key);
  luaL_newmetatable(L, COMPANION_TYPE);
  lua_pushcfunction(L, companion_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newmetatable(L, UNS_FUTURE_TYPE);
  lua_pushvalue(L, -1);
  runtime->future_class_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

uns_future *uns_future_push(uns_runtime *runtime, lua_State *L, uns_kind kind, const char *name) {
  uns_future *future = lua_newuserdatauv(L, sizeof *future, 1);
  *future = (uns_future){.mark = &uns_future_mark, .state = UNS_FUTURE_PENDING, .kind = (uint8_t)kind, .name = name};
  uns_list_init(&future->waiters);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->future_class_ref);
  lua_setmetatable(L, -2);
  return future;
}

/* ---- settling ---- */

void uns_future_add_waiter(uns_future *future, uns_waiter *waiter) {
  uns_list_push_back(&future->waiters, &waiter->link);
}

void uns_future_remove_waiter(uns_waiter *waiter) { uns_list_remove(&waiter->link); }

static void wake_waiters(uns_runtime *runtime, uns_future *future) {
  uns_link *link;
  while ((link = uns_list_pop_front(&future->waiters)) != NULL) {
    uns_waiter *waiter = uns_container_of(link, uns_waiter, link);
    waiter->wake(waiter, runtime, future);
  }
}

/* Encodes results, or an error and its traceback. False with an error object pushed. */
static bool encode_outcome(uns_runtime *runtime, lua_State *L, int index, uns_packet *packet) {
  static const uns_codec_names names = {"result", 1, false}, error_names = {"error", 0, false};
  uns_future *future = lua_touserdata(L, index);
  int top = lua_gettop(L);
  bool failed = future->state != UNS_FUTURE_DONE;
  int count;
  if (failed) {
    lua_getiuservalue(L, index, 1);
    lua_getiuservalue(L, -1, UNS_FAILURE_ERROR);
    lua_getiuservalue(L, -2, UNS_FAILURE_TRACEBACK);
    lua_remove(L, -3);
    count = 2;
  } else {
    count = uns_future_push_outcome(runtime, L, index);
  }
  bool fine = uns_codec_encode(L, top + 1, count, failed ? &error_names : &names, packet) == UNS_OK;
  if (!fine) lua_replace(L, top + 1);
  lua_settop(L, fine ? top : top + 1);
  return fine;
}

/* An error that comes with others crosses alone where they cannot. */
static bool encode_without_others(uns_runtime *runtime, lua_State *L, int index, uns_packet *packet) {
  const uns_future *future = lua_touserdata(L, index);
  if (future->state == UNS_FUTURE_DONE) return false;
  int top = lua_gettop(L);
  lua_getiuservalue(L, index, 1);
  lua_getiuservalue(L, -1, UNS_FAILURE_ERROR);
  bool fine = false;
  if (lua_istable(L, -1) && (lua_pushliteral(L, "others"), lua_rawget(L, -2)) == LUA_TTABLE) {
    lua_pushliteral(L, "others");
    lua_pushnil(L);
    lua_rawset(L, -4);
    fine = encode_outcome(runtime, L, index, packet);
    if (!fine) lua_pop(L, 1);
    lua_pushliteral(L, "others");
    lua_pushvalue(L, -2);
    lua_rawset(L, -4);
  }
  lua_settop(L, top);
  return fine;
}

uns_future_state uns_future_encode(uns_runtime *runtime, lua_State *L, int index, uns_packet *packet) {
  static const uns_codec_names names = {"error", 0, false};
  uns_future *future = lua_touserdata(L, index);
  luaL_checkstack(L, 8, NULL);
  if (encode_outcome(runtime, L, index, packet)) return (uns_future_state)future->state;
  if (encode_without_others(runtime, L, index, packet)) {
    lua_pop(L, 1);
    return (uns_future_state)future->state;
  }
  int top = lua_gettop(L); /* why it cannot cross is what the others get instead */
  lua_pushnil(L);
  if (uns_codec_encode(L, top, 2, &names, packet) != UNS_OK) uns_packet_clear(packet);
  lua_settop(L, top - 1);
  return UNS_FUTURE_FAILED;
}

/* ---- telling the cells ---- */

/* Tells the cell of the future at `index`, which settled here, how it ended. */
static void tell_cell(uns_runtime *runtime, lua_State *L, int index) {
  static const uns_cell_state states[] = {UNS_CELL_PENDING, UNS_CELL_PENDING, UNS_CELL_DONE, UNS_CELL_FAILED,
                                          UNS_CELL_CANCELLED};
  uns_future *future = lua_touserdata(L, index);
  uns_packet packet;
  uns_packet_init(&packet);
  uns_future_state state = uns_future_encode(runtime, L, index, &packet);
  uns_cell_settle(future->cell, states[state], &packet);
}

/* tell_all(future): its cell, and then those of the settled futures that came up meanwhile, in its outcome and in theirs. */
static int tell_all(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &untold_key);
  tell_cell(runtime, L, 1);
  while (runtime->told < runtime->untold) {
    lua_rawgeti(L, 2, (lua_Integer)runtime->told + 1);
    tell_cell(runtime, L, 3);
    lua_settop(L, 2);
    lua_pushnil(L);
    lua_rawseti(L, 2, (lua_Integer)++runtime->told);
  }
  return 0;
}

static void settle_with_nothing(uns_cell *cell) {
  uns_packet nothing;
  uns_packet_init(&nothing);
  uns_cell_settle(cell, UNS_CELL_FAILED, &nothing);
}

/* There was no memory to tell them how they ended: that is what they are told. */
static void give_up_telling(uns_runtime *runtime, lua_State *L, int index) {
  const uns_future *future = lua_touserdata(L, index);
  settle_with_nothing(future->cell);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &untold_key) == LUA_TTABLE) {
    for (; runtime->told < runtime->untold; runtime->told++) {
      lua_rawgeti(L, -1, (lua_Integer)runtime->told + 1);
      future = lua_touserdata(L, -1);
      if (future != NULL) settle_with_nothing(future->cell);
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

/* stand_in_line(future) */
static int stand_in_line(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &untold_key);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, (lua_Integer)runtime->untold + 1);
  runtime->untold++;
  return 0;
}

/*
 * The future at `index` has settled, and has a cell. Where another one is being told, it stands in line: each may hold the
 * next, in a chain of any length. Never raises.
 */
static void tell(uns_runtime *runtime, lua_State *L, int index) {
  index = lua_absindex(L, index);
  bool fine = lua_checkstack(L, 4);
  if (runtime->telling) {
    if (fine) {
      lua_pushcfunction(L, stand_in_line);
      lua_pushvalue(L, index);
      fine = lua_pcall(L, 1, 0, 0) == LUA_OK;
      if (!fine) lua_pop(L, 1);
    }
    if (!fine) settle_with_nothing(((uns_future *)lua_touserdata(L, index))->cell);
    return;
  }
  runtime->telling = true;
  runtime->told = runtime->untold = 0;
  if (fine) {
    lua_pushcfunction(L, tell_all);
    lua_pushvalue(L, index);
    fine = lua_pcall(L, 1, 0, 0) == LUA_OK;
    if (!fine) {
      give_up_telling(runtime, L, index);
      lua_pop(L, 1);
    }
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &untold_key);
  } else {
    settle_with_nothing(((uns_future *)lua_touserdata(L, index))->cell);
  }
  runtime->telling = false;
}

/* The outcome is in place: tells everybody. */
static inline void settled(uns_runtime *runtime, lua_State *L, int index, uns_future *future, uns_future_state state) {
  future->state = (uint8_t)state;
  future->task = NULL;
  future->job = NULL;
  if (!uns_list_empty(&future->waiters)) wake_waiters(runtime, future);
  if (future->cell != NULL && !future->foreign) tell(runtime, L, index);
}

/* The `count` results on top become one value, as by table.pack. */
static __attribute__((noinline)) void pack(lua_State *L, int count) {
  lua_createtable(L, count, 1);
  lua_insert(L, -count - 1);
  for (int i = count; i >= 1; i--) lua_rawseti(L, -i - 1, i);
  lua_pushinteger(L, count);
  lua_setfield(L, -2, "n");
}

void uns_future_resolve_pending(uns_runtime *runtime, lua_State *L, int index, uns_future *future, int count) {
  if (count > 0) {
    if (count > 1) pack(L, count);
    lua_setiuservalue(L, index, 1);
    future->result_count = count == 1 ? 1 : UNS_FUTURE_PACKED;
  }
  settled(runtime, L, index, future, UNS_FUTURE_DONE);
}

bool uns_future_resolve(uns_runtime *runtime, lua_State *L, int index, int count) {
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future)) {
    lua_pop(L, count);
    return false;
  }
  uns_future_resolve_pending(runtime, L, lua_absindex(L, index), future, count);
  return true;
}

/* The failure on top of L is that of the future at `index`, which has crossed. */
static void share_failure(lua_State *L, int index) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &companions_key);
  lua_pushvalue(L, index);
  lua_rawget(L, -2);
  lua_remove(L, -2);
  uns_failure_share(L, ((uns_future *)lua_touserdata(L, index))->cell);
}

bool uns_future_fail(uns_runtime *runtime, lua_State *L, int index, uns_future_state state) {
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future)) {
    lua_pop(L, 2);
    return false;
  }
  index = lua_absindex(L, index);
  luaL_checkstack(L, 6, NULL);
  uns_failure_push(runtime, L, future->kind, future->name)->site = future->site;
  if (future->cell != NULL) share_failure(L, index);
  if (state == UNS_FUTURE_FAILED && !future->expected) uns_failure_list(runtime, L);
  lua_setiuservalue(L, index, 1);
  settled(runtime, L, index, future, state);
  return true;
}

void uns_future_fail_without_memory(uns_runtime *runtime, lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future) || !lua_checkstack(L, 4)) return;
  index = lua_absindex(L, index);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &no_memory_key);
  lua_setiuservalue(L, index, 1);
  settled(runtime, L, index, future, UNS_FUTURE_FAILED);
}

/* try_to_fail(future, error, state) */
static int try_to_fail(lua_State *L) {
  uns_future_state state = (uns_future_state)lua_tointeger(L, 3);
  lua_settop(L, 2);
  lua_pushnil(L);
  uns_future_fail(uns_runtime_of(L), L, 1, state);
  return 0;
}

void uns_future_fail_safely(uns_runtime *runtime, lua_State *L, int index, uns_future_state state) {
  index = lua_absindex(L, index);
  bool fine = lua_checkstack(L, 4);
  if (fine) {
    lua_pushcfunction(L, try_to_fail);
    lua_pushvalue(L, index);
    lua_rotate(L, -3, -1);
    lua_pushinteger(L, state);
    fine = lua_pcall(L, 3, 0, 0) == LUA_OK;
  }
  if (fine) return;
  uns_future_fail_without_memory(runtime, L, index);
  lua_pop(L, 1);
}

/* ---- the outcome ---- */

static uns_failure *push_failure(lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  if (future->state != UNS_FUTURE_FAILED && future->state != UNS_FUTURE_CANCELLED) return NULL;
  lua_getiuservalue(L, index, 1);
  return lua_touserdata(L, -1);
}

void uns_future_push_failure(lua_State *L, int index) { uns_failure_observe(push_failure(L, index)); }

void uns_future_observe(uns_runtime *runtime, lua_State *L, int index) {
  (void)runtime;
  uns_failure *failure = push_failure(L, index);
  if (failure == NULL) return;
  uns_failure_observe(failure);
  lua_pop(L, 1);
}

bool uns_future_unobserved(lua_State *L, int index) {
  const uns_failure *failure = push_failure(L, index);
  if (failure == NULL) return false;
  lua_pop(L, 1);
  return !uns_failure_observed(failure);
}

int uns_future_push_outcome(uns_runtime *runtime, lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  if (future->state == UNS_FUTURE_DONE) {
    if (future->result_count == 0) return 0;
    lua_getiuservalue(L, index, 1);
    if (future->result_count == 1) return 1;
    lua_getfield(L, -1, "n");
    int count = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    luaL_checkstack(L, count, "too many results");
    int packed = lua_gettop(L);
    for (int i = 1; i <= count; i++) lua_rawgeti(L, packed, i);
    lua_remove(L, packed);
    return count;
  }
  uns_failure_observe(push_failure(L, index));
  return uns_failure_raise(runtime, L);
}

/* Pushes one of the failure's values, or nil: there is none. Whoever asks has looked at it. */
static void push_of_failure(lua_State *L, int index, int value) {
  uns_failure *failure = push_failure(L, index);
  if (failure == NULL) {
    lua_pushnil(L);
    return;
  }
  uns_failure_observe(failure);
  lua_getiuservalue(L, -1, value);
  lua_remove(L, -2);
}

void uns_future_push_error(uns_runtime *runtime, lua_State *L, int index) {
  (void)runtime;
  push_of_failure(L, index, UNS_FAILURE_ERROR);
}

void uns_future_push_traceback(uns_runtime *runtime, lua_State *L, int index) {
  (void)runtime;
  push_of_failure(L, index, UNS_FAILURE_TRACEBACK);
}

/* ---- across threads ---- */

uns_future *uns_future_push_known(lua_State *L, const uns_cell *cell) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &by_cell_key);
  lua_rawgetp(L, -1, cell);
  lua_remove(L, -2);
  uns_future *future = lua_touserdata(L, -1);
  if (future == NULL) lua_pop(L, 1);
  return future;
}

/* take_over(future) */
static int take_over(lua_State *L) {
  const uns_future *future = lua_touserdata(L, 1);
  uns_future_settle_from_packet(uns_runtime_of(L), L, 1, (int)future->cell->state, &future->cell->outcome);
  return 0;
}

/* The cell has settled elsewhere: the future of this state takes over the outcome. */
static void on_cell_settled(uns_mail *mail, void *receiver) {
  companion *mine = uns_container_of(uns_container_of(mail, uns_cell_watcher, mail), companion, watcher);
  uns_runtime *runtime = receiver;
  mine->watching = false;
  if (mine->orphaned) {
    uns_free(mine);
    return;
  }
  if (runtime == NULL) return; /* the state is closing: the companion goes with its userdata */
  lua_State *L = runtime->L;
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 5)) return;
  const uns_future *future = uns_future_push_known(L, mine->cell);
  if (future != NULL && !uns_future_settled(future)) {
    lua_pushcfunction(L, take_over);
    lua_pushvalue(L, top + 1);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) uns_future_fail_without_memory(runtime, L, top + 1);
  }
  lua_settop(L, top);
}

void uns_future_settle_from_packet(uns_runtime *runtime, lua_State *L, int index, int cell_state,
                                   const uns_packet *packet) {
  int top = lua_gettop(L);
  int count = uns_codec_decode(L, packet);
  if (count < 0) { /* the error object is on the stack */
    lua_pushnil(L);
    uns_future_fail(runtime, L, index, UNS_FUTURE_FAILED);
  } else if (cell_state == UNS_CELL_DONE) {
    uns_future_resolve(runtime, L, index, count);
  } else {
    lua_settop(L, top + 2);
    uns_future_fail(runtime, L, index, cell_state == UNS_CELL_CANCELLED ? UNS_FUTURE_CANCELLED : UNS_FUTURE_FAILED);
  }
  lua_settop(L, top);
}

/* Gives the future at `index` a companion, which has no cell yet. */
static companion *add_companion(uns_runtime *runtime, lua_State *L, int index) {
  companion **slot = lua_newuserdatauv(L, sizeof *slot, 1);
  *slot = NULL;
  lua_pushvalue(L, index);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, COMPANION_TYPE);
  companion *mine = uns_calloc(1, sizeof *mine);
  if (mine == NULL) {
    luaL_error(L, "not enough memory");
    return NULL;
  }
  mine->watcher.mail.deliver = on_cell_settled;
  mine->watcher.mailbox = runtime->mailbox;
  *slot = mine;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &companions_key);
  lua_pushvalue(L, index);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 2);
  return mine;
}

/* Ties `cell` (one reference, taken over) to the future at `index`, whose companion has it before anything can raise. */
static void tie_cell(lua_State *L, int index, companion *mine, uns_cell *cell) {
  mine->cell = cell;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &by_cell_key);
  lua_pushvalue(L, index);
  lua_rawsetp(L, -2, cell);
  lua_pop(L, 1);
  ((uns_future *)lua_touserdata(L, index))->cell = cell;
}

uns_cell *uns_future_share(uns_runtime *runtime, lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  if (future->cell != NULL) return future->cell;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 12, NULL);
  companion *mine = add_companion(runtime, L, index);
  uns_cell *cell = uns_cell_new();
  if (cell == NULL) return NULL; /* a companion without one does nothing */
  cell->task = future->task;
  cell->job = future->job;
  cell->by_task = !future->resolvable;
  const uns_cell_workplace here = {.mailbox = runtime->mailbox, .deliver = uns_cancel_on_stop};
  if (cell->by_task) uns_cell_set_workplace(cell, &here);
  tie_cell(L, index, mine, cell);
  uns_failure *failure = push_failure(L, index);
  if (failure != NULL) {
    share_failure(L, index);
    if (uns_failure_observed(failure)) uns_failure_observe(failure);
    lua_pop(L, 1);
  }
  if (uns_future_settled(future)) {
    tell(runtime, L, index);
  } else if (future->resolvable) { /* somebody else may settle it */
    mine->watching = true;
    uns_cell_watch(cell, &mine->watcher);
  }
  return cell;
}

uns_future *uns_future_push_shared(uns_runtime *runtime, lua_State *L, uns_cell *cell) {
  luaL_checkstack(L, 12, NULL);
  uns_future *future = uns_future_push_known(L, cell);
  if (future != NULL) return future;
  future = uns_future_push(runtime, L, UNS_KIND_PROMISE, NULL);
  future->foreign = true;
  companion *mine = add_companion(runtime, L, lua_gettop(L));
  tie_cell(L, lua_gettop(L), mine, uns_shared_ref(cell));
  mine->watching = true;
  uns_cell_watch(cell, &mine->watcher);
  return future;
}

void uns_future_refresh(uns_runtime *runtime, lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future) || future->cell == NULL) return;
  uns_cell_state state = uns_cell_peek(future->cell);
  if (state == UNS_CELL_PENDING) return;
  luaL_checkstack(L, 12, NULL);
  uns_future_settle_from_packet(runtime, L, lua_absindex(L, index), (int)state, &future->cell->outcome);
}

int uns_future_settle_shared(uns_runtime *runtime, lua_State *L, int index, uns_cell_state state, uns_packet *packet) {
  uns_future *future = lua_touserdata(L, index);
  if (!uns_cell_settle(future->cell, state, packet)) return 0;
  if (!uns_future_settled(future)) {
    bool foreign = future->foreign;
    future->foreign = true; /* the cell knows already */
    uns_future_settle_from_packet(runtime, L, index, (int)state, &future->cell->outcome);
    future->foreign = foreign;
  }
  return 1;
}
