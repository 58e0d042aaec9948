/*
 * channel_shared: the channels of a state that stand for shared ones. For loop/channel.c, which alone includes this, and
 * which says what the functions do.
 */
#ifndef UNS_CHANNEL_SHARED_H
#define UNS_CHANNEL_SHARED_H

#include "loop/channel.h"

enum { UNS_CHANNEL_VALUE_TABLE = 1, UNS_CHANNEL_VALUE_HELD }; /* user values of a channel */

void uns_shared_open(lua_State *L);
/* `now`: asks the host where it must. */
uns_channel_result uns_shared_send(lua_State *L, uns_channel *mine, int value, bool now);
uns_channel_result uns_shared_receive(lua_State *L, uns_channel *mine, bool now);
void uns_shared_wait(uns_runtime *runtime, lua_State *L, const uns_channel *mine, uns_waiter *waiter, bool sends,
                     int value);
void uns_shared_leave(const uns_runtime *runtime, uns_waiter *waiter);
void uns_shared_take(lua_State *L, uns_waiter *waiter);
void uns_shared_return(uns_waiter *waiter);
void uns_shared_put_back(lua_State *L, const uns_channel *mine);

/* channel.c, of one that is not shared: pushes item `number`, from 0; pushes what `waiter` has to send. */
void uns_channel_push_item(lua_State *L, int channel, size_t number);
void uns_channel_push_offer(lua_State *L, int channel, const uns_waiter *waiter);
/* Pushes a new channel that has nothing in it. */
uns_channel *uns_channel_push_new(uns_runtime *runtime, lua_State *L, size_t capacity);

#endif
