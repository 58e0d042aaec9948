/*
 * combine: all, settled, any, race: one future over a list of futures of any kind.
 *
 * A group is one userdata with a waiter for each future of the list: no closure, no task. It decides inside a
 * settling call, where no user code may run, and settles its future in the next turn of the loop.
 */
#include "bind/bind.h"
#include "core/error.h"
#include "loop/cancel.h"

typedef enum { MODE_ALL, MODE_SETTLED, MODE_ANY, MODE_RACE } group_mode;
static const char *const mode_names[] = {"all", "settled", "any", "race"};

/* User values of a group: the list, and the future it owes. */
enum { VALUE_LIST = 1, VALUE_FUTURE };

typedef struct group group;

typedef struct {
  uns_waiter waiter;
  group *group;
  uns_future *future; /* of the list; NULL: not looked at yet */
} member;

struct group {
  uns_behind behind;
  uns_callback callback;
  uns_runtime *runtime;
  group_mode mode;
  int pin;            /* of the group itself, until it has settled its future */
  lua_Integer count;  /* of the list */
  lua_Integer left;   /* not yet settled */
  lua_Integer winner; /* place in the list of the one that decided, 0: none in particular */
  bool decided, cancelled;
  uns_link unwanted; /* in runtime->unwanted, for as long as its members are being cancelled */
  member members[];
};

/* Waits for none of them any more. */
static void let_go(group *mine) {
  for (lua_Integer i = 0; i < mine->count; i++) uns_future_remove_waiter(&mine->members[i].waiter);
}

static void decide(group *mine, lua_Integer winner) {
  if (mine->decided) return;
  mine->decided = true;
  mine->winner = winner;
  let_go(mine);
  uns_runtime_call_soon(mine->runtime, &mine->callback);
}

/* One of the list has settled. */
static void count_down(group *mine, lua_Integer place, const uns_future *future) {
  bool failed = future->state != UNS_FUTURE_DONE;
  mine->left--;
  switch (mine->mode) {
    case MODE_ALL:
      if (failed) decide(mine, place);
      break;
    case MODE_ANY:
      if (!failed) decide(mine, place);
      break;
    case MODE_RACE: decide(mine, place); break;
    case MODE_SETTLED: break;
  }
  if (mine->left == 0) decide(mine, 0);
}

static void on_settled(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  (void)runtime;
  member *one = uns_container_of(waiter, member, waiter);
  count_down(one->group, one - one->group->members + 1, future);
}

/* Pushes the table of first results. */
static void push_first_results(uns_runtime *runtime, lua_State *L, int list, lua_Integer count) {
  lua_createtable(L, (int)count, 0);
  int results = lua_gettop(L);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, list, i);
    if (uns_future_push_outcome(runtime, L, results + 1) > 0) {
      lua_pushvalue(L, results + 2);
      lua_rawseti(L, results, i);
    }
    lua_settop(L, results);
  }
}

/* Every one of `any` failed: an error with all of theirs, in the order of the list. */
static void push_all_failed(uns_runtime *runtime, lua_State *L, int list, lua_Integer count) {
  uns_error_push(L, "all_failed", "all %d failed", (int)count);
  lua_createtable(L, (int)count, 0);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, list, i);
    uns_future_push_error(runtime, L, lua_gettop(L));
    lua_rawseti(L, -3, i);
    lua_pop(L, 1);
  }
  lua_setfield(L, -2, "errors");
}

/* Gives the future at `future` the outcome of the one at `winner`. */
static void pass_on(uns_runtime *runtime, lua_State *L, int future, int winner) {
  const uns_future *first = lua_touserdata(L, winner);
  if (first->state == UNS_FUTURE_DONE) {
    uns_future_resolve(runtime, L, future, uns_future_push_outcome(runtime, L, winner));
    return;
  }
  uns_future_push_error(runtime, L, winner);
  uns_future_push_traceback(runtime, L, winner);
  uns_future_fail(runtime, L, future, (uns_future_state)first->state);
}

/*
 * What lost is cancelled, and is not news any more: how it ends is a consequence. The futures: the list at `list`.
 */
static void cancel_losers(group *mine, lua_State *L, int list) {
  for (lua_Integer i = 1; i <= mine->count; i++) {
    if (i == mine->winner) continue;
    lua_rawgeti(L, list, i);
    uns_future *future = lua_touserdata(L, -1);
    if (uns_future_settled(future)) {
      uns_future_observe(mine->runtime, L, lua_gettop(L));
    } else {
      future->expected = true;
      lua_pushnil(L);
      uns_cancel(mine->runtime, L, lua_gettop(L) - 1);
    }
    lua_pop(L, 1);
  }
}

/* Protected, for it makes tables: (group) */
static int settle_group(lua_State *L) {
  group *mine = lua_touserdata(L, 1);
  uns_runtime *runtime = mine->runtime;
  if (mine->cancelled) return 0; /* it has settled already */
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_getiuservalue(L, 1, VALUE_LIST);
  lua_getiuservalue(L, 1, VALUE_FUTURE);
  if (mine->winner != 0) {
    lua_rawgeti(L, 2, mine->winner);
    pass_on(runtime, L, 3, 4);
    cancel_losers(mine, L, 2);
  } else if (mine->mode == MODE_ANY) {
    push_all_failed(runtime, L, 2, mine->count);
    lua_pushnil(L);
    uns_future_fail(runtime, L, 3, UNS_FUTURE_FAILED);
  } else {
    if (mine->mode == MODE_ALL) push_first_results(runtime, L, 2, mine->count);
    else lua_pushvalue(L, 2);
    uns_future_resolve(runtime, L, 3, 1);
  }
  return 0;
}

static void run_group(uns_callback *callback, uns_runtime *runtime) {
  group *mine = uns_container_of(callback, group, callback);
  lua_State *L = runtime->L;
  luaL_checkstack(L, 8, NULL);
  uns_runtime_push_pin(runtime, L, mine->pin);
  uns_runtime_unpin(runtime, mine->pin);
  mine->pin = 0;
  lua_pushcfunction(L, settle_group);
  lua_pushvalue(L, -2);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* no memory for the results: that is the outcome */
    lua_getiuservalue(L, -2, VALUE_FUTURE);
    lua_insert(L, -2);
    uns_future_fail_safely(runtime, L, lua_gettop(L) - 1, UNS_FUTURE_FAILED);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* Those of the list that nobody else waits for. What becomes of a promise is its holder's business. */
static void cancel_members(group *mine) {
  for (lua_Integer i = 0; i < mine->count; i++) {
    uns_future *future = mine->members[i].future;
    if (!future->resolvable && !uns_cancel_is_awaited(future)) uns_cancel_work(mine->runtime, future);
  }
}

/*
 * Nobody waits for the whole any more. Groups of groups stand in a list while they are being cancelled: they are nested to
 * any depth, and this must not be.
 */
static void cancel_group(const uns_behind *behind, uns_runtime *runtime) {
  group *mine = (group *)uns_container_of(behind, group, behind);
  lua_State *L = runtime->L;
  if (mine->pin == 0 || !lua_checkstack(L, 12)) return;
  int top = lua_gettop(L);
  uns_runtime_push_pin(runtime, L, mine->pin);
  lua_getiuservalue(L, -1, VALUE_FUTURE);
  if (!uns_future_settled(lua_touserdata(L, -1))) uns_cancel_end(runtime, L);
  lua_settop(L, top);
  if (mine->decided) return; /* the others go the way that was decided */
  mine->cancelled = true;
  decide(mine, 0);
  bool under_way = !uns_list_empty(&runtime->unwanted);
  uns_list_push_back(&runtime->unwanted, &mine->unwanted);
  while (!under_way && !uns_list_empty(&runtime->unwanted)) {
    group *first = uns_container_of(runtime->unwanted.next, group, unwanted);
    cancel_members(first);
    uns_list_remove(&first->unwanted);
  }
}

static bool each_member(const uns_behind *behind, bool (*visit)(void *, const uns_future *), void *context) {
  const group *mine = uns_container_of(behind, group, behind);
  for (lua_Integer i = 0; i < mine->count; i++) {
    const uns_future *future = mine->members[i].future;
    if (future != NULL && !uns_future_settled(future) && visit(context, future)) return true;
  }
  return false;
}

/* A copy of the list at 1, of futures alone: what the caller does to its table afterwards changes nothing. */
static lua_Integer copy_list(lua_State *L, group_mode mode) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer count = (lua_Integer)lua_rawlen(L, 1);
  if (count == 0 && (mode == MODE_ANY || mode == MODE_RACE)) {
    luaL_error(L, "bad argument #1 to '%s' (a list with nothing in it can never settle)", mode_names[mode]);
  }
  lua_createtable(L, (int)count, 0);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, 1, i);
    if (uns_future_test(L, -1) == NULL) {
      luaL_error(L, "bad argument #1 to '%s' (item %d is a %s, not a future)", mode_names[mode], (int)i,
                 luaL_typename(L, -1));
    }
    lua_rawseti(L, -2, i);
  }
  return count;
}

static int combine(lua_State *L, group_mode mode) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_settop(L, 1);
  lua_Integer count = copy_list(L, mode);
  group *mine = lua_newuserdatauv(L, sizeof *mine + (size_t)count * sizeof *mine->members, 2);
  uns_future_push(runtime, L, UNS_KIND_PROMISE, mode_names[mode]);
  *mine = (group){
      .behind = {each_member, cancel_group}, .runtime = runtime, .mode = mode, .count = count, .left = count};
  uns_callback_init(&mine->callback, run_group);
  uns_list_init(&mine->unwanted);
  for (lua_Integer i = 0; i < count; i++) {
    mine->members[i].group = mine;
    mine->members[i].future = NULL;
    mine->members[i].waiter.wake = on_settled;
    mine->members[i].waiter.listens = false;
    mine->members[i].waiter.quiet = true;
    uns_list_init(&mine->members[i].waiter.link);
  }
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 3, VALUE_LIST);
  lua_pushvalue(L, 4);
  lua_setiuservalue(L, 3, VALUE_FUTURE);
  lua_pushvalue(L, 3);
  mine->pin = uns_runtime_pin(runtime, L);
  for (lua_Integer i = 1; i <= count && !mine->decided; i++) {
    lua_rawgeti(L, 2, i);
    uns_future *future = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (uns_future_settled(future)) count_down(mine, i, future);
    else uns_future_add_waiter(future, &mine->members[i - 1].waiter);
    mine->members[i - 1].future = future;
  }
  if (count == 0) decide(mine, 0);
  ((uns_future *)lua_touserdata(L, 4))->behind = &mine->behind;
  return 1;
}

static int combine_all(lua_State *L) { return combine(L, MODE_ALL); }
static int combine_settled(lua_State *L) { return combine(L, MODE_SETTLED); }
static int combine_any(lua_State *L) { return combine(L, MODE_ANY); }
static int combine_race(lua_State *L) { return combine(L, MODE_RACE); }

static const luaL_Reg functions[] = {
    {"all", combine_all}, {"settled", combine_settled}, {"any", combine_any}, {"race", combine_race}, {NULL, NULL}};

void uns_bind_combine(lua_State *L, uns_runtime *runtime) { uns_bind_functions(L, runtime, functions); }
