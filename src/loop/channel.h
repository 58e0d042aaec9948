/*
 * channel: a bounded queue between tasks: send, receive, close.
 *
 * A userdata "unsync.Channel". Its first user value is a table: the items at 1..size, a ring, and, by the address of its
 * waiter, what somebody who waits has to send or was given; for one waiter at a time that is the second user value.
 *   - First come, first served, on both sides: whoever waits is given his item, or his room, by the one who makes it
 *     possible; nobody who comes later can be faster.
 *   - Senders wait only where it is full, receivers only where it is empty.
 *   - What a waiter was given is his: he takes it when he runs, or puts it back in front.
 *   - When it first crosses, its items and its waits move to a shared channel (core/channel.h), for which it then stands:
 *     channel_shared.c. These functions are the only ones that know the difference.
 */
#ifndef UNS_CHANNEL_H
#define UNS_CHANNEL_H

#include "core/channel.h"
#include "loop/task.h"

#define UNS_CHANNEL_TYPE "unsync.Channel"

enum { UNS_CHANNEL_MAX = 1 << 30 };

/* All but OPEN are rare, and looked at together. */
typedef enum {
  UNS_CHANNEL_IS_OPEN,
  UNS_CHANNEL_IS_SHUT,    /* closed */
  UNS_CHANNEL_IS_SHARED,  /* what it is, `shared` knows; no waiter and no item is here */
  UNS_CHANNEL_IS_CROSSING /* it is becoming that just now: likewise */
} uns_channel_mode;

extern const char uns_channel_mark;

typedef struct uns_channel {
  const char *mark;            /* &uns_channel_mark */
  uns_runtime *runtime;        /* of its state */
  uns_link receivers, senders; /* uns_waiter.link */
  size_t capacity;
  size_t count;               /* items in the ring; more than `capacity` where one was put back */
  size_t first, size;         /* of the ring: `first` counts from 0, `size` is 0 or a power of two */
  const uns_waiter *held;     /* whose the second user value is, or NULL */
  uint8_t mode;               /* uns_channel_mode */
  uns_shared_channel *shared; /* one reference, its handle's (channel_shared.c); or NULL */
} uns_channel;

/* Once per state: leaves the metatable on the stack, still without methods (bind/channel.c). */
void uns_channel_open(lua_State *L);
/* Pushes a new channel. Raises without memory. */
void uns_channel_push(lua_State *L, uns_runtime *runtime, size_t capacity);
/* The channel at `index`, or NULL if it is something else. Fast. */
static inline uns_channel *uns_channel_test(lua_State *L, int index) {
  uns_channel *channel = lua_touserdata(L, index);
  return channel != NULL && lua_rawlen(L, index) == sizeof *channel && channel->mark == &uns_channel_mark ? channel
                                                                                                          : NULL;
}

/*
 * The channel, `mine`, is at `channel`, an absolute index. These never wait for room or an item; they raise without memory, and
 * `unsendable` for an item that cannot go where the channel is, and have done nothing then. What is received is pushed.
 *
 * The first two are the quick ones: they may leave something on the stack, below an item; and in a worker process they may
 * return UNS_CHANNEL_WAIT without having asked its host: only `try` does that, and it takes a while.
 */
uns_channel_result uns_channel_send(uns_runtime *runtime, lua_State *L, uns_channel *mine, int channel, int value);
uns_channel_result uns_channel_receive(uns_runtime *runtime, lua_State *L, uns_channel *mine, int channel);
uns_channel_result uns_channel_try_send(uns_runtime *runtime, lua_State *L, int channel, int value);
uns_channel_result uns_channel_try_receive(uns_runtime *runtime, lua_State *L, int channel);
/* Those who wait are told UNS_TOLD_CLOSED. What is in it can still be received. Raises while it crosses to another state. */
void uns_channel_close(uns_runtime *runtime, lua_State *L, uns_channel *channel);
/* How many items are in it, and the like. */
void uns_channel_look(const uns_channel *channel, uns_channel_state *state);

/*
 * After UNS_CHANNEL_WAIT: puts `waiter`, whose `task` and `choice` are set, in line, a sender with the value at `value`. A
 * waiter that has no choice is its task's own, and leaves the line with its wait; others have to call uns_channel_leave.
 */
void uns_channel_wait_to_send(uns_runtime *runtime, lua_State *L, int channel, uns_waiter *waiter, int value);
void uns_channel_wait_to_receive(uns_runtime *runtime, lua_State *L, int channel, uns_waiter *waiter);
/* Leaves the line, if it stands in one; what it was told is in it then. */
void uns_channel_leave(const uns_runtime *runtime, uns_waiter *waiter);
/* A receiver that was told UNS_TOLD_GIVEN: pushes the item, or puts it back in front: it is the next to be received. */
void uns_channel_take(lua_State *L, int channel, uns_waiter *waiter);
void uns_channel_return(uns_runtime *runtime, lua_State *L, int channel, uns_waiter *waiter);
/* A sender that left the line: forgets its value. */
void uns_channel_withdraw(lua_State *L, int channel, const uns_waiter *waiter);
/* The item on top (popped) goes back in front. */
void uns_channel_put_back(uns_runtime *runtime, lua_State *L, int channel);

/* One rule for races: what a wait was given is delivered; a cancellation of the same moment shows at the next wait. */
static inline void uns_channel_keep(uns_task *task, uns_told told) {
  if (told == UNS_TOLD_GIVEN && task->interrupt == UNS_INTERRUPT_CANCEL) task->interrupt = UNS_INTERRUPT_LATE;
}

/*
 * The shared channel that the channel at `index` becomes, or is; borrowed. NULL with a text pushed that says why it
 * cannot: it holds an item that cannot cross. Nothing has changed then. Raises without memory.
 */
uns_shared_channel *uns_channel_share(uns_runtime *runtime, lua_State *L, int index);
/* Pushes the channel of this state that stands for `shared`: the same one each time. Raises without memory. */
void uns_channel_push_shared(uns_runtime *runtime, lua_State *L, uns_shared_channel *shared);

#endif
