/*
 * http: HTTP and HTTPS requests by libcurl, on the ambient loop.
 */
#ifndef UNS_HTTP_H
#define UNS_HTTP_H

#include "loop/future.h"

/* Opens the module "unsync.core.http": pushes its table. libcurl is loaded by the first request, not here. */
int uns_open_http(lua_State *L);

/*
 * If `future` is that of a request which has not ended, takes the request back: its connection is closed or left to
 * others, nothing will settle the future any more, and that is now up to the caller. False if it is no such future.
 * Raises nothing. Thread: the runtime's.
 */
bool uns_http_cancel(uns_runtime *runtime, const uns_future *future);

#endif
