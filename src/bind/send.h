/* send: calls that leave this state for a thread or a process; see send.c. */
#ifndef UNS_SEND_H
#define UNS_SEND_H

#include "bind/declaration.h"

/*
 * The arguments of the call are all that lies on L, the function (or native task's name) on top: sends a job, and leaves
 * its future on top. Raises, before anything has started: what cannot cross, no memory, `closed`. A C function's results.
 */
int uns_send_call(lua_State *L, uns_runtime *runtime, const uns_declaration *declared);
/* Has calls that their limit holds back dropped when the state ends. */
void uns_send_open(uns_runtime *runtime);

#endif
