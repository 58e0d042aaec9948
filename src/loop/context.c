#include "loop/context.h"

#include <lauxlib.h>
#include <string.h>

static void unref_value(uns_runtime *runtime, uns_context_value *value) {
  if (--value->references > 0) return;
  luaL_unref(runtime->L, LUA_REGISTRYINDEX, value->ref);
  uns_free(value);
}

void uns_context_unref(uns_runtime *runtime, uns_context *context) {
  if (context == NULL || --context->references > 0) return;
  for (size_t i = 0; i < context->count; i++) unref_value(runtime, context->entries[i].value);
  uns_free(context);
}

/* Where the variable stands in it, or would have to be put. */
static size_t place_of(const uns_context *context, lua_Integer number) {
  size_t low = 0, high = context->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (context->entries[middle].number < number) low = middle + 1;
    else high = middle;
  }
  return low;
}

const uns_context_value *uns_context_search(const uns_context *context, lua_Integer number, size_t *place) {
  size_t at = place_of(context, number);
  if (at == context->count || context->entries[at].number != number) return NULL;
  *place = at;
  return context->entries[at].value;
}

/* The task's context, its own alone, with room for one more than it has. NULL without memory. */
static uns_context *make_own(uns_runtime *runtime, uns_task *task) {
  enum { ROOM = 4 };
  uns_context *old = task->context;
  size_t count = old != NULL ? old->count : 0;
  if (old != NULL && old->references == 1 && count < old->capacity) return old;
  size_t capacity = count < ROOM ? ROOM : 2 * count;
  uns_context *own = uns_malloc(sizeof *own + capacity * sizeof own->entries[0]);
  if (own == NULL) return NULL;
  own->references = 1;
  own->count = count;
  own->capacity = capacity;
  for (size_t i = 0; i < count; i++) {
    own->entries[i] = old->entries[i];
    own->entries[i].value->references++;
  }
  uns_context_unref(runtime, old);
  return task->context = own;
}

/* Puts `value` (one reference, taken over) into the task's context. False without memory. */
static bool put(uns_runtime *runtime, uns_task *task, lua_Integer number, uns_context_value *value) {
  uns_context *own = make_own(runtime, task);
  if (own == NULL) return false;
  size_t at = place_of(own, number);
  if (at < own->count && own->entries[at].number == number) {
    unref_value(runtime, own->entries[at].value);
  } else {
    memmove(&own->entries[at + 1], &own->entries[at], (own->count - at) * sizeof own->entries[0]);
    own->count++;
  }
  own->entries[at] = (uns_context_entry){.number = number, .value = value};
  return true;
}

void uns_context_set(uns_runtime *runtime, lua_State *L, uns_task *task, lua_Integer number) {
  luaL_checkstack(L, 4, NULL);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX); /* what raises comes first: nothing has been made yet */
  uns_context_value *value = uns_malloc(sizeof *value);
  if (value != NULL) {
    *value = (uns_context_value){.references = 1, .ref = ref};
    if (put(runtime, task, number, value)) return;
    uns_free(value);
  }
  luaL_unref(L, LUA_REGISTRYINDEX, ref);
  luaL_error(L, "not enough memory");
}

void uns_context_unset(uns_runtime *runtime, lua_State *L, uns_task *task, lua_Integer number) {
  size_t place = 0;
  if (task->context == NULL || uns_context_find(task->context, number, &place) == NULL) return;
  uns_context *own = make_own(runtime, task);
  if (own == NULL) {
    luaL_error(L, "not enough memory");
    return;
  }
  unref_value(runtime, own->entries[place].value);
  own->count--;
  memmove(&own->entries[place], &own->entries[place + 1], (own->count - place) * sizeof own->entries[0]);
}
