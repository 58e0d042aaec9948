/* channel: new, send, receive, close; iteration. */
#include "bind/bind.h"
#include "core/codec.h"
#include "core/error.h"
#include "loop/channel.h"

static inline uns_channel *check_channel(lua_State *L) {
  uns_channel *channel = uns_channel_test(L, 1);
  if (channel == NULL) luaL_typeerror(L, 1, UNS_CHANNEL_TYPE);
  return channel;
}

static int raise_closed(lua_State *L) {
  return uns_error_raise(L, "closed", "closed: nobody can send on this channel any more");
}

/* ---- send ---- */

static int after_send(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task *task = runtime->current;
  uns_told told = (uns_told)task->extra->waiter.told;
  if (told != UNS_TOLD_GIVEN) uns_channel_withdraw(L, 1, &task->extra->waiter);
  uns_channel_keep(task, told);
  uns_task_check_interrupt(runtime, L);
  if (told == UNS_TOLD_CLOSED) return raise_closed(L);
  return 0;
}

/* send(item): waits while it is full; raises `closed` */
static int channel_send(lua_State *L) {
  uns_channel *channel = check_channel(L);
  uns_runtime *runtime = channel->runtime;
  if (lua_gettop(L) != 2) {
    luaL_checkany(L, 2);
    lua_settop(L, 2);
  }
  switch (uns_channel_send(runtime, L, channel, 1, 2)) {
    case UNS_CHANNEL_DONE:
      if (!uns_task_turn_is_over(runtime, L)) return 0;
      runtime->current->extra->waiter.told = UNS_TOLD_GIVEN;
      return uns_task_park(runtime, L, 0, after_send);
    case UNS_CHANNEL_CLOSED: return raise_closed(L);
    default: break;
  }
  uns_task *task = uns_task_check_can_wait(runtime, L);
  uns_channel_wait_to_send(runtime, L, 1, &task->extra->waiter, 2);
  task->waits_for = UNS_WAITS_ROOM;
  return uns_task_park(runtime, L, 0, after_send);
}

/* try_send(item) -> true, or false and "full" or "closed": never waits */
static int channel_try_send(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  check_channel(L);
  luaL_checkany(L, 2);
  lua_settop(L, 2);
  uns_channel_result result = uns_channel_try_send(runtime, L, 1, 2);
  lua_pushboolean(L, result == UNS_CHANNEL_DONE);
  if (result == UNS_CHANNEL_DONE) return 1;
  lua_pushstring(L, result == UNS_CHANNEL_WAIT ? "full" : "closed");
  return 2;
}

/* ---- receive ---- */

/* What a receiver is told: recv, the channel as an iterator, and `items`, whose last index is at 2. */
enum { AS_RECV, AS_ITERATOR, AS_ITEMS };

/* The item is on top. */
static int return_item(lua_State *L, int mode) {
  if (mode != AS_ITEMS) return 1;
  lua_pushinteger(L, lua_tointeger(L, 2) + 1);
  lua_insert(L, -2);
  return 2;
}

static int return_closed(lua_State *L, int mode) {
  lua_pushnil(L);
  if (mode != AS_RECV) return 1;
  lua_pushliteral(L, "closed");
  return 2;
}

static int after_receive(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task *task = runtime->current;
  uns_told told = (uns_told)task->extra->waiter.told;
  uns_channel_keep(task, told);
  if (uns_task_is_interrupted(task) && told == UNS_TOLD_GIVEN) uns_channel_return(runtime, L, 1, &task->extra->waiter);
  uns_task_check_interrupt(runtime, L);
  if (told != UNS_TOLD_GIVEN) return return_closed(L, (int)context);
  uns_channel_take(L, 1, &task->extra->waiter);
  return return_item(L, (int)context);
}

/* It has an item already, on top, but it has let others run. */
static int after_turn(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (uns_task_is_interrupted(runtime->current)) uns_channel_put_back(runtime, L, 1);
  uns_task_check_interrupt(runtime, L);
  return return_item(L, (int)context);
}

static int receive(lua_State *L, int mode) {
  uns_channel *channel = check_channel(L);
  uns_runtime *runtime = channel->runtime;
  switch (uns_channel_receive(runtime, L, channel, 1)) {
    case UNS_CHANNEL_DONE:
      if (uns_task_turn_is_over(runtime, L)) return uns_task_park(runtime, L, mode, after_turn);
      return return_item(L, mode);
    case UNS_CHANNEL_CLOSED: return return_closed(L, mode);
    default: break;
  }
  uns_task *task = uns_task_check_can_wait(runtime, L);
  uns_channel_wait_to_receive(runtime, L, 1, &task->extra->waiter);
  task->waits_for = UNS_WAITS_ITEM;
  return uns_task_park(runtime, L, mode, after_receive);
}

/* What else may lie on the stack is in nobody's way. */

/* recv() -> item, or nil and "closed" */
static int channel_recv(lua_State *L) { return receive(L, AS_RECV); }

/* for item in channel: ends at nil, or when it is closed and empty */
static int channel_call(lua_State *L) { return receive(L, AS_ITERATOR); }

static int next_item(lua_State *L) {
  luaL_checkinteger(L, 2);
  return receive(L, AS_ITEMS);
}

/* for i, item in channel:items(): nil is an item */
static int channel_items(lua_State *L) {
  check_channel(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, next_item, 1);
  lua_pushvalue(L, 1);
  lua_pushinteger(L, 0);
  return 3;
}

/* try_recv() -> true and the item, or false and "empty" or "closed": never waits */
static int channel_try_recv(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  check_channel(L);
  lua_settop(L, 1);
  uns_channel_result result = uns_channel_try_receive(runtime, L, 1);
  lua_pushboolean(L, result == UNS_CHANNEL_DONE);
  if (result == UNS_CHANNEL_DONE) lua_insert(L, -2);
  else lua_pushstring(L, result == UNS_CHANNEL_WAIT ? "empty" : "closed");
  return 2;
}

/* ---- the rest ---- */

/* close(): no more items; what is in it can still be received */
static int channel_close(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_channel_close(runtime, L, check_channel(L));
  return 0;
}

static int channel_tostring(lua_State *L) {
  uns_channel_state state;
  uns_channel_look(check_channel(L), &state);
  lua_pushfstring(L, "channel: %d of %d items%s", (int)state.count, (int)state.capacity,
                  state.closed ? ", closed" : "");
  return 1;
}

/* channel([capacity]) -> Channel: without a capacity, or with 0, each item is handed over from hand to hand */
static int core_channel(lua_State *L) {
  lua_Integer capacity = luaL_optinteger(L, 1, 0);
  luaL_argcheck(L, capacity >= 0, 1, "a capacity must not be negative");
  luaL_argcheck(L, capacity <= UNS_CHANNEL_MAX, 1, "capacity out of range: 1073741824 items are the most");
  uns_channel_push(L, uns_upvalue_runtime(L), (size_t)capacity);
  return 1;
}

/* ---- crossing ---- */

static int cross_encode(lua_State *L, int index) {
  uns_shared_channel *shared = uns_channel_share(uns_runtime_of(L), L, index);
  if (shared == NULL) return -1; /* with the reason */
  lua_pushlightuserdata(L, uns_shared_ref(shared));
  return 1;
}

static int cross_create(lua_State *L, uns_shared *shared) {
  if (shared == NULL || shared->class->kind != UNS_SHARED_CHANNEL) return -1;
  uns_channel_push_shared(uns_runtime_of(L), L, uns_container_of(shared, uns_shared_channel, base));
  return 0;
}

static int cross_fill(lua_State *L, int object, int count) {
  (void)object;
  lua_pop(L, count);
  return count == 1 ? 0 : -1;
}

static const uns_codec_class cross = {UNS_CHANNEL_TYPE, cross_encode, cross_create, cross_fill};

static const luaL_Reg methods[] = {{"send", channel_send},
                                   {"try_send", channel_try_send},
                                   {"recv", channel_recv},
                                   {"try_recv", channel_try_recv},
                                   {"items", channel_items},
                                   {"close", channel_close},
                                   {NULL, NULL}};
static const luaL_Reg metamethods[] = {
    {"__call", channel_call}, {"__close", channel_close}, {"__tostring", channel_tostring}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"channel", core_channel}, {NULL, NULL}};

void uns_bind_channel(lua_State *L, uns_runtime *runtime) {
  uns_bind_functions(L, runtime, functions);
  uns_channel_open(L);
  uns_codec_register(L, -1, &cross);
  uns_bind_functions(L, runtime, metamethods);
  lua_newtable(L);
  uns_bind_functions(L, runtime, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
