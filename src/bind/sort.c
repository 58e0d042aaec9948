/*
 * sort: table.sort whose comparator may wait.
 *
 * The stock algorithm (quicksort by the median of three), so that even an inconsistent order gives the same result,
 * but with its state in a block of its own, since the C stack does not outlive a wait: it goes from one comparison to
 * the next.
 *   - Without a comparator, or where nothing could wait anyway, the stock function does the work.
 *   - Ranges still to be sorted wait in `later`; the shorter half goes first, so there are never more than log2(n).
 */
#include <limits.h>
#include <lualib.h>

#include "bind/stdlib.h"

enum { SLOT_TABLE = 1, SLOT_COMPARATOR, SLOT_STATE = UNS_SORT_BLOCK }; /* then what is compared */

enum {
  MEDIAN_ONLY_MAX = 100, /* larger ranges get another pivot, once one was badly unbalanced */
  UNBALANCED = 128       /* one half is that many times longer than the other */
};

/* What the comparison under way is for. */
typedef enum { ENDS, LOW_MIDDLE, MIDDLE_HIGH, FROM_LOW, FROM_HIGH } purpose;

typedef struct {
  unsigned low, high; /* sorted from low to high, both included */
  unsigned random;    /* 0: the middle element is the pivot */
} range;

typedef struct {
  uns_barrier barrier;
  range now;
  purpose asked;
  unsigned middle;   /* the pivot's place, before the partition */
  unsigned up, down; /* the partition's fingers: below `up` all is less, above `down` all is greater */
  int later_count;
  range later[];
} sorting;

/* table[i] = top, table[j] = the one below; pops both. */
static void store(lua_State *L, unsigned i, unsigned j) {
  lua_seti(L, SLOT_TABLE, i);
  lua_seti(L, SLOT_TABLE, j);
}

/* Pushes the question whether the value at `a` is less than the one at `b`, both below the top. */
static void ask(lua_State *L, sorting *state, purpose why, int a, int b) {
  state->asked = why;
  lua_pushvalue(L, SLOT_COMPARATOR);
  lua_pushvalue(L, a - 1);
  lua_pushvalue(L, b - 2);
}

/* Takes up the next range. False: all is sorted. */
static bool begin_range(lua_State *L, sorting *state) {
  while (state->now.low >= state->now.high) {
    if (state->later_count == 0) return false;
    state->now = state->later[--state->later_count];
  }
  lua_geti(L, SLOT_TABLE, state->now.low);
  lua_geti(L, SLOT_TABLE, state->now.high);
  ask(L, state, ENDS, -1, -2);
  return true;
}

/* This range is done; what else? */
static bool end_range(lua_State *L, sorting *state) {
  state->now.low = state->now.high;
  return begin_range(L, state);
}

static unsigned choose_pivot(const range *r) {
  if (r->high - r->low < MEDIAN_ONLY_MAX || r->random == 0) return r->low + (r->high - r->low) / 2;
  unsigned quarter = (r->high - r->low) / 4; /* somewhere in the two middle quarters */
  return r->low + quarter + r->random % (quarter * 2);
}

/* The pivot has found its place: the longer side waits, the shorter is next. */
static bool split(lua_State *L, sorting *state, unsigned place) {
  range shorter = state->now, longer = state->now;
  unsigned before = place - state->now.low, behind = state->now.high - place;
  if (before < behind) {
    shorter.high = place - 1;
    longer.low = place + 1;
  } else {
    shorter.low = place + 1;
    longer.high = place - 1;
  }
  if (longer.high > longer.low && (longer.high - longer.low) / UNBALANCED > (before < behind ? before : behind)) {
    longer.random = (unsigned)(uns_clock_ns() / 64) | 1u;
  }
  if (longer.low < longer.high) state->later[state->later_count++] = longer;
  state->now = shorter;
  return begin_range(L, state);
}

static void scan_up(lua_State *L, sorting *state) {
  lua_geti(L, SLOT_TABLE, ++state->up);
  ask(L, state, FROM_LOW, -1, -2);
}

static void scan_down(lua_State *L, sorting *state) {
  lua_geti(L, SLOT_TABLE, --state->down);
  ask(L, state, FROM_HIGH, -3, -1);
}

/* The three are in order, the range is longer: the pivot goes to the last place but one, and the fingers set out. */
static void begin_partition(lua_State *L, sorting *state) {
  lua_geti(L, SLOT_TABLE, state->middle); /* the pivot, which stays on the stack */
  lua_pushvalue(L, -1);
  lua_geti(L, SLOT_TABLE, state->now.high - 1);
  store(L, state->middle, state->now.high - 1);
  state->up = state->now.low;
  state->down = state->now.high - 1;
  scan_up(L, state);
}

static bool end_median(lua_State *L, sorting *state) {
  if (state->now.high - state->now.low == 2) return end_range(L, state);
  begin_partition(L, state);
  return true;
}

/* Has the answer to the last question, and pushes the next one. False: all is sorted. */
static bool answer(lua_State *L, sorting *state, bool less) {
  const range *now = &state->now;
  switch (state->asked) {
    case ENDS: /* low, high on the stack */
      if (less) store(L, now->low, now->high);
      else lua_pop(L, 2);
      if (now->high - now->low == 1) return end_range(L, state);
      state->middle = choose_pivot(now);
      lua_geti(L, SLOT_TABLE, state->middle);
      lua_geti(L, SLOT_TABLE, now->low);
      ask(L, state, LOW_MIDDLE, -2, -1);
      return true;
    case LOW_MIDDLE: /* middle, low */
      if (less) {
        store(L, state->middle, now->low);
        return end_median(L, state);
      }
      lua_pop(L, 1);
      lua_geti(L, SLOT_TABLE, now->high);
      ask(L, state, MIDDLE_HIGH, -1, -2);
      return true;
    case MIDDLE_HIGH: /* middle, high */
      if (less) store(L, state->middle, now->high);
      else lua_pop(L, 2);
      return end_median(L, state);
    case FROM_LOW: /* pivot, table[up] */
      if (!less) {
        scan_down(L, state);
        return true;
      }
      if (state->up == now->high - 1) luaL_error(L, "invalid order function for sorting");
      lua_pop(L, 1);
      scan_up(L, state);
      return true;
    case FROM_HIGH: /* pivot, table[up], table[down] */
      if (less) {
        if (state->down < state->up) luaL_error(L, "invalid order function for sorting");
        lua_pop(L, 1);
        scan_down(L, state);
      } else if (state->down < state->up) { /* the fingers have met: the pivot's place is `up` */
        lua_pop(L, 1);
        store(L, now->high - 1, state->up);
        return split(L, state, state->up);
      } else {
        store(L, state->up, state->down);
        scan_up(L, state);
      }
      return true;
  }
  return false;
}

/* An answer lies on top: goes on from question to question. */
static int go_on(lua_State *L, int status, lua_KContext context) {
  (void)status;
  sorting *state = (sorting *)context;
  for (;;) {
    bool less = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (!answer(L, state, less)) return 0;
    lua_callk(L, 2, 1, context, go_on);
  }
}

/* What a value that is no table must have to be sorted as if it were one. */
static bool acts_as_table(lua_State *L, int index) {
  static const char *const needed[] = {"__index", "__newindex", "__len"};
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    if (luaL_getmetafield(L, index, needed[i]) == LUA_TNIL) return false;
    lua_pop(L, 1);
  }
  return true;
}

/* sort(list [, comparator]) */
int uns_table_sort(lua_State *L) {
  if (!lua_isfunction(L, 2) || !lua_isyieldable(L)) return uns_stdlib_stock(L);
  if (!lua_istable(L, 1) && !acts_as_table(L, 1)) return uns_stdlib_stock(L);
  lua_Integer length = luaL_len(L, 1);
  if (length < 2) return 0;
  luaL_argcheck(L, length < INT_MAX, 1, "array too big");
  lua_settop(L, 2);
  size_t ranges = 1;
  for (lua_Integer rest = length; rest > 1; rest /= 2) ranges++;
  sorting *state = lua_newuserdatauv(L, sizeof *state + ranges * sizeof(range), 0);
  uns_stdlib_enter_barrier(L, uns_upvalue_runtime(L), SLOT_STATE, lua_upvalueindex(3));
  state->now = (range){1, (unsigned)length, 0};
  state->later_count = 0;
  begin_range(L, state);
  lua_callk(L, 2, 1, (lua_KContext)state, go_on);
  return go_on(L, LUA_OK, (lua_KContext)state);
}

void uns_bind_sort(lua_State *L, uns_runtime *runtime) {
  if (!uns_stdlib_push_library(L, LUA_TABLIBNAME)) return;
  lua_pushlightuserdata(L, runtime);
  if (lua_getfield(L, -2, "sort") == LUA_TFUNCTION && uns_stdlib_is_plain(L, -1)) {
    uns_stdlib_push_barrier_meta(L, runtime);
    lua_pushcclosure(L, uns_table_sort, 3);
    lua_setfield(L, -2, "sort");
    lua_pop(L, 1);
  } else {
    lua_pop(L, 3);
  }
}
