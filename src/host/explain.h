/* explain: errors that nobody handles, told so that they can be read. */
#ifndef UNS_EXPLAIN_H
#define UNS_EXPLAIN_H

#include "loop/runtime.h"

/* The runtime's `explain`. What it needs is loaded when there is an error to tell. */
bool uns_explain(uns_runtime *runtime, lua_State *L);

/* The word among `words` (ended by NULL) that `text` was probably meant to be, or NULL. */
const char *uns_explain_meant(const char *text, const char *const *words);

/* What lua/unsync/explain.lua tells them apart by, for whoever calls that: distance(a, b) -> integer */
int uns_explain_distance(lua_State *L);

#endif
