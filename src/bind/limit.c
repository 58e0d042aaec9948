/*
 * limit: io calls whose function has a limit: the first ones run, the others stand in line.
 *
 *   - A call has its place from its start until its future settles. Then that is the next one's in line.
 *   - One that waits, however indirectly, for a call in that line lends it its place: it cannot go on before, so a function
 *     that calls itself never waits for itself. That is looked for when the loop has nothing else to do. One that waits for
 *     anything else lends it only where nothing can happen any more, before that is a deadlock.
 *   - A place is lent to one call at a time, which may lend it on. It goes back where it came from; where that call has
 *     ended meanwhile, to whom that one had it from.
 * Limits of calls that leave the state: send.c. There each worker counts for itself.
 */
#include "bind/limit.h"

#include <lauxlib.h>

#include "loop/cancel.h"
#include "loop/gate.h"

enum {
  STEPS_MAX = 10000, /* of one look at what a call waits for: it may be a circle, or very many */
  NESTED_MAX = 32    /* waits for several inside of waits for several */
};

typedef struct permit {
  uns_link link; /* in uns_function.held while it stands in line */
  uns_link all;  /* in runtime->permits, while it runs in its place; else in ->permits_apart */
  uns_waiter waiter;
  uns_function *function; /* one reference */
  uns_task *task;
  struct permit *lender;   /* whose place it has; NULL: one of its own, or none yet */
  struct permit *borrower; /* who has its place meanwhile, or NULL */
} permit;

static void leave_line(permit *mine, uns_runtime *runtime) {
  uns_list_remove(&mine->link);
  runtime->limited_count--;
}

static void permit_free(permit *mine, uns_runtime *runtime) {
  uns_future_remove_waiter(&mine->waiter);
  if (!uns_list_empty(&mine->link)) leave_line(mine, runtime);
  uns_list_remove(&mine->all);
  uns_shared_unref(mine->function);
  uns_free(mine);
}

static void move(permit *mine, uns_link *list) {
  uns_list_remove(&mine->all);
  uns_list_push_back(list, &mine->all);
}

/* It stands in line no more: there is a place for it. */
static void begin(uns_runtime *runtime, permit *next) {
  leave_line(next, runtime);
  move(next, &runtime->permits);
  uns_task_release(runtime, next->task);
}

static permit *first_in_line(const uns_function *function) {
  return uns_list_empty(&function->held) ? NULL : uns_container_of(function->held.next, permit, link);
}

static void give_back(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  (void)future;
  permit *mine = uns_container_of(waiter, permit, waiter);
  permit *lender = mine->lender, *borrower = mine->borrower, *next = first_in_line(mine->function);
  if (!uns_list_empty(&mine->link)) { /* it was cancelled in line: it frees nobody's place */
  } else if (borrower != NULL) {
    borrower->lender = lender;
    if (lender != NULL) lender->borrower = borrower;
  } else if (lender != NULL) {
    lender->borrower = NULL;
    move(lender, &runtime->permits);
  } else if (next != NULL) {
    begin(runtime, next);
  } else {
    mine->function->running--;
  }
  permit_free(mine, runtime);
}

/* The state ends: those that are left will never settle. */
static void drop_permits(uns_runtime *runtime) {
  uns_list_append(&runtime->permits, &runtime->permits_apart);
  while (!uns_list_empty(&runtime->permits)) permit_free(uns_container_of(runtime->permits.next, permit, all), runtime);
}

uns_future *uns_limit_start(lua_State *L, uns_runtime *runtime, const uns_declaration *declared, int count) {
  uns_function *function = declared->function;
  uns_future *future = uns_task_call(runtime, L, count, declared->name, true);
  permit *mine = uns_calloc(1, sizeof *mine);
  if (mine == NULL) {
    uns_cancel_work(runtime, future);
    luaL_error(L, "not enough memory");
    return NULL;
  }
  mine->function = uns_shared_ref(function);
  mine->task = future->task;
  mine->waiter.wake = give_back;
  mine->waiter.listens = true;
  uns_list_init(&mine->waiter.link);
  uns_list_init(&mine->link);
  uns_list_init(&mine->all);
  uns_future_add_waiter(future, &mine->waiter);
  bool in_line = function->running >= function->limit;
  uns_list_push_back(in_line ? &runtime->permits_apart : &runtime->permits, &mine->all);
  if (in_line) {
    uns_list_push_back(&function->held, &mine->link);
    runtime->limited_count++;
  } else { /* it may be over before this returns, and what interrupts it may be raised here as well */
    function->running++;
    uns_task_begin(runtime, L, mine->task);
  }
  return future;
}

/* ---- lending ---- */

typedef struct {
  const uns_function *function;
  permit *found; /* in line for that function */
  int steps, depth;
} search;

static permit *permit_of(const uns_task *task) {
  for (const uns_link *link = task->future->waiters.next; link != &task->future->waiters; link = link->next) {
    uns_waiter *waiter = uns_container_of(link, uns_waiter, link);
    if (waiter->wake == give_back) return uns_container_of(waiter, permit, waiter);
  }
  return NULL;
}

static bool visit(void *context, const uns_future *future);

static bool visit_all(search *all, const uns_behind *behind) {
  if (all->depth >= NESTED_MAX) return false;
  all->depth++;
  bool found = behind->each(behind, visit, all);
  all->depth--;
  return found;
}

/* Is there a call in line on the way from `task` to what it waits for at last? */
static bool follow(search *all, const uns_task *task) {
  while (task != NULL && all->steps-- > 0) {
    if (task->held) {
      permit *its = permit_of(task);
      if (its == NULL || its->function != all->function || uns_list_empty(&its->link)) return false;
      all->found = its;
      return true;
    }
    if (task->state != UNS_TASK_PARKED) return false;
    const uns_mutex *wanted = uns_task_wanted(task);
    const uns_future *awaited = uns_task_awaited(task);
    const uns_behind *behind = awaited != NULL ? awaited->behind : uns_task_behind(task);
    if (wanted != NULL) task = wanted->owner;
    else if (behind != NULL) return visit_all(all, behind);
    else task = awaited != NULL ? awaited->task : NULL;
  }
  return false;
}

static bool visit(void *context, const uns_future *future) {
  search *all = context;
  if (all->steps-- <= 0 || uns_future_settled(future)) return false;
  if (future->behind != NULL) return visit_all(all, future->behind);
  return future->task != NULL && follow(all, future->task);
}

static void lend(uns_runtime *runtime, permit *mine, permit *to) {
  to->lender = mine;
  mine->borrower = to;
  move(mine, &runtime->permits_apart);
  begin(runtime, to);
}

/* Those who wait for a call in line. */
static bool lend_where_awaited(uns_runtime *runtime) {
  bool lent = false;
  for (uns_link *link = runtime->permits.next, *next; link != &runtime->permits; link = next) {
    next = link->next; /* who begins in a lent place stands behind all these, and waits for nobody yet */
    permit *mine = uns_container_of(link, permit, all);
    search all = {.function = mine->function, .steps = STEPS_MAX};
    if (first_in_line(mine->function) == NULL || !follow(&all, mine->task)) continue;
    lend(runtime, mine, all.found);
    lent = true;
  }
  return lent;
}

/* Nobody can go on, whatever they wait for: it may be that a call in line would see to it. */
static bool lend_anyway(uns_runtime *runtime) {
  for (uns_link *link = runtime->permits.next; link != &runtime->permits; link = link->next) {
    permit *mine = uns_container_of(link, permit, all), *first = first_in_line(mine->function);
    if (first == NULL || mine->task->state != UNS_TASK_PARKED) continue;
    lend(runtime, mine, first);
    return true;
  }
  return false;
}

static bool lend_permits(uns_runtime *runtime, bool hopeless) {
  return hopeless ? lend_anyway(runtime) : lend_where_awaited(runtime);
}

void uns_limit_open(uns_runtime *runtime) {
  runtime->drop_permits = drop_permits;
  runtime->lend_permits = lend_permits;
}
