#include "loop/deadlock.h"

#include <lauxlib.h>
#include <string.h>

#include "core/error.h"
#include "loop/test_clock.h"

enum { LINKS_MAX = 32 }; /* of a chain that a message shows */

static const char headline[] = "deadlock: nothing can ever end this wait: ";

/* `for_ever`: it is known by now. */
static void add_chain(uns_text *text, uns_task *start, bool frozen, bool for_ever) {
  uns_task *at = start;
  for (int links = 0; links < LINKS_MAX; links++) {
    uns_chain_link behind = uns_chain_behind(at, frozen);
    uns_chain_add_task(text, at);
    uns_text_add(text, " waits for ");
    uns_chain_add_wait(text, at, &behind, for_ever);
    if (behind.kind != UNS_BEHIND_TASK) return;
    if (behind.task == start) {
      uns_text_add(text, ": a cycle");
      return;
    }
    uns_text_add(text, "\n\t");
    at = behind.task;
    if (at->state == UNS_TASK_PARKED) continue;
    uns_chain_add_task(text, at); /* it stands in line behind a limit */
    uns_text_add(text, " waits for ");
    uns_chain_add_wait(text, at, &(uns_chain_link){.kind = UNS_BEHIND_NOBODY}, for_ever);
    return;
  }
  uns_text_add(text, "...");
}

void uns_deadlock_add_chain(uns_text *text, uns_task *start, bool frozen) { add_chain(text, start, frozen, true); }

void uns_chain_add_all(uns_text *text, uns_task *start) { add_chain(text, start, false, false); }

/* push_error(task): the error with the chain of waits that starts there */
static int push_error(lua_State *L) {
  uns_task *task = lua_touserdata(L, 1);
  uns_text text = {0};
  uns_text_add(&text, "%s", headline);
  uns_deadlock_add_chain(&text, task, false);
  const uns_test_clock *clock = uns_runtime_of(L)->test_clock;
  if (clock != NULL && clock->stopped && clock->timers.count > 0) {
    uns_text_add(&text, " (the test clock stands still, and nobody is left to move it)");
  }
  if (text.lost) lua_pushliteral(L, "deadlock: nothing can ever end this wait");
  else uns_error_push_text(L, text.bytes);
  uns_error_push(L, "deadlock", "%s", lua_tostring(L, -1));
  return 1;
}

/* Pushes what `push` returns of `data`; where there is no memory for it, that is the error. The loop calls this. */
static void push_protected(lua_State *L, lua_CFunction push, void *data) {
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, push);
  lua_pushlightuserdata(L, data);
  lua_pcall(L, 1, 1, 0);
}

static uns_task *live_task(uns_link *link) { return uns_container_of(link, uns_task, live_link); }

/* Two ordered lists, linked by `next` and ended by NULL, made one. */
static uns_link *merge(uns_link *a, uns_link *b) {
  uns_link first, *last = &first;
  while (a != NULL && b != NULL) {
    uns_link **older = live_task(a)->id < live_task(b)->id ? &a : &b;
    last->next = *older;
    last = *older;
    *older = last->next;
  }
  last->next = a != NULL ? a : b;
  return first.next;
}

/* Orders the state's tasks by age. They are listed as they first wait, which mostly is in that order. */
static void order_tasks(uns_runtime *runtime) {
  enum { SIZES = 48 };
  uns_link *runs[SIZES] = {NULL}; /* the one at n has 2^n tasks, or there is none */
  uns_link *all = &runtime->tasks, *link = all->next;
  while (link != all) {
    uns_link *run = link;
    link = link->next;
    run->next = NULL;
    int size = 0;
    for (; runs[size] != NULL; size++) {
      run = merge(runs[size], run);
      runs[size] = NULL;
    }
    runs[size] = run;
  }
  uns_link *ordered = NULL;
  for (int size = 0; size < SIZES; size++) ordered = merge(runs[size], ordered);
  uns_list_init(all);
  for (uns_link *next; ordered != NULL; ordered = next) {
    next = ordered->next;
    uns_list_push_back(all, ordered);
  }
  runtime->tasks_mixed = false;
}

/*
 * The youngest that waits, and, for a cause, has nobody behind its wait. From the youngest on, so where all wait for one
 * promise the first is it: to tell them all, one at a time, takes no longer for each the more they are. Both are of use to one
 * state alone, and to several that stand still.
 */
static uns_task *find_parked(const uns_runtime *runtime, bool cause, bool frozen) {
  uns_task *found = NULL;
  for (uns_link *link = runtime->tasks.prev; link != &runtime->tasks; link = link->prev) {
    uns_task *task = live_task(link);
    if (task->state != UNS_TASK_PARKED || (found != NULL && task->id < found->id)) continue;
    if (cause && uns_chain_behind(task, frozen).kind != UNS_BEHIND_NOBODY) continue;
    found = task;
    if (!runtime->tasks_mixed) break;
  }
  return found;
}

static uns_task *find_cause(const uns_runtime *runtime, bool frozen) { return find_parked(runtime, true, frozen); }
static uns_task *find_youngest(const uns_runtime *runtime) { return find_parked(runtime, false, false); }

static uns_task *find_victim(const uns_runtime *runtime, bool *cycle) {
  uns_task *cause = find_cause(runtime, false);
  if (cause != NULL) return cause;
  uns_task *youngest = find_youngest(runtime);
  if (youngest == NULL) return NULL;
  uns_chain_link end;
  uns_task *in_cycle = uns_chain_follow(youngest, false, &end);
  *cycle = in_cycle != NULL;
  return *cycle ? in_cycle : youngest; /* none: it ends in a task that does not wait */
}

/*
 * The error is on top of the state's main stack. In a cycle, what it has awaited will fail for no reason but this one, wherever
 * that runs: the state that it is of has to know, too.
 */
static void raise_in(uns_runtime *runtime, uns_task *victim, bool cycle) {
  uns_future *awaited = uns_task_awaited(victim);
  if (awaited != NULL && (cycle || awaited->behind != NULL)) awaited->expected = true;
  if (awaited != NULL && cycle && awaited->foreign) uns_cell_look_at(awaited->cell);
  uns_task_interrupt(runtime, victim);
}

bool uns_task_raise_deadlock(uns_runtime *runtime) {
  bool cycle = false;
  if (runtime->tasks_mixed) order_tasks(runtime);
  uns_task *victim = find_victim(runtime, &cycle);
  if (victim == NULL) return false;
  push_protected(runtime->L, push_error, victim);
  raise_in(runtime, victim, cycle);
  return true;
}

typedef struct {
  const char *format;
  int count;
} limit;

/* push_limit(limit) -> the error */
static int push_limit(lua_State *L) {
  const limit *reached = lua_touserdata(L, 1);
  uns_error_push(L, "limit", reached->format, reached->count);
  return 1;
}

void uns_task_limit_youngest(uns_runtime *runtime, const char *format, int count) {
  uns_task *youngest = find_youngest(runtime);
  if (youngest == NULL) return;
  uns_future *awaited = uns_task_awaited(youngest);
  if (awaited != NULL) awaited->expected = true; /* nobody is left to look */
  limit reached = {format, count};
  push_protected(runtime->L, push_limit, &reached);
  uns_task_interrupt(runtime, youngest);
}

/* ---- several states ---- */

uns_task *uns_deadlock_find_cause(uns_parties *parties) {
  uns_task *cause = NULL;
  for (uns_runtime *runtime = uns_parties_next(parties, NULL); runtime != NULL;
       runtime = uns_parties_next(parties, runtime))
    cause = uns_chain_younger(cause, find_cause(runtime, true));
  return cause;
}

uns_task *uns_deadlock_find_youngest(uns_parties *parties) {
  uns_task *youngest = NULL;
  for (uns_runtime *runtime = uns_parties_next(parties, NULL); runtime != NULL;
       runtime = uns_parties_next(parties, runtime))
    youngest = uns_chain_younger(youngest, find_youngest(runtime));
  return youngest;
}

typedef struct {
  uns_mail mail;
  uint64_t task_id;
  uint32_t wait;
  bool cycle;
  char message[];
} notice;

static int push_notice(lua_State *L) {
  const notice *told = lua_touserdata(L, 1);
  uns_error_push(L, "deadlock", "%s%s", headline, told->message);
  return 1;
}

static void on_notice(uns_mail *mail, void *receiver) {
  notice *told = uns_container_of(mail, notice, mail);
  uns_runtime *runtime = receiver;
  uns_task *victim = NULL;
  if (runtime != NULL) {
    for (uns_link *link = runtime->tasks.next; link != &runtime->tasks && victim == NULL; link = link->next) {
      uns_task *task = uns_container_of(link, uns_task, live_link);
      if (task->id == told->task_id && task->wait == told->wait && task->state == UNS_TASK_PARKED) victim = task;
    }
  }
  if (victim != NULL) {
    push_protected(runtime->L, push_notice, told);
    raise_in(runtime, victim, told->cycle);
  }
  uns_free(told);
}

int uns_deadlock_tell(uns_runtime *runtime, uint64_t task_id, uint32_t wait, bool cycle, const char *message) {
  size_t size = message != NULL ? strlen(message) + 1 : 1;
  notice *told = uns_malloc(sizeof *told + size);
  if (told == NULL) return UNS_ENOMEM;
  told->mail.deliver = on_notice;
  told->task_id = task_id;
  told->wait = wait;
  told->cycle = cycle;
  memcpy(told->message, message != NULL ? message : "", size);
  uns_mailbox_post(runtime->mailbox, &told->mail);
  return UNS_OK;
}
