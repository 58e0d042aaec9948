#include "loop/channel.h"

#include <lauxlib.h>

#include "loop/channel_shared.h"

enum {
  SIZE_FIRST = 8, /* places of the smallest ring */
  VALUE_TABLE = UNS_CHANNEL_VALUE_TABLE,
  VALUE_HELD = UNS_CHANNEL_VALUE_HELD
};

const char uns_channel_mark = 0;
static const char nil_item = 0; /* stands in the ring for nil, so that every place of it is taken once and for all */

void uns_channel_open(lua_State *L) {
  uns_shared_open(L);
  luaL_newmetatable(L, UNS_CHANNEL_TYPE);
}

uns_channel *uns_channel_push_new(uns_runtime *runtime, lua_State *L, size_t capacity) {
  uns_channel *channel = lua_newuserdatauv(L, sizeof *channel, VALUE_HELD);
  *channel = (uns_channel){.mark = &uns_channel_mark, .runtime = runtime, .capacity = capacity};
  uns_list_init(&channel->receivers);
  uns_list_init(&channel->senders);
  lua_newtable(L);
  lua_setiuservalue(L, -2, VALUE_TABLE);
  luaL_setmetatable(L, UNS_CHANNEL_TYPE);
  return channel;
}

void uns_channel_push(lua_State *L, uns_runtime *runtime, size_t capacity) {
  uns_channel_push_new(runtime, L, capacity);
}

/* ---- the ring; the channel's table lies at `table` ---- */

static lua_Integer place(const uns_channel *channel, size_t number) {
  return (lua_Integer)((channel->first + number) & (channel->size - 1)) + 1;
}

/* Room for one more: twice the size. The items that would be wrong in the larger ring are moved to its new half. */
static void grow(uns_channel *channel, lua_State *L, int table) {
  if (channel->count < channel->size) return;
  size_t old = channel->size, size = old == 0 ? SIZE_FIRST : 2 * old;
  for (size_t i = old + 1; i <= size; i++) { /* all of it now: later nothing can fail, and it is an array */
    lua_pushboolean(L, false);
    lua_rawseti(L, table, (lua_Integer)i);
  }
  for (size_t i = 0; i < channel->first; i++) { /* full: so these are the last ones */
    lua_rawgeti(L, table, (lua_Integer)i + 1);
    lua_rawseti(L, table, (lua_Integer)(old + i) + 1);
  }
  channel->size = size;
}

static void set(lua_State *L, int table, lua_Integer at) {
  if (lua_type(L, -1) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushlightuserdata(L, (void *)&nil_item);
  }
  lua_rawseti(L, table, at);
}

/* The value on top (popped) becomes the last; there is room. */
static void put_last(uns_channel *channel, lua_State *L, int table) {
  set(L, table, place(channel, channel->count));
  channel->count++;
}

/* Pushes what lies at `at`. Returns its type. */
static int push_at(lua_State *L, int table, lua_Integer at) {
  int type = lua_rawgeti(L, table, at);
  if (type != LUA_TLIGHTUSERDATA || lua_touserdata(L, -1) != &nil_item) return type;
  lua_pop(L, 1);
  lua_pushnil(L);
  return LUA_TNIL;
}

void uns_channel_push_item(lua_State *L, int channel, size_t number) {
  lua_getiuservalue(L, channel, VALUE_TABLE);
  push_at(L, lua_gettop(L), place(lua_touserdata(L, channel), number));
  lua_remove(L, -2);
}

/* Above the table, which is on top. */
static void push_first(uns_channel *channel, lua_State *L) {
  lua_Integer at = place(channel, 0);
  if (push_at(L, -1, at) >= LUA_TSTRING) { /* nothing is kept alive by having been here */
    lua_pushboolean(L, false);
    lua_rawseti(L, -3, at);
  }
  channel->first = (channel->first + 1) & (channel->size - 1);
  channel->count--;
}

/* ---- what lies there for a waiter ---- */

/* The value on top (popped) is kept for `waiter`. Raises without memory. */
static void hold(uns_channel *mine, lua_State *L, int channel, const uns_waiter *waiter) {
  if (mine->held == NULL) {
    mine->held = waiter;
    lua_setiuservalue(L, channel, VALUE_HELD);
    return;
  }
  lua_getiuservalue(L, channel, VALUE_TABLE);
  lua_insert(L, -2);
  lua_rawsetp(L, -2, waiter);
  lua_pop(L, 1);
}

/* Pushes it, and keeps it no longer. */
static void push_held(uns_channel *mine, lua_State *L, int channel, const uns_waiter *waiter) {
  if (mine->held == waiter) {
    mine->held = NULL;
    lua_getiuservalue(L, channel, VALUE_HELD);
    lua_pushnil(L);
    lua_setiuservalue(L, channel, VALUE_HELD);
    return;
  }
  lua_getiuservalue(L, channel, VALUE_TABLE);
  lua_rawgetp(L, -1, waiter);
  lua_pushnil(L);
  lua_rawsetp(L, -3, waiter);
  lua_remove(L, -2);
}

void uns_channel_push_offer(lua_State *L, int channel, const uns_waiter *waiter) {
  const uns_channel *mine = lua_touserdata(L, channel);
  if (mine->held == waiter) {
    lua_getiuservalue(L, channel, VALUE_HELD);
    return;
  }
  lua_getiuservalue(L, channel, VALUE_TABLE);
  lua_rawgetp(L, -1, waiter);
  lua_remove(L, -2);
}

/* ---- sending and receiving ---- */

/* The waiter's choice, if it has one that others know, falls on it. False: it has been served elsewhere. */
static inline bool take_choice(uns_waiter *waiter) {
  return waiter->choice == NULL || *waiter->choice == NULL || uns_choice_take(*waiter->choice);
}

/* The first in line that can be served. NULL: nobody. */
static inline uns_waiter *first_in(const uns_link *line) {
  for (;;) {
    uns_waiter *waiter = uns_waiter_first(line);
    if (waiter == NULL || take_choice(waiter)) return waiter;
    uns_list_remove(&waiter->link); /* the news is on its way to it */
  }
}

/* Gives the value on top (popped) to the first receiver. False, and it is still there: there is none. Raises without
   memory; then nobody has it, and no choice has been taken. */
static inline bool give(uns_channel *mine, uns_runtime *runtime, lua_State *L, int channel) {
  uns_waiter *receiver;
  while ((receiver = uns_waiter_first(&mine->receivers)) != NULL) {
    hold(mine, L, channel, receiver);
    if (take_choice(receiver)) {
      uns_waiter_tell(receiver, runtime, UNS_TOLD_GIVEN);
      return true;
    }
    push_held(mine, L, channel, receiver);
    uns_list_remove(&receiver->link);
  }
  return false;
}

/* It is not simply open. */
static uns_channel_result refuse(lua_State *L) {
  luaL_error(L, "this channel is being sent to another state just now");
  return UNS_CHANNEL_CLOSED;
}

static uns_channel_result send_otherwise(lua_State *L, uns_channel *mine, int value, bool now) {
  if (mine->mode == UNS_CHANNEL_IS_SHARED) return uns_shared_send(L, mine, value, now);
  return mine->mode == UNS_CHANNEL_IS_SHUT ? UNS_CHANNEL_CLOSED : refuse(L);
}

static uns_channel_result receive_otherwise(lua_State *L, uns_channel *mine, bool now) {
  if (mine->mode == UNS_CHANNEL_IS_SHARED) return uns_shared_receive(L, mine, now);
  return mine->mode == UNS_CHANNEL_IS_SHUT ? UNS_CHANNEL_CLOSED : refuse(L);
}

uns_channel_result uns_channel_send(uns_runtime *runtime, lua_State *L, uns_channel *mine, int channel, int value) {
  if (mine->mode != UNS_CHANNEL_IS_OPEN) return send_otherwise(L, mine, value, false);
  if (!uns_list_empty(&mine->receivers)) {
    lua_pushvalue(L, value);
    if (give(mine, runtime, L, channel)) return UNS_CHANNEL_DONE;
  }
  if (mine->count >= mine->capacity) return UNS_CHANNEL_WAIT;
  lua_getiuservalue(L, channel, VALUE_TABLE);
  if (mine->count == mine->size) grow(mine, L, lua_gettop(L));
  lua_pushvalue(L, value);
  put_last(mine, L, -2);
  return UNS_CHANNEL_DONE;
}

uns_channel_result uns_channel_try_send(uns_runtime *runtime, lua_State *L, int channel, int value) {
  uns_channel *mine = lua_touserdata(L, channel);
  if (mine->mode != UNS_CHANNEL_IS_OPEN) return send_otherwise(L, mine, value, true);
  int top = lua_gettop(L);
  uns_channel_result result = uns_channel_send(runtime, L, mine, channel, value);
  lua_settop(L, top);
  return result;
}

uns_channel_result uns_channel_receive(uns_runtime *runtime, lua_State *L, uns_channel *mine, int channel) {
  if (mine->count == 0) { /* from hand to hand */
    uns_waiter *sender = first_in(&mine->senders);
    if (sender == NULL) {
      return mine->mode == UNS_CHANNEL_IS_OPEN ? UNS_CHANNEL_WAIT : receive_otherwise(L, mine, false);
    }
    push_held(mine, L, channel, sender);
    uns_waiter_tell(sender, runtime, UNS_TOLD_GIVEN);
    return UNS_CHANNEL_DONE;
  }
  lua_getiuservalue(L, channel, VALUE_TABLE);
  push_first(mine, L);
  if (mine->count < mine->capacity && !uns_list_empty(&mine->senders)) {
    uns_waiter *sender = first_in(&mine->senders);
    if (sender != NULL) { /* the first in line moves up into the ring */
      push_held(mine, L, channel, sender);
      put_last(mine, L, -3);
      uns_waiter_tell(sender, runtime, UNS_TOLD_GIVEN);
    }
  }
  return UNS_CHANNEL_DONE;
}

uns_channel_result uns_channel_try_receive(uns_runtime *runtime, lua_State *L, int channel) {
  uns_channel *mine = lua_touserdata(L, channel);
  if (mine->mode == UNS_CHANNEL_IS_SHARED) return uns_shared_receive(L, mine, true);
  int top = lua_gettop(L);
  uns_channel_result result = uns_channel_receive(runtime, L, mine, channel);
  if (lua_gettop(L) > top + 1) lua_replace(L, top + 1);
  return result;
}

void uns_channel_close(uns_runtime *runtime, lua_State *L, uns_channel *channel) {
  if (channel->mode == UNS_CHANNEL_IS_SHARED) {
    uns_shared_channel_close(channel->shared);
    return;
  }
  if (channel->mode == UNS_CHANNEL_IS_CROSSING) refuse(L);
  channel->mode = UNS_CHANNEL_IS_SHUT;
  uns_waiter *waiter;
  while ((waiter = first_in(&channel->senders)) != NULL) uns_waiter_tell(waiter, runtime, UNS_TOLD_CLOSED);
  while ((waiter = first_in(&channel->receivers)) != NULL) uns_waiter_tell(waiter, runtime, UNS_TOLD_CLOSED);
}

void uns_channel_look(const uns_channel *channel, uns_channel_state *state) {
  if (channel->mode == UNS_CHANNEL_IS_SHARED) {
    uns_shared_channel_look(channel->shared, state);
    return;
  }
  *state = (uns_channel_state){
      .capacity = channel->capacity, .count = channel->count, .closed = channel->mode == UNS_CHANNEL_IS_SHUT};
}

/* ---- waiting ---- */

void uns_channel_wait_to_send(uns_runtime *runtime, lua_State *L, int channel, uns_waiter *waiter, int value) {
  uns_channel *mine = lua_touserdata(L, channel);
  waiter->told = UNS_TOLD_NONE;
  if (mine->mode == UNS_CHANNEL_IS_SHARED) {
    uns_shared_wait(runtime, L, mine, waiter, true, value);
    return;
  }
  lua_pushvalue(L, value);
  hold(mine, L, channel, waiter);
  uns_list_push_back(&mine->senders, &waiter->link);
}

void uns_channel_wait_to_receive(uns_runtime *runtime, lua_State *L, int channel, uns_waiter *waiter) {
  uns_channel *mine = lua_touserdata(L, channel);
  waiter->told = UNS_TOLD_NONE;
  if (mine->mode == UNS_CHANNEL_IS_SHARED) uns_shared_wait(runtime, L, mine, waiter, false, 0);
  else uns_list_push_back(&mine->receivers, &waiter->link);
}

void uns_channel_leave(const uns_runtime *runtime, uns_waiter *waiter) {
  uns_list_remove(&waiter->link);
  if (waiter->elsewhere != NULL) uns_shared_leave(runtime, waiter);
}

void uns_channel_take(lua_State *L, int channel, uns_waiter *waiter) {
  if (waiter->elsewhere != NULL) uns_shared_take(L, waiter);
  else push_held(lua_touserdata(L, channel), L, channel, waiter);
}

void uns_channel_return(uns_runtime *runtime, lua_State *L, int channel, uns_waiter *waiter) {
  if (waiter->elsewhere != NULL) {
    uns_shared_return(waiter);
    return;
  }
  push_held(lua_touserdata(L, channel), L, channel, waiter);
  uns_channel_put_back(runtime, L, channel);
}

void uns_channel_withdraw(lua_State *L, int channel, const uns_waiter *waiter) {
  push_held(lua_touserdata(L, channel), L, channel,
            waiter); /* nothing where the channel is shared: it is in the wait there */
  lua_pop(L, 1);
}

void uns_channel_put_back(uns_runtime *runtime, lua_State *L, int channel) {
  uns_channel *mine = lua_touserdata(L, channel);
  if (mine->mode == UNS_CHANNEL_IS_SHARED) {
    uns_shared_put_back(L, mine);
    return;
  }
  if (give(mine, runtime, L, channel)) return;
  lua_getiuservalue(L, channel, VALUE_TABLE);
  lua_insert(L, -2);
  int table = lua_gettop(L) - 1;
  grow(mine, L, table);
  mine->first = (mine->first - 1) & (mine->size - 1);
  set(L, table, place(mine, 0));
  mine->count++;
  lua_pop(L, 1);
}
