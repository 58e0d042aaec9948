/*
 * context: the values of context variables that a task sees. One table, shared by all who inherited it.
 *
 *   - A table that more than one task refers to is never changed: setting makes a copy, so a child has a snapshot.
 *   - Starting a task copies a pointer; where nothing was ever set, that is NULL.
 */
#ifndef UNS_CONTEXT_H
#define UNS_CONTEXT_H

#include "loop/task.h"

typedef struct uns_context {
  size_t references;
  int ref; /* in the registry, of the table: number of the variable -> value, or &uns_context_nil */
} uns_context;

extern const char uns_context_nil; /* as a light userdata: set to nil */

static inline uns_context *uns_context_ref(uns_context *context) {
  if (context != NULL) context->references++;
  return context;
}

/* NULL is allowed. */
void uns_context_unref(uns_runtime *runtime, uns_context *context);

/*
 * Pops a value and sets the variable whose number lies below it, popped too, for `task`; nil: it is unset. Raises without
 * memory.
 */
void uns_context_set(uns_runtime *runtime, lua_State *L, uns_task *task);

/* Pushes the table of `task`, or nil where nothing was set. */
void uns_context_push(uns_runtime *runtime, lua_State *L, const uns_task *task);

#endif
