/* inspect: the running task, and a list of all live ones and of the calls under way. */
#include "bind/bind.h"

/* current() -> Future of the running task; nil in a callback, and on a main thread that is no task */
static int core_current(lua_State *L) {
  uns_task *task = uns_upvalue_runtime(L)->current;
  if (task == NULL) lua_pushnil(L);
  else uns_task_push_future(L, task);
  return 1;
}

static void set_age(lua_State *L, uint64_t since_ns, uint64_t now_ns) {
  lua_pushnumber(L, since_ns != 0 && now_ns > since_ns ? (lua_Number)(now_ns - since_ns) / 1e9 : 0);
  lua_setfield(L, -2, "age");
}

static void set_text(lua_State *L, const char *field, const char *text) {
  if (text == NULL) return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, field);
}

static void set_flag(lua_State *L, const char *field, bool is_set) {
  if (!is_set) return;
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, field);
}

static const char *state_of(const uns_task *task) {
  if (task->held) return "queued";
  switch (task->state) {
    case UNS_TASK_PARKED: return "waiting";
    case UNS_TASK_READY: return "ready";
    default: return "running";
  }
}

static void push_task(lua_State *L, uns_task *task, uint64_t now_ns) {
  lua_createtable(L, 0, 10);
  lua_pushinteger(L, (lua_Integer)task->id);
  lua_setfield(L, -2, "id");
  lua_pushinteger(L, (lua_Integer)task->parent_id);
  lua_setfield(L, -2, "parent");
  set_text(L, "kind", "io");
  set_text(L, "name", task->is_main ? "main" : task->future != NULL ? task->future->name : NULL);
  set_text(L, "state", state_of(task));
  set_text(L, "waits_for", task->waits_for);
  set_flag(L, "cancelled", task->base.cancelled);
  set_age(L, task->since_ns, now_ns);
  uns_task_push_where(L, task);
  lua_setfield(L, -2, "where");
  uns_task_push_future(L, task);
  lua_setfield(L, -2, "future");
}

/* A call under way is pinned by its job. The pin and what it pins lie on top: pushes a record, or nothing and returns false. */
static bool push_call(lua_State *L, uint64_t now_ns) {
  int future_index = lua_gettop(L);
  const uns_future *future = uns_future_test(L, future_index);
  if (future == NULL || future->job == NULL || future->job->pin != lua_tointeger(L, -2)) return false;
  bool started = future->job != NULL &&
                 atomic_load_explicit(&future->job->state, memory_order_relaxed) == UNS_JOB_STARTED;
  lua_createtable(L, 0, 8);
  lua_pushinteger(L, (lua_Integer)future->job->parent_id);
  lua_setfield(L, -2, "parent");
  set_text(L, "kind", uns_future_kind_name(future));
  set_text(L, "name", future->name);
  set_text(L, "state", started ? "running" : "queued");
  set_flag(L, "cancelled", future->job != NULL && atomic_load_explicit(&future->job->cancel, memory_order_relaxed) != 0);
  set_age(L, future->since_ns, now_ns);
  lua_pushvalue(L, future_index);
  lua_setfield(L, -2, "future");
  return true;
}

/* tasks() -> the records of all live tasks, then those of the calls under way, both in no particular order */
static int core_tasks(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uint64_t now_ns = uns_now_ns(runtime);
  lua_settop(L, 0);
  lua_newtable(L);
  lua_Integer count = 0;
  uns_task_list_running(runtime);
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    push_task(L, uns_container_of(link, uns_task, live_link), now_ns);
    lua_rawseti(L, 1, ++count);
  }
  uns_runtime_push_pins(runtime, L);
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    if (push_call(L, now_ns)) lua_rawseti(L, 1, ++count);
  }
  lua_settop(L, 1);
  return 1;
}

static const luaL_Reg functions[] = {{"current", core_current}, {"tasks", core_tasks}, {NULL, NULL}};

void uns_bind_inspect(lua_State *L, uns_runtime *runtime) { uns_bind_functions(L, runtime, functions); }
