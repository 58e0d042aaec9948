/*
 * channel: a bounded queue between the tasks of one state: send, receive, close.
 *
 * A userdata "unsync.Channel". Its first user value is a table: the items at 1..size, a ring, and, by the address of its
 * waiter, what somebody who waits has to send or was given; for one waiter at a time that is the second user value.
 *   - First come, first served, on both sides: whoever waits is given his item, or his room, by the one who makes it
 *     possible; nobody who comes later can be faster.
 *   - Senders wait only where it is full, receivers only where it is empty.
 *   - What a waiter was given is his: he takes it when he runs, or puts it back in front.
 */
#ifndef UNS_CHANNEL_H
#define UNS_CHANNEL_H

#include "loop/future.h"

#define UNS_CHANNEL_TYPE "unsync.Channel"

enum { UNS_CHANNEL_MAX = 1 << 30 };

typedef struct uns_channel {
  uns_link receivers, senders; /* uns_waiter.link */
  size_t capacity;
  size_t count;       /* items in the ring; more than `capacity` where one was put back */
  size_t first, size; /* of the ring: `first` counts from 0, `size` is 0 or a power of two */
  const uns_waiter *held; /* whose the second user value is, or NULL */
  bool closed;
} uns_channel;

typedef enum {
  UNS_CHANNEL_DONE,
  UNS_CHANNEL_WAIT,  /* full, or empty: nothing was done */
  UNS_CHANNEL_CLOSED /* for receivers: and empty */
} uns_channel_result;

/* Once per state: leaves the metatable on the stack, still without methods (bind/channel.c). */
void uns_channel_open(lua_State *L, uns_runtime *runtime);
/* Pushes a new channel. Raises without memory. */
void uns_channel_push(lua_State *L, uns_runtime *runtime, size_t capacity);
/* The channel at `index`, or NULL if it is something else. Fast. */
uns_channel *uns_channel_test(uns_runtime *runtime, lua_State *L, int index);

/* The channel is at `channel`, an absolute index. These never wait; they raise only without memory, and have done nothing then. */
uns_channel_result uns_channel_send(uns_runtime *runtime, lua_State *L, int channel, int value);
/* DONE: the item is pushed. */
uns_channel_result uns_channel_receive(uns_runtime *runtime, lua_State *L, int channel);
/* Those who wait are told UNS_TOLD_CLOSED. What is in it can still be received. */
void uns_channel_close(uns_runtime *runtime, uns_channel *channel);

/* After UNS_CHANNEL_WAIT: puts `waiter` in line, a sender with the value at `value`. */
void uns_channel_wait_to_send(lua_State *L, int channel, uns_waiter *waiter, int value);
void uns_channel_wait_to_receive(lua_State *L, int channel, uns_waiter *waiter);
/* A receiver that was told UNS_TOLD_GIVEN: pushes the item. */
void uns_channel_take(lua_State *L, int channel, const uns_waiter *waiter);
/* A sender that left the line: forgets its value. */
void uns_channel_withdraw(lua_State *L, int channel, const uns_waiter *waiter);
/* The item on top (popped) goes back in front: it is the next to be received. */
void uns_channel_put_back(uns_runtime *runtime, lua_State *L, int channel);

#endif
