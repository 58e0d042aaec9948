#include "loop/channel_shared.h"

#include <lauxlib.h>
#include <string.h>

#include "core/codec.h"
#include "core/weak.h"

/* Registry key: shared channel -> the channel of this state that stands for it; weak values. */
static const char by_shared_key = 0;
/* Key in a channel's table: its handle. */
static const char handle_key = 0;

#define HANDLE_TYPE "unsync.ChannelHandle"

/* What has a finalizer, so that channels that never cross need none: the reference. Its user value is the channel. */
typedef struct {
  uns_shared_channel *shared;
} handle;

_Static_assert((int)UNS_WAIT_GIVEN == (int)UNS_TOLD_GIVEN && (int)UNS_WAIT_CLOSED == (int)UNS_TOLD_CLOSED &&
                   (int)UNS_WAIT_RETRY == (int)UNS_TOLD_RETRY,
               "what a wait is told, its waiter is told");

/* Where the whole state ends, the channel may still be used: by a finalizer of the script's that comes later. */
static int handle_gc(lua_State *L) {
  handle *mine = luaL_testudata(L, 1, HANDLE_TYPE);
  uns_shared_channel *shared = mine != NULL ? mine->shared : NULL;
  if (shared == NULL) return 0;
  mine->shared = NULL;
  lua_getiuservalue(L, 1, 1);
  uns_channel *channel = lua_touserdata(L, -1);
  if (channel != NULL) {
    channel->shared = NULL;
    channel->mode = UNS_CHANNEL_IS_SHUT;
  }
  uns_shared_unref(shared);
  return 0;
}

void uns_shared_open(lua_State *L) {
  uns_weak_push(L, "v");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &by_shared_key);
  luaL_newmetatable(L, HANDLE_TYPE);
  lua_pushcfunction(L, handle_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

/* Ties the channel at `index` to `shared`, of which a reference is taken. Raises without memory. */
static void tie(lua_State *L, int index, uns_shared_channel *shared) {
  luaL_checkstack(L, 6, NULL);
  handle *mine = lua_newuserdatauv(L, sizeof *mine, 1);
  mine->shared = NULL;
  lua_pushvalue(L, index);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, HANDLE_TYPE);
  lua_getiuservalue(L, index, UNS_CHANNEL_VALUE_TABLE);
  lua_insert(L, -2);
  lua_rawsetp(L, -2, &handle_key);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &by_shared_key);
  lua_pushvalue(L, index);
  lua_rawsetp(L, -2, shared);
  lua_pop(L, 2);
  mine->shared = uns_shared_ref(shared);
}

void uns_channel_push_shared(uns_runtime *runtime, lua_State *L, uns_shared_channel *shared) {
  luaL_checkstack(L, 8, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &by_shared_key);
  if (lua_rawgetp(L, -1, shared) == LUA_TUSERDATA) {
    lua_remove(L, -2);
    return;
  }
  lua_pop(L, 2);
  uns_channel *channel = uns_channel_push_new(runtime, L, 0);
  tie(L, lua_gettop(L), shared);
  channel->shared = shared;
  channel->mode = UNS_CHANNEL_IS_SHARED;
}

/* ---- values and items ---- */

/* Raises where the value cannot cross. */
static void to_item(lua_State *L, int value, uns_channel_item *item) {
  static const uns_codec_names names = {"item", 0, false};
  switch (lua_type(L, value)) {
    case LUA_TNIL: item->kind = UNS_SENT_NIL; return;
    case LUA_TBOOLEAN: item->kind = lua_toboolean(L, value) ? UNS_SENT_TRUE : UNS_SENT_FALSE; return;
    case LUA_TNUMBER:
      item->kind = lua_isinteger(L, value) ? UNS_SENT_INTEGER : UNS_SENT_NUMBER;
      if (item->kind == UNS_SENT_INTEGER) item->as.integer = lua_tointeger(L, value);
      else item->as.number = lua_tonumber(L, value);
      return;
    case LUA_TSTRING: {
      size_t size;
      const char *bytes = lua_tolstring(L, value, &size);
      if (size > UNS_SENT_BYTES_MAX) break;
      item->kind = UNS_SENT_BYTES;
      item->size = (uint8_t)size;
      memcpy(item->as.bytes, bytes, size);
      return;
    }
    default: break;
  }
  item->kind = UNS_SENT_NIL;
  uns_packet_init(&item->as.packet);
  if (uns_codec_encode(L, value, 1, &names, &item->as.packet) != UNS_OK) lua_error(L);
  item->kind = UNS_SENT_PACKET;
}

/* Pushes the value; the item is nil afterwards. Raises where it cannot be read here. */
static void push_value(lua_State *L, uns_channel_item *item) {
  int kind = item->kind;
  if (kind == UNS_SENT_PACKET) {
    int count = uns_codec_decode(L, &item->as.packet);
    uns_channel_item_deinit(item);
    if (count < 0) lua_error(L);
    if (count != 1) luaL_error(L, "an item of a channel that makes no sense");
    return;
  }
  item->kind = UNS_SENT_NIL;
  switch (kind) {
    case UNS_SENT_FALSE: lua_pushboolean(L, false); break;
    case UNS_SENT_TRUE: lua_pushboolean(L, true); break;
    case UNS_SENT_INTEGER: lua_pushinteger(L, item->as.integer); break;
    case UNS_SENT_NUMBER: lua_pushnumber(L, item->as.number); break;
    case UNS_SENT_BYTES: lua_pushlstring(L, item->as.bytes, item->size); break;
    default: lua_pushnil(L);
  }
}

static bool is_large(lua_State *L, int value) {
  int type = lua_type(L, value);
  return type > LUA_TSTRING || (type == LUA_TSTRING && lua_rawlen(L, value) > UNS_SENT_BYTES_MAX);
}

static void check_memory(lua_State *L, uns_channel_result result) {
  if (result == UNS_CHANNEL_NO_MEMORY) luaL_error(L, "not enough memory");
}

/* ---- sending and receiving ---- */

uns_channel_result uns_shared_send(lua_State *L, uns_channel *mine, int value, bool now) {
  uns_shared_channel *shared = mine->shared;
  if (shared->remote != NULL && !now) return UNS_CHANNEL_WAIT;
  if (is_large(L, value) && !uns_shared_channel_has_room(shared)) return UNS_CHANNEL_WAIT;
  uns_channel_item item;
  to_item(L, value, &item);
  uns_channel_result result = uns_shared_channel_send(shared, &item);
  uns_channel_item_deinit(&item);
  check_memory(L, result);
  return result;
}

uns_channel_result uns_shared_receive(lua_State *L, uns_channel *mine, bool now) {
  uns_shared_channel *shared = mine->shared;
  uns_channel_item item;
  if (shared->remote != NULL && uns_shared_channel_take_ahead(shared, &item)) {
    push_value(L, &item);
    return UNS_CHANNEL_DONE;
  }
  if (shared->remote != NULL && !now) return UNS_CHANNEL_WAIT;
  uns_channel_result result = uns_shared_channel_receive(shared, &item);
  check_memory(L, result);
  if (result == UNS_CHANNEL_DONE) push_value(L, &item);
  return result;
}

void uns_shared_put_back(lua_State *L, const uns_channel *mine) {
  uns_channel_item item;
  to_item(L, lua_gettop(L), &item);
  lua_pop(L, 1);
  uns_channel_result result = uns_shared_channel_put_back(mine->shared, &item);
  uns_channel_item_deinit(&item);
  check_memory(L, result);
}

/* ---- waiting ---- */

/* It was told something. The wait leaves the line as any other does, and finds there what that was. */
static void on_told(uns_mail *mail, void *receiver) {
  uns_channel_wait *wait = uns_container_of(mail, uns_channel_wait, mail);
  uns_waiter *waiter = wait->owner;
  if (receiver != NULL && waiter != NULL) waiter->wake(waiter, receiver, NULL);
  uns_channel_wait_unref(wait);
}

void uns_shared_return(uns_waiter *waiter) {
  uns_channel_wait *wait = waiter->elsewhere;
  waiter->elsewhere = NULL;
  uns_channel_wait_put_back(wait);
}

void uns_shared_leave(const uns_runtime *runtime, uns_waiter *waiter) {
  uns_channel_wait *wait = waiter->elsewhere;
  if (wait->owner == NULL) return; /* it has left already, and has an item */
  wait->owner = NULL;
  waiter->told = (uint8_t)uns_channel_wait_end(wait);
  bool received = waiter->told == UNS_TOLD_GIVEN && !wait->sends;
  if (received && !runtime->closing) return; /* its task will take it */
  if (received) {
    uns_shared_return(waiter);
    return;
  }
  waiter->elsewhere = NULL;
  uns_channel_wait_unref(wait);
}

static void on_leave(uns_task *task, uns_runtime *runtime) { uns_channel_leave(runtime, &task->extra->waiter); }

void uns_shared_take(lua_State *L, uns_waiter *waiter) {
  uns_channel_wait *wait = waiter->elsewhere;
  uns_channel_item item;
  waiter->elsewhere = NULL;
  uns_channel_item_move(&item, &wait->item);
  uns_channel_wait_took(wait);
  push_value(L, &item);
}

/* Ties the two, and puts the wait in line. */
static uns_channel_result begin(uns_runtime *runtime, uns_channel_wait *wait, uns_waiter *waiter) {
  uns_task *task = waiter->task;
  wait->owner = waiter;
  waiter->elsewhere = wait;
  uns_channel_result result = uns_channel_wait_begin(wait);
  if (result == UNS_CHANNEL_NO_MEMORY) {
    waiter->elsewhere = NULL;
    uns_channel_wait_unref(wait);
    return result;
  }
  if (result != UNS_CHANNEL_WAIT) { /* told on the spot, which it hears as always */
    atomic_fetch_add_explicit(&wait->count, 1, memory_order_relaxed);
    uns_mailbox_post(runtime->mailbox, &wait->mail);
  }
  if (waiter->choice == NULL) task->extra->leave = on_leave;
  /* In the script's own state the hope lies in what it has under way: when all that has ended, nobody sends any more. */
  if (runtime->job != NULL) uns_task_hope(runtime, task);
  return result;
}

/* The choice that others can know; NULL where it needs none, or, with `failed`, there is no memory. */
static uns_choice *choice_of(const uns_waiter *waiter, bool *failed) {
  *failed = false;
  if (waiter->choice == NULL) return NULL;
  if (*waiter->choice == NULL) *waiter->choice = uns_choice_new();
  *failed = *waiter->choice == NULL;
  return *waiter->choice;
}

/* Takes over the item. Raises where there is no memory. */
static uns_channel_wait *new_wait(lua_State *L, uns_runtime *runtime, uns_shared_channel *shared,
                                  const uns_waiter *waiter, bool sends, uns_channel_item *item) {
  bool failed;
  uns_choice *choice = choice_of(waiter, &failed);
  uns_channel_wait *wait = failed ? NULL : uns_channel_wait_new(shared, runtime->mailbox, choice, sends, on_told);
  if (wait == NULL) {
    uns_channel_item_deinit(item);
    luaL_error(L, "not enough memory");
    return NULL;
  }
  uns_channel_item_move(&wait->item, item);
  return wait;
}

void uns_shared_wait(uns_runtime *runtime, lua_State *L, const uns_channel *mine, uns_waiter *waiter, bool sends,
                     int value) {
  uns_channel_item item = {.kind = UNS_SENT_NIL};
  if (sends) to_item(L, value, &item);
  uns_channel_wait *wait = new_wait(L, runtime, mine->shared, waiter, sends, &item);
  check_memory(L, begin(runtime, wait, waiter));
}

/* ---- crossing ---- */

/* A channel on its way to become a shared one. */
typedef struct {
  uns_runtime *runtime;
  uns_channel *channel;
  uns_shared_channel *shared; /* one reference */
  size_t count;               /* what the channel had, which shows nothing while it crosses */
  uns_link receivers, senders;
  uint8_t mode;
  uns_channel_wait **waits; /* one for each that is in line; `owner` is the waiter. Owned */
  size_t wait_count;
} crossing;

static void add_wait(lua_State *L, crossing *c, uns_waiter *waiter, bool sends) {
  uns_channel_item item = {.kind = UNS_SENT_NIL};
  if (sends) {
    uns_channel_push_offer(L, 2, waiter);
    to_item(L, lua_gettop(L), &item);
    lua_pop(L, 1);
  }
  uns_channel_wait *wait = new_wait(L, c->runtime, c->shared, waiter, sends, &item);
  wait->owner = waiter;
  c->waits[c->wait_count++] = wait;
}

static size_t length(const uns_link *list) {
  size_t count = 0;
  for (const uns_link *link = list->next; link != list; link = link->next) count++;
  return count;
}

/* All that can fail: (crossing, channel). Objects that pack themselves run a script's code here: waits may end meanwhile. */
static int prepare(lua_State *L) {
  crossing *c = lua_touserdata(L, 1);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  size_t waiting = length(&c->senders) + length(&c->receivers);
  if (waiting > 0) {
    c->waits = uns_calloc(waiting, sizeof(uns_channel_wait *));
    if (c->waits == NULL) return luaL_error(L, "not enough memory");
  }
  for (uns_link *link = c->receivers.next; link != &c->receivers; link = link->next) {
    add_wait(L, c, uns_container_of(link, uns_waiter, link), false);
  }
  for (size_t i = 0; i < c->count; i++) {
    uns_channel_item item;
    uns_channel_push_item(L, 2, i);
    to_item(L, lua_gettop(L), &item);
    lua_pop(L, 1);
    uns_channel_result result = uns_shared_channel_append(c->shared, &item);
    uns_channel_item_deinit(&item);
    if (result != UNS_CHANNEL_DONE) return luaL_error(L, "not enough memory");
  }
  size_t senders = length(&c->senders);
  for (uns_link *link = c->senders.next; link != &c->senders; link = link->next) {
    add_wait(L, c, uns_container_of(link, uns_waiter, link), true);
    if (length(&c->senders) != senders) return luaL_error(L, "a task that waits to send was stopped meanwhile");
  }
  tie(L, 2, c->shared);
  return 0;
}

/* The waits move, as far as their tasks still stand in line. Those that have left did so without a trace. */
static void move_waits(lua_State *L, int index, crossing *c) {
  for (size_t i = 0; i < c->wait_count; i++) {
    uns_channel_wait *wait = c->waits[i];
    uns_link *line = wait->sends ? &c->senders : &c->receivers;
    if (wait->owner != (uns_list_empty(line) ? NULL : uns_container_of(line->next, uns_waiter, link))) {
      wait->owner = NULL;
      uns_channel_wait_unref(wait);
      continue;
    }
    uns_waiter *waiter = wait->owner;
    uns_list_remove(&waiter->link);
    if (wait->sends) uns_channel_withdraw(L, index, waiter);
    /* Without memory it is told that this channel is of no more use to it. */
    if (begin(c->runtime, wait, waiter) == UNS_CHANNEL_NO_MEMORY) uns_waiter_tell(waiter, c->runtime, UNS_TOLD_CLOSED);
  }
}

static void clear_items(lua_State *L, int index, uns_channel *channel) {
  lua_getiuservalue(L, index, UNS_CHANNEL_VALUE_TABLE);
  for (size_t i = 1; i <= channel->size; i++) {
    lua_pushnil(L);
    lua_rawseti(L, -2, (lua_Integer)i);
  }
  lua_pop(L, 1);
  channel->first = channel->size = 0;
}

static void restore(crossing *c) {
  uns_channel *channel = c->channel;
  for (size_t i = 0; i < c->wait_count; i++) {
    c->waits[i]->owner = NULL;
    uns_channel_wait_unref(c->waits[i]);
  }
  channel->mode = c->mode;
  channel->count = c->count;
  channel->shared = NULL;
  uns_list_append(&channel->receivers, &c->receivers);
  uns_list_append(&channel->senders, &c->senders);
}

uns_shared_channel *uns_channel_share(uns_runtime *runtime, lua_State *L, int index) {
  uns_channel *channel = lua_touserdata(L, index);
  if (channel->shared != NULL) return channel->shared;
  uns_channel_remote *remote = runtime->channel_remote;
  bool closed = channel->mode == UNS_CHANNEL_IS_SHUT;
  index = lua_absindex(L, index);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  crossing c = {.runtime = runtime, .channel = channel, .mode = channel->mode, .count = channel->count};
  c.shared = remote != NULL ? remote->make(remote, channel->capacity, closed)
                            : uns_shared_channel_new(channel->capacity);
  if (c.shared == NULL) {
    luaL_error(L, "not enough memory");
    return NULL;
  }
  if (remote == NULL && closed) uns_shared_channel_close(c.shared);
  uns_list_init(&c.receivers);
  uns_list_init(&c.senders);
  uns_list_append(&c.receivers, &channel->receivers);
  uns_list_append(&c.senders, &channel->senders);
  channel->count = 0;
  channel->shared = c.shared; /* it may hold itself */
  channel->mode = UNS_CHANNEL_IS_CROSSING;
  lua_pushcfunction(L, prepare);
  lua_pushlightuserdata(L, &c);
  lua_pushvalue(L, index);
  bool fine = lua_pcall(L, 2, 0, 0) == LUA_OK;
  if (fine) {
    channel->mode = UNS_CHANNEL_IS_SHARED;
    clear_items(L, index, channel);
    move_waits(L, index, &c);
  } else {
    restore(&c);
  }
  uns_free(c.waits);
  uns_shared_unref(c.shared); /* the handle has its own */
  if (fine) return channel->shared;
  const char *reason = luaL_tolstring(L, -1, NULL);
  lua_pushfstring(L, "a channel with something in it that cannot cross: %s", reason);
  lua_replace(L, -3);
  lua_pop(L, 1);
  return NULL;
}
