/*
 * context: the values of context variables that a task sees. One record, shared by all who inherited it.
 *
 *   - A record that more than one task refers to is never changed: setting makes a copy, so a child has a snapshot.
 *   - Starting a task copies a pointer; where nothing was ever set, that is NULL.
 *   - A value lies in the registry, by a number that is found here: to read one takes one look-up in Lua.
 */
#ifndef UNS_CONTEXT_H
#define UNS_CONTEXT_H

#include "loop/task.h"

/* A value, shared by the contexts that have it. */
typedef struct uns_context_value {
  size_t references;
  int ref; /* in the registry; LUA_REFNIL: it is nil */
} uns_context_value;

typedef struct {
  lua_Integer number; /* of the variable */
  uns_context_value *value;
} uns_context_entry;

typedef struct uns_context {
  size_t references;
  size_t count, capacity;
  uns_context_entry entries[]; /* by number */
} uns_context;

static inline uns_context *uns_context_ref(uns_context *context) {
  if (context != NULL) context->references++;
  return context;
}

/* NULL is allowed. */
void uns_context_unref(uns_runtime *runtime, uns_context *context);

/* The value of the variable `number`, or NULL: it is unset. `place` is where it was found last, and is kept up. */
const uns_context_value *uns_context_search(const uns_context *context, lua_Integer number, size_t *place);
static inline const uns_context_value *uns_context_find(const uns_context *context, lua_Integer number, size_t *place) {
  if (*place < context->count && context->entries[*place].number == number) return context->entries[*place].value;
  return uns_context_search(context, number, place);
}

/* Pops a value, nil included, and sets the variable `number` to it for `task`. Raises without memory. */
void uns_context_set(uns_runtime *runtime, lua_State *L, uns_task *task, lua_Integer number);
/* The task sees its default again. Raises without memory. */
void uns_context_unset(uns_runtime *runtime, lua_State *L, uns_task *task, lua_Integer number);

#endif
