/* inspect: the running task, all live ones, calls under way, what waits for what, and the workers. */
#include "bind/bind.h"
#include "core/error.h"
#include "exec/look.h"

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

static void set_spawn_site(lua_State *L, const uns_task *task) {
  if (task->spawned == NULL) return;
  lua_pushfstring(L, "%s:%d", task->spawned->source, task->spawned->line);
  lua_setfield(L, -2, "spawned");
}

/* A task may stand for a call that goes elsewhere when its turn has come, and says so. */
static const char *kind_of(const uns_task *task) {
  return task->future != NULL ? uns_future_kind_name(task->future) : "io";
}

static void push_task(lua_State *L, uns_task *task, uint64_t now_ns) {
  lua_createtable(L, 0, 10);
  lua_pushinteger(L, (lua_Integer)task->id);
  lua_setfield(L, -2, "id");
  lua_pushinteger(L, (lua_Integer)task->parent_id);
  lua_setfield(L, -2, "parent");
  set_text(L, "kind", kind_of(task));
  set_text(L, "name", task->is_main ? "main" : task->future != NULL ? task->future->name : NULL);
  set_text(L, "state", state_of(task));
  set_text(L, "waits_for", uns_task_waits_for(task));
  set_flag(L, "cancelled", task->base.cancelled);
  set_age(L, uns_task_since_ns(task), now_ns);
  uns_task_push_where(L, task);
  lua_setfield(L, -2, "where");
  set_spawn_site(L, task);
  uns_task_push_future(L, task);
  lua_setfield(L, -2, "future");
}

/* A call under way is pinned by its job. What `pin` anchors lies on top: pushes a record, or nothing and returns false. */
static bool push_call(lua_State *L, int pin, uint64_t now_ns) {
  int future_index = lua_gettop(L);
  const uns_future *future = uns_future_test(L, future_index);
  if (future == NULL || future->job == NULL || future->job->pin != pin) return false;
  uns_job *job = future->job;
  bool started = atomic_load_explicit(&job->state, memory_order_relaxed) == UNS_JOB_STARTED;
  lua_createtable(L, 0, 8);
  lua_pushinteger(L, (lua_Integer)job->parent_id);
  lua_setfield(L, -2, "parent");
  set_text(L, "kind", uns_future_kind_name(future));
  set_text(L, "name", future->name);
  set_text(L, "state", started ? "running" : "queued");
  set_flag(L, "cancelled", atomic_load_explicit(&job->cancel, memory_order_relaxed) != 0);
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
  /* By number: to make a record may collect, and a finalizer may start calls and end some. */
  for (int pin = 1, last = runtime->last_pin; pin <= last; pin++) {
    lua_rawgeti(L, 2, pin);
    if (push_call(L, pin, now_ns)) lua_rawseti(L, 1, ++count);
    lua_settop(L, 2);
  }
  lua_settop(L, 1);
  return 1;
}

/* stack(future) -> string: the whole stack of the task behind it; nil where it is no live task of this state */
static int core_stack(lua_State *L) {
  const uns_future *future = uns_check_future(L, 1);
  if (future->task == NULL) return 0;
  lua_State *co = future->task->co;
  luaL_traceback(L, co, NULL, co == L ? 2 : 0); /* without those who ask */
  return 1;
}

/* ---- workers ---- */

static void push_worker(void *context, const uns_worker_info *worker) {
  lua_State *L = context; /* a list on top */
  lua_createtable(L, 0, 5);
  set_text(L, "kind", worker->process ? "process" : "thread");
  lua_pushinteger(L, worker->id);
  lua_setfield(L, -2, "id");
  set_text(L, "state", worker->state);
  if (worker->name[0] != '\0') {
    set_text(L, "name", worker->name);
    set_age(L, worker->since_ns, uns_clock_ns());
  }
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

/* Collects first, since pushing may raise: (list of infos as a userdata) */
typedef struct {
  size_t count;
  uns_worker_info list[256];
} workers;

static void keep_worker(void *context, const uns_worker_info *worker) {
  workers *all = context;
  if (all->count < sizeof all->list / sizeof *all->list) all->list[all->count++] = *worker;
}

/* workers() -> list of at most 256, calls queued for threads, for processes */
static int core_workers(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_settop(L, 0);
  workers *all = lua_newuserdatauv(L, sizeof *all, 0);
  all->count = 0;
  uns_queue_depths depths;
  uns_look_at_workers(runtime->executors, keep_worker, all, &depths);
  lua_newtable(L);
  for (size_t i = 0; i < all->count; i++) push_worker(L, &all->list[i]);
  lua_pushinteger(L, (lua_Integer)depths.threads);
  lua_pushinteger(L, (lua_Integer)depths.processes);
  return 3;
}

/* counts() -> live tasks, of these ready, timers, calls and requests under way */
static int core_counts(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_Integer ready = 0;
  for (const uns_link *link = runtime->ready.next; link != &runtime->ready; link = link->next) ready++;
  lua_pushinteger(L, (lua_Integer)runtime->live_count);
  lua_pushinteger(L, ready);
  lua_pushinteger(L, (lua_Integer)runtime->timers.count);
  lua_pushinteger(L, (lua_Integer)runtime->pending);
  return 4;
}

/* ---- why ---- */

enum { LINKS_MAX = 64 }; /* of a chain that is shown */

/* Appends what is on top, popped, to the list at 2. */
static void append(lua_State *L) { lua_rawseti(L, 2, (lua_Integer)lua_rawlen(L, 2) + 1); }

static void push_pending(lua_State *L, const uns_future *future, const char *state) {
  lua_createtable(L, 0, 6);
  set_text(L, "kind", uns_future_kind_name(future));
  set_text(L, "name", future->name);
  set_text(L, "state", state);
  set_age(L, future->since_ns, uns_clock_ns());
}

static void push_waiting(lua_State *L, uns_task *task, const uns_chain_link *behind) {
  lua_createtable(L, 0, 8);
  set_text(L, "kind", kind_of(task));
  set_text(L, "name", task->is_main ? "main" : task->future != NULL ? task->future->name : NULL);
  set_text(L, "state", state_of(task));
  set_age(L, uns_task_since_ns(task), uns_now_ns(uns_runtime_of(L)));
  uns_task_push_where(L, task);
  lua_setfield(L, -2, "where");
  set_spawn_site(L, task);
  if (task->state != UNS_TASK_PARKED && !task->held) return;
  uns_text text = {0};
  if (uns_task_wanted(task) != NULL && behind->kind == UNS_BEHIND_TASK)
    uns_text_add(&text, "%s", uns_task_waits_for(task));
  else uns_chain_add_wait(&text, task, behind, false);
  if (uns_timer_armed(&task->timer)) uns_text_add(&text, uns_task_awaited(task) != NULL ? ", or a limit in time" : "");
  if (text.bytes == NULL) return;
  uns_error_push_text(L, text.bytes);
  lua_setfield(L, -2, "waits_for");
}

static void push_call_link(lua_State *L, uns_runtime *runtime, const uns_future *future, const uns_job *job) {
  uns_worker_info info;
  uns_look_for_call(runtime->executors, job, &info);
  bool held = atomic_load_explicit(&job->state, memory_order_relaxed) == UNS_JOB_HELD;
  push_pending(L, future, held ? "queued" : info.state);
  if (held) set_text(L, "waits_for", "its turn behind a limit");
  if (info.id == 0) return;
  set_text(L, "worker", info.process ? "process" : "thread");
  lua_pushinteger(L, info.id);
  lua_setfield(L, -2, "worker_id");
}

enum { HOPS_MAX = 8 };

/* What other states have answered. */
typedef struct {
  int count;
  uns_text texts[HOPS_MAX]; /* owned */
} answers;

/* push_answers(answers, list): a record for each */
static int push_answers(lua_State *L) {
  const answers *all = lua_touserdata(L, 1);
  for (int i = 0; i < all->count; i++) {
    lua_createtable(L, 0, 1);
    set_text(L, "text", all->texts[i].bytes != NULL ? all->texts[i].bytes : "?");
    append(L);
  }
  return 0;
}

/* The rest of the chain, in other states: a record for each of them, with the lines that they have answered. */
static void add_elsewhere(lua_State *L, uns_runtime *runtime, uns_chain_link link) {
  luaL_checkstack(L, 4, NULL);
  answers all = {0};
  if (link.cell != NULL) uns_shared_ref(link.cell);
  uns_look result = UNS_LOOK_KNOWS;
  while (all.count < HOPS_MAX && result == UNS_LOOK_KNOWS) {
    result = uns_look_behind(runtime, &link, &all.texts[all.count]);
    if (result == UNS_LOOK_SILENT)
      uns_text_add(&all.texts[all.count], "no answer from there: it computes, or stands in C");
    if (result != UNS_LOOK_NOBODY) all.count++;
  }
  uns_shared_unref(link.cell);
  lua_pushcfunction(L, push_answers);
  lua_pushlightuserdata(L, &all);
  lua_pushvalue(L, 2);
  int status = lua_pcall(L, 2, 0, 0);
  for (int i = 0; i < HOPS_MAX; i++) uns_free(all.texts[i].bytes);
  if (status != LUA_OK) lua_error(L);
}

/* why(future) -> list of records: the future's own first, then what that waits for, down to the reason */
static int core_why(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const uns_future *future = uns_check_future(L, 1);
  uns_future_refresh(runtime, L, 1);
  lua_settop(L, 1);
  lua_newtable(L);
  if (uns_future_settled(future)) {
    push_pending(L, future, uns_future_state_name(future));
    append(L);
    return 1;
  }
  uns_chain_link link = uns_chain_behind_future(future, false);
  if (future->behind != NULL) { /* made of others */
    push_pending(L, future, "waiting");
    append(L);
  }
  uns_task *first = link.task;
  for (int links = 0; links < LINKS_MAX && link.kind == UNS_BEHIND_TASK; links++) {
    uns_task *task = link.task;
    if (links > 0 && task == first) {
      lua_rawgeti(L, 2, (lua_Integer)lua_rawlen(L, 2));
      set_flag(L, "cycle", true);
      lua_pop(L, 1);
      return 1;
    }
    link = uns_chain_behind(task, false);
    push_waiting(L, task, &link);
    append(L);
    if (task->state != UNS_TASK_PARKED) return 1;
  }
  const uns_future *last = link.future;
  if (link.kind == UNS_BEHIND_JOB) {
    push_call_link(L, runtime, last, link.job);
    append(L);
  } else if (last != NULL && (link.kind == UNS_BEHIND_CELL || link.kind == UNS_BEHIND_NOBODY)) {
    push_pending(L, last, "pending");
    if (link.kind == UNS_BEHIND_NOBODY) set_text(L, "waits_for", "somebody to settle it");
    append(L);
  }
  add_elsewhere(L, runtime, link);
  return 1;
}

static const luaL_Reg functions[] = {
    {"current", core_current}, {"tasks", core_tasks},   {"stack", core_stack}, {"why", core_why},
    {"workers", core_workers}, {"counts", core_counts}, {NULL, NULL}};

void uns_bind_inspect(lua_State *L, uns_runtime *runtime) { uns_bind_functions(L, runtime, functions); }
