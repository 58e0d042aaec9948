/*
 * select: one wait for whichever comes first: an item, room for one, a future, a limit in time.
 *
 *   - The list is looked at from its beginning: of several that are ready the first is served, the others are untouched.
 *   - While it waits, the task stands in a line for each case, with a waiter of the selection's. The first that is told
 *     wakes the task, which leaves all lines at once (task->leave), so nothing is given twice.
 *   - Where one of the channels is shared, that could happen in another thread meanwhile: so all who give something to one
 *     of the waiters take the selection's choice first (core/channel.h), and only one can.
 */
#include "bind/bind.h"
#include "core/error.h"
#include "core/packet.h"
#include "loop/channel.h"

#define SELECTION_TYPE "unsync.Selection"

typedef enum { CASE_RECEIVE, CASE_SEND, CASE_FUTURE } case_kind;

typedef struct selection selection;

typedef struct {
  uns_waiter waiter;
  selection *selection;
  case_kind kind;
  const uns_future *future; /* of CASE_FUTURE; the task's stack holds it */
} one_case;

struct selection {
  uns_behind behind;
  uns_task *task;
  size_t count;         /* of those that stand in line */
  size_t chosen;        /* from 1; 0: none yet */
  uint64_t deadline_ns; /* 0: none */
  uns_choice *choice;   /* owned, once a channel that it waits at is shared; else NULL */
  one_case cases[];
};

/* The stack of a select: the user's list; the sources (channels and futures), and the values to send, in tables of ours. */
enum { SLOT_LIST = 1, SLOT_SOURCES, SLOT_VALUES, SLOT_KINDS, SLOT_SELECTION };

/* ---- reading the list ---- */

/* A case is on top; it is popped, and what it is lies in the three tables at `place`. */
static void read_case(lua_State *L, lua_Integer place) {
  case_kind kind = CASE_FUTURE;
  if (uns_channel_test(L, -1) != NULL) {
    kind = CASE_RECEIVE;
  } else if (lua_istable(L, -1)) {
    kind = CASE_SEND;
    lua_getfield(L, -1, "value");
    lua_rawseti(L, SLOT_VALUES, place);
    lua_getfield(L, -1, "send");
    lua_remove(L, -2);
    if (uns_channel_test(L, -1) == NULL) {
      luaL_error(L, "bad argument #1 to 'select' (item %d: 'send' is a %s, not a channel)", (int)place,
                 luaL_typename(L, -1));
    }
  } else if (uns_future_test(L, -1) == NULL) {
    luaL_error(L,
               "bad argument #1 to 'select' (item %d is a %s, not a channel, a future or {send = channel, value = v})",
               (int)place, luaL_typename(L, -1));
  }
  lua_rawseti(L, SLOT_SOURCES, place);
  lua_pushinteger(L, kind);
  lua_rawseti(L, SLOT_KINDS, place);
}

/* All of it before anything happens. Returns how many cases there are. */
static lua_Integer read_list(lua_State *L) {
  luaL_checktype(L, SLOT_LIST, LUA_TTABLE);
  lua_settop(L, SLOT_LIST);
  lua_Integer count = luaL_len(L, SLOT_LIST);
  int room = count > 0 && count < 1000 ? (int)count : 0;
  for (int i = 0; i < 3; i++) lua_createtable(L, room, 0);
  for (lua_Integer place = 1; place <= count; place++) {
    lua_geti(L, SLOT_LIST, place);
    read_case(L, place);
  }
  return count;
}

/* Pushes what belongs to the case at `place`, and says what it is. */
static case_kind push_case(lua_State *L, lua_Integer place) {
  lua_rawgeti(L, SLOT_KINDS, place);
  case_kind kind = (case_kind)lua_tointeger(L, -1);
  lua_pop(L, 1);
  lua_rawgeti(L, SLOT_SOURCES, place);
  return kind;
}

/* ---- outcomes: the source is on top ---- */

static int return_future(lua_State *L, uns_runtime *runtime) {
  int source = lua_gettop(L);
  const uns_future *future = lua_touserdata(L, source);
  if (future->state != UNS_FUTURE_DONE) return 1; /* its await raises */
  return 1 + uns_future_push_outcome(runtime, L, source);
}

static int return_closed(lua_State *L, case_kind kind) {
  if (kind == CASE_SEND) return uns_error_raise(L, "closed", "closed: nobody can send on this channel any more");
  lua_pushnil(L);
  lua_pushliteral(L, "closed");
  return 3;
}

static int return_timeout(lua_State *L) {
  lua_pushnil(L);
  lua_pushliteral(L, "timeout");
  return 2;
}

/* Serves the case on top where it is ready: the number of results, or 0 and it is popped. */
static int try_case(lua_State *L, uns_runtime *runtime, lua_Integer place) {
  case_kind kind = push_case(L, place);
  int source = lua_gettop(L);
  uns_channel_result result;
  if (kind == CASE_FUTURE) {
    uns_future_refresh(runtime, L, source);
    if (uns_future_settled(lua_touserdata(L, source))) return return_future(L, runtime);
    lua_pop(L, 1);
    return 0;
  }
  if (kind == CASE_RECEIVE) {
    result = uns_channel_try_receive(runtime, L, source);
    if (result == UNS_CHANNEL_DONE) return 2;
  } else {
    lua_rawgeti(L, SLOT_VALUES, place);
    result = uns_channel_try_send(runtime, L, source, source + 1);
    lua_pop(L, 1);
    if (result == UNS_CHANNEL_DONE) return 1;
  }
  if (result == UNS_CHANNEL_CLOSED) return return_closed(L, kind);
  lua_pop(L, 1);
  return 0;
}

/* ---- waiting ---- */

static void on_case(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  one_case *mine = uns_container_of(waiter, one_case, waiter);
  selection *all = mine->selection;
  /* Channels took the choice before they gave anything. */
  if (future != NULL && all->choice != NULL && !uns_choice_take(all->choice)) return;
  all->chosen = (size_t)(mine - all->cases) + 1;
  uns_task_wake(runtime, all->task);
}

/* Where it was woken by something else, somebody may have served it all the same: then that is what counts. */
static void leave_lines(const uns_runtime *runtime, selection *all) {
  if (all->chosen == 0 && all->choice != NULL) uns_choice_take(all->choice); /* from here on nobody can any more */
  for (size_t i = 0; i < all->count; i++) {
    uns_waiter *waiter = &all->cases[i].waiter;
    uns_channel_leave(runtime, waiter);
    if (all->chosen == 0 && waiter->told != UNS_TOLD_NONE) all->chosen = i + 1;
  }
  uns_choice_unref(all->choice);
  all->choice = NULL;
}

static bool each_future(const uns_behind *behind, bool (*visit)(void *, const uns_future *), void *context) {
  const selection *all = uns_container_of(behind, selection, behind);
  for (size_t i = 0; i < all->count; i++) {
    const uns_future *future = all->cases[i].future;
    if (future != NULL && !uns_future_settled(future) && visit(context, future)) return true;
  }
  return false;
}

static void on_leave(uns_task *task, uns_runtime *runtime) { leave_lines(runtime, task->extra->wait_in); }

/* The values that nobody took are forgotten. */
static void withdraw(lua_State *L, const selection *all) {
  for (size_t i = 0; i < all->count; i++) {
    if (all->cases[i].kind != CASE_SEND) continue;
    push_case(L, (lua_Integer)i + 1);
    uns_channel_withdraw(L, lua_gettop(L), &all->cases[i].waiter);
    lua_pop(L, 1);
  }
}

static int select_now(lua_State *L, uint64_t deadline_ns, bool is_over);

static int after_wait(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task *task = runtime->current;
  selection *all = lua_touserdata(L, SLOT_SELECTION);
  bool timed_out = task->timed_out;
  task->timed_out = false;
  withdraw(L, all);
  if (all->chosen == 0) {
    uns_task_check_interrupt(runtime, L);
    return timed_out ? return_timeout(L) : luaL_error(L, "a select was woken for nothing");
  }
  one_case *mine = &all->cases[all->chosen - 1];
  uns_told told = (uns_told)mine->waiter.told;
  case_kind kind = push_case(L, (lua_Integer)all->chosen);
  int source = lua_gettop(L);
  bool received = kind == CASE_RECEIVE && told == UNS_TOLD_GIVEN;
  uns_channel_keep(task, told);
  if (uns_task_is_interrupted(task) && received) uns_channel_return(runtime, L, source, &mine->waiter);
  uns_task_check_interrupt(runtime, L);
  if (told == UNS_TOLD_RETRY) {
    uint64_t deadline_ns = all->deadline_ns;
    lua_settop(L, SLOT_SELECTION - 1);
    return select_now(L, deadline_ns, deadline_ns != 0 && uns_now_ns(runtime) >= deadline_ns);
  }
  if (kind == CASE_FUTURE) return return_future(L, runtime);
  if (told == UNS_TOLD_CLOSED) return return_closed(L, kind);
  if (!received) return 1;
  uns_channel_take(L, source, &mine->waiter);
  return 2;
}

/* Takes a place in the line of the case at `place`. May raise without memory; it is in no line then. */
static void line_up(lua_State *L, uns_runtime *runtime, selection *all, lua_Integer place) {
  one_case *mine = &all->cases[place - 1];
  *mine = (one_case){.selection = all, .kind = push_case(L, place)};
  mine->waiter.wake = on_case;
  mine->waiter.task = all->task;
  mine->waiter.choice = &all->choice;
  uns_list_init(&mine->waiter.link);
  all->count++;
  int source = lua_gettop(L);
  mine->future = mine->kind == CASE_FUTURE ? lua_touserdata(L, source) : NULL;
  if (mine->kind == CASE_RECEIVE) {
    uns_channel_wait_to_receive(runtime, L, source, &mine->waiter);
  } else if (mine->kind == CASE_SEND) {
    lua_rawgeti(L, SLOT_VALUES, place);
    uns_channel_wait_to_send(runtime, L, source, &mine->waiter, source + 1);
  } else {
    uns_future *future = lua_touserdata(L, source);
    uns_future_add_waiter(future, &mine->waiter);
    if (uns_future_is_elsewhere(future)) uns_task_hope(runtime, all->task);
  }
  lua_settop(L, source - 1);
}

/* Protected, for it may run out of memory when it stands in some lines already: (list, sources, values, kinds, selection) */
static int line_up_for_all(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  selection *all = lua_touserdata(L, SLOT_SELECTION);
  lua_Integer count = (lua_Integer)lua_rawlen(L, SLOT_SOURCES);
  for (lua_Integer place = 1; place <= count; place++) line_up(L, runtime, all, place);
  return 0;
}

/* Items that it was given, and that nobody will take, go back in front. */
static void give_back(selection *all) {
  for (size_t i = 0; i < all->count; i++) {
    uns_waiter *waiter = &all->cases[i].waiter;
    if (waiter->elsewhere != NULL) uns_channel_return(NULL, NULL, 0, waiter); /* without its task, which may be gone */
  }
}

static int selection_gc(lua_State *L) {
  selection *all = luaL_testudata(L, 1, SELECTION_TYPE);
  if (all != NULL) give_back(all);
  return 0;
}

static int wait_for_all(lua_State *L, uns_runtime *runtime, lua_Integer count, uint64_t deadline_ns) {
  uns_task *task = uns_task_check_can_wait(runtime, L);
  selection *all = lua_newuserdatauv(L, sizeof *all + (size_t)count * sizeof *all->cases, 0);
  *all = (selection){.behind.each = each_future, .task = task, .deadline_ns = deadline_ns};
  luaL_checkstack(L, 8, NULL);
  lua_pushlightuserdata(L, runtime);
  lua_pushcclosure(L, line_up_for_all, 1);
  if (deadline_ns != 0 && uns_timer_arm(runtime, &task->timer, deadline_ns) != UNS_OK)
    luaL_error(L, "not enough memory"); /* from here on nothing is raised that leaves it armed */
  for (int slot = SLOT_LIST; slot <= SLOT_SELECTION; slot++) lua_pushvalue(L, slot);
  if (lua_pcall(L, SLOT_SELECTION, 0, 0) != LUA_OK) {
    leave_lines(runtime, all);
    withdraw(L, all);
    give_back(all);
    if (task->hopeful) uns_runtime_answered(runtime);
    task->hopeful = false;
    if (uns_timer_armed(&task->timer)) uns_timer_disarm(runtime, &task->timer);
    return lua_error(L);
  }
  for (size_t i = 0; i < all->count; i++) {
    if (all->cases[i].waiter.elsewhere == NULL) continue;
    luaL_setmetatable(L, SELECTION_TYPE); /* what it is given may be left over where the state ends */
    break;
  }
  task->timed_out = false;
  task->extra->wait_in = all;
  task->extra->leave = on_leave;
  task->extra->behind = &all->behind;
  task->waits_for = UNS_WAITS_SELECT;
  return uns_task_park(runtime, L, 0, after_wait);
}

/* It has been served already, the results lie above slot 5, but it has let others run. */
static int after_turn(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (uns_task_is_interrupted(runtime->current) && context != 0) {
    uns_channel_put_back(runtime, L, SLOT_SELECTION + 1);
  }
  uns_task_check_interrupt(runtime, L);
  return lua_gettop(L) - SLOT_SELECTION;
}

/* The list has been read, nothing lies above its tables. `is_over`: nothing is waited for. */
static int select_now(lua_State *L, uint64_t deadline_ns, bool is_over) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_Integer count = (lua_Integer)lua_rawlen(L, SLOT_SOURCES);
  lua_pushnil(L); /* in the selection's place */
  for (lua_Integer place = 1; place <= count; place++) {
    int results = try_case(L, runtime, place);
    if (results == 0) continue;
    if (!uns_task_turn_is_over(runtime, L)) return results;
    bool received = results == 2 && uns_channel_test(L, SLOT_SELECTION + 1) != NULL;
    return uns_task_park(runtime, L, received, after_turn);
  }
  if (is_over) {
    return_timeout(L);
    return uns_task_turn_is_over(runtime, L) ? uns_task_park(runtime, L, false, after_turn) : 2;
  }
  lua_settop(L, SLOT_SELECTION - 1);
  return wait_for_all(L, runtime, count, deadline_ns);
}

/* select{channel, future, {send = channel, value = v}, timeout = s} -> the source, its values; or nil, "timeout" */
static int core_select(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_Integer count = read_list(L);
  lua_getfield(L, SLOT_LIST, "timeout");
  if (!lua_isnil(L, -1)) {
    int type = lua_type(L, -1);
    if (type != LUA_TNUMBER)
      return luaL_error(L, "bad argument #1 to 'select' ('timeout' is a %s, not a number)", lua_typename(L, type));
    lua_Number seconds = lua_tonumber(L, -1);
    if (!(seconds >= 0)) return luaL_error(L, "bad argument #1 to 'select' ('timeout' must be 0 or more seconds)");
  } else if (count == 0) {
    return luaL_error(L, "bad argument #1 to 'select' (nothing to wait for)");
  }
  uint64_t deadline_ns = 0;
  bool is_over = false;
  if (!lua_isnil(L, -1)) {
    uint64_t duration_ns = uns_check_seconds(L, SLOT_SELECTION);
    is_over = duration_ns == 0 && count > 0;
    deadline_ns = uns_now_ns(runtime) + duration_ns;
  }
  lua_settop(L, SLOT_SELECTION - 1);
  return select_now(L, deadline_ns, is_over);
}

static const luaL_Reg functions[] = {{"select", core_select}, {NULL, NULL}};

void uns_bind_select(lua_State *L, uns_runtime *runtime) {
  uns_bind_functions(L, runtime, functions);
  luaL_newmetatable(L, SELECTION_TYPE);
  lua_pushcfunction(L, selection_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
