/*
 * collect: futures one by one, as they settle or in the order they were added: under as_completed and map.
 *
 * A collector is one userdata with a record for each future that was added: no closure and no task. It holds a future
 * from when it is added until it is handed out. Within a settling call it only moves the record, and wakes who waits.
 * One that keeps the order hands out the first of its line once that has settled; those with no number stand beside the
 * line, and are handed out as soon as they have.
 */
#include "bind/bind.h"
#include "bind/wrap.h"
#include "exec/executors.h"
#include "loop/cancel.h"

#define COLLECTOR_TYPE "unsync.Collector"

typedef struct {
  uns_behind behind;
  uns_link open;    /* the line: members in the order they were added; where the order is kept, settled ones as well */
  uns_link beside;  /* those that stand beside it, not settled yet */
  uns_link settled; /* all other settled ones, in the order they settled */
  bool in_order;
  uns_task *waiting; /* in `next`, or NULL */
  size_t remote;     /* open members that somebody elsewhere may settle */
  uns_runtime *runtime;
} collector;

typedef struct {
  uns_waiter waiter;
  uns_link link;
  collector *owner;
  int pin; /* of the future */
  const uns_future *future;
  lua_Integer number; /* the caller's own; 0: it stands beside the line */
  bool remote;
} member;

static void member_free(member *one) {
  uns_future_remove_waiter(&one->waiter);
  uns_list_remove(&one->link);
  uns_runtime_unpin(one->owner->runtime, one->pin);
  uns_free(one);
}

static void on_settled(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  (void)future;
  member *one = uns_container_of(waiter, member, waiter);
  collector *mine = one->owner;
  bool stays = mine->in_order && one->number != 0;
  if (!stays) {
    uns_list_remove(&one->link);
    uns_list_push_back(&mine->settled, &one->link);
  }
  if (one->remote) mine->remote--;
  one->remote = false;
  if (stays && mine->open.next != &one->link) return; /* not its turn yet */
  if (mine->waiting != NULL && !runtime->closing) uns_task_wake(runtime, mine->waiting);
}

static bool each_of(const uns_link *list, bool (*visit)(void *, const uns_future *), void *context) {
  for (const uns_link *link = list->next; link != list; link = link->next) {
    const uns_future *future = uns_container_of(link, member, link)->future;
    if (!uns_future_settled(future) && visit(context, future)) return true;
  }
  return false;
}

static bool each_open(const uns_behind *behind, bool (*visit)(void *, const uns_future *), void *context) {
  const collector *mine = uns_container_of(behind, collector, behind);
  return each_of(&mine->beside, visit, context) || each_of(&mine->open, visit, context);
}

/* Some member that is left; NULL: there is none. */
static member *any_member(const collector *mine) {
  const uns_link *lists[] = {&mine->beside, &mine->settled, &mine->open};
  for (int i = 0; i < 3; i++) {
    if (!uns_list_empty(lists[i])) return uns_container_of(lists[i]->next, member, link);
  }
  return NULL;
}

/* The one to be handed out now; NULL: none is. */
static member *first_settled(const collector *mine) {
  if (!uns_list_empty(&mine->settled)) return uns_container_of(mine->settled.next, member, link);
  if (!mine->in_order || uns_list_empty(&mine->open)) return NULL;
  member *first = uns_container_of(mine->open.next, member, link);
  return uns_future_settled(first->future) ? first : NULL;
}

static int collector_gc(lua_State *L) {
  collector *mine = luaL_testudata(L, 1, COLLECTOR_TYPE);
  if (mine == NULL) return 0;
  for (member *one; (one = any_member(mine)) != NULL;) member_free(one);
  return 0;
}

/* collector([in_order]) -> Collector */
static int core_collector(lua_State *L) {
  bool in_order = lua_toboolean(L, 1);
  collector *mine = lua_newuserdatauv(L, sizeof *mine, 0);
  *mine = (collector){.behind.each = each_open, .runtime = uns_upvalue_runtime(L), .in_order = in_order};
  uns_list_init(&mine->open);
  uns_list_init(&mine->beside);
  uns_list_init(&mine->settled);
  luaL_setmetatable(L, COLLECTOR_TYPE);
  return 1;
}

/* collector:add(future [, number]): without a number it stands beside the line */
static int collector_add(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  collector *mine = luaL_checkudata(L, 1, COLLECTOR_TYPE);
  uns_future *future = uns_check_future(L, 2);
  lua_Integer number = luaL_optinteger(L, 3, 0);
  lua_settop(L, 2);
  int pin = uns_runtime_pin(runtime, L);
  member *one = uns_malloc(sizeof *one);
  if (one == NULL) {
    uns_runtime_unpin(runtime, pin);
    return luaL_error(L, "not enough memory");
  }
  *one = (member){.owner = mine, .pin = pin, .future = future, .number = number};
  one->waiter.wake = on_settled;
  one->waiter.quiet = true;
  uns_list_init(&one->waiter.link);
  bool settled = uns_future_settled(future), in_line = mine->in_order && number != 0;
  uns_link *list = settled && !in_line ? &mine->settled : number != 0 ? &mine->open : &mine->beside;
  uns_list_push_back(list, &one->link);
  if (settled) return 0;
  one->remote = uns_future_is_elsewhere(future);
  if (one->remote) mine->remote++;
  uns_future_add_waiter(future, &one->waiter);
  return 0;
}

static int hand_out(lua_State *L, uns_runtime *runtime, member *one) {
  lua_Integer number = one->number;
  bool failed = one->future->state != UNS_FUTURE_DONE;
  uns_runtime_push_pin(runtime, L, one->pin);
  member_free(one);
  if (number == 0) return 1;
  lua_pushinteger(L, number);
  lua_pushboolean(L, failed);
  return 3;
}

static int after_wait(lua_State *L, int status, lua_KContext context);

/* The next whose turn has come; it waits for one; nil where none is left. */
static int next_settled(lua_State *L, uns_runtime *runtime) {
  collector *mine = lua_touserdata(L, 1);
  member *first = first_settled(mine);
  if (first != NULL) return hand_out(L, runtime, first);
  if (any_member(mine) == NULL) return 0;
  uns_task *task = uns_task_check_can_wait(runtime, L);
  if (mine->waiting != NULL) return luaL_error(L, "another task waits for the next of these already");
  mine->waiting = task;
  task->waits_for = UNS_WAITS_FIRST;
  task->extra->behind = &mine->behind;
  if (mine->remote > 0) uns_task_hope(runtime, task);
  return uns_task_park(runtime, L, (lua_KContext)runtime, after_wait);
}

static int after_wait(lua_State *L, int status, lua_KContext context) {
  uns_runtime *runtime = (uns_runtime *)context;
  (void)status;
  ((collector *)lua_touserdata(L, 1))->waiting = NULL;
  uns_task_check_interrupt(runtime, L);
  return next_settled(L, runtime);
}

/* collector:next() -> Future or nil; if it has a number, that, and whether it has not succeeded */
static int collector_next(lua_State *L) {
  luaL_checkudata(L, 1, COLLECTOR_TYPE);
  lua_settop(L, 1);
  return next_settled(L, uns_upvalue_runtime(L));
}

/* Nobody wants the future on top any more: it is cancelled, and how it ends is no news. */
static void drop_top(lua_State *L, uns_runtime *runtime) {
  int index = lua_gettop(L);
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future)) {
    uns_future_observe(runtime, L, index);
  } else {
    future->expected = true;
    lua_pushnil(L);
    uns_cancel(runtime, L, index);
  }
  lua_settop(L, index - 1);
}

/* collector:drop(): nobody wants any of them any more */
static int collector_drop(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const collector *mine = luaL_checkudata(L, 1, COLLECTOR_TYPE);
  lua_settop(L, 1);
  if (mine->waiting != NULL && !runtime->closing) uns_task_wake(runtime, mine->waiting); /* it finds nothing left */
  for (member *one; (one = any_member(mine)) != NULL;) {
    uns_runtime_push_pin(runtime, L, one->pin);
    if (one->remote) one->owner->remote--;
    member_free(one);
    drop_top(L, runtime);
  }
  return 0;
}

/* cores() -> integer: worker processes at most */
static int core_cores(lua_State *L) {
  const uns_executors *executors = uns_upvalue_runtime(L)->executors;
  lua_pushinteger(L, executors != NULL && executors->process_target > 0 ? executors->process_target : 1);
  return 1;
}

/* kind(fn) -> "io", "thread", "cpu", or nil for what is not wrapped */
static int core_kind(lua_State *L) {
  luaL_checkany(L, 1);
  const char *kind = uns_wrapped_kind(L, 1);
  lua_pushstring(L, kind);
  return 1;
}

static const luaL_Reg methods[] = {
    {"add", collector_add}, {"next", collector_next}, {"drop", collector_drop}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__gc", collector_gc}, {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"collector", core_collector}, {"cores", core_cores}, {"kind", core_kind}, {NULL, NULL}};

void uns_bind_collect(lua_State *L, uns_runtime *runtime) {
  if (luaL_newmetatable(L, COLLECTOR_TYPE)) {
    uns_bind_functions(L, runtime, metamethods);
    lua_newtable(L);
    uns_bind_functions(L, runtime, methods);
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
  uns_bind_functions(L, runtime, functions);
}
