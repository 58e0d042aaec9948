/*
 * http: HTTP and HTTPS requests by libcurl, on the ambient loop.
 */
#ifndef UNS_HTTP_H
#define UNS_HTTP_H

#include <lua.h>

/* Opens the module "unsync.core.http": pushes its table. libcurl is loaded by the first request, not here. */
int uns_open_http(lua_State *L);

#endif
