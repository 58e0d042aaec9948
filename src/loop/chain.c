#include "loop/chain.h"

#include "loop/gate.h"

/* ---- links ---- */

uns_task *uns_chain_root(const uns_runtime *runtime) {
  uns_task *rest = NULL;
  for (const uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->id == runtime->root_id) return task;
    if (rest == NULL && task->state == UNS_TASK_PARKED) rest = task; /* the call ends with what it has started */
  }
  return rest;
}

static uns_chain_link behind_job(uns_job *job, bool frozen) {
  const uns_runtime *runtime = frozen ? job->runtime : NULL;
  uns_task *root = runtime != NULL ? uns_chain_root(runtime) : NULL;
  return (uns_chain_link){.kind = root != NULL ? UNS_BEHIND_TASK : UNS_BEHIND_JOB, .task = root, .job = job};
}

typedef struct {
  uns_chain_link found;
  bool frozen;
  int depth;
} search;

enum { NESTED_MAX = 32 }; /* combinators of combinators; a future cannot be made of itself */

static uns_chain_link look(const uns_future *future, bool frozen, int depth);

/* A task is best, for the chain goes on there. */
static bool visit(void *context, const uns_future *future) {
  search *all = context;
  uns_chain_link link = look(future, all->frozen, all->depth + 1);
  if (link.kind != UNS_BEHIND_NOBODY && (all->found.kind == UNS_BEHIND_NOBODY || link.kind == UNS_BEHIND_TASK))
    all->found = link;
  return link.kind == UNS_BEHIND_TASK;
}

static uns_chain_link look_at_all(const uns_behind *behind, bool frozen, int depth) {
  search all = {.frozen = frozen, .depth = depth};
  if (depth < NESTED_MAX) behind->each(behind, visit, &all);
  return all.found;
}

static uns_chain_link look(const uns_future *future, bool frozen, int depth) {
  uns_chain_link link = {.kind = UNS_BEHIND_NOBODY, .future = future};
  if (uns_future_settled(future)) return link;
  if (future->task != NULL) {
    link.kind = UNS_BEHIND_TASK;
    link.task = future->task;
  } else if (future->job != NULL) {
    link = behind_job(future->job, frozen);
  } else if (future->behind != NULL) {
    return look_at_all(future->behind, frozen, depth);
  } else if (future->foreign && frozen && future->cell->task != NULL) {
    link.kind = UNS_BEHIND_TASK;
    link.task = future->cell->task;
  } else if (future->foreign && frozen && future->cell->job != NULL) {
    link = behind_job(future->cell->job, frozen);
  } else if (future->foreign && future->kind != UNS_KIND_PROMISE) {
    link.kind = UNS_BEHIND_CELL;
    link.cell = future->cell;
  }
  link.future = future;
  return link;
}

uns_chain_link uns_chain_behind_future(const uns_future *future, bool frozen) { return look(future, frozen, 0); }

uns_chain_link uns_chain_behind(const uns_task *task, bool frozen) {
  const uns_mutex *wanted = uns_task_wanted(task);
  if (wanted != NULL && wanted->owner != NULL) return (uns_chain_link){.kind = UNS_BEHIND_TASK, .task = wanted->owner};
  if (uns_task_awaited(task) != NULL) return look(uns_task_awaited(task), frozen, 0);
  if (uns_task_behind(task) != NULL) return look_at_all(uns_task_behind(task), frozen, 0);
  return (uns_chain_link){.kind = UNS_BEHIND_NOBODY};
}

/* ---- elsewhere ---- */

static bool is_elsewhere(void *context, const uns_future *future) {
  (void)context;
  if (uns_future_is_elsewhere(future) || (future->resolvable && future->cell != NULL)) return true;
  return future->behind != NULL && future->behind->each(future->behind, is_elsewhere, NULL);
}

bool uns_chain_leads_elsewhere(const uns_runtime *runtime) {
  if (runtime->job == NULL) return false;
  for (const uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    const uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->state != UNS_TASK_PARKED) continue;
    const uns_future *awaited = uns_task_awaited(task);
    const uns_behind *behind = uns_task_behind(task);
    if (awaited != NULL && is_elsewhere(NULL, awaited)) return true;
    if (behind != NULL && behind->each(behind, is_elsewhere, NULL)) return true;
  }
  return false;
}

/* ---- chains ---- */

uns_task *uns_chain_younger(uns_task *a, uns_task *b) {
  if (a == NULL || b == NULL) return a == NULL ? b : a;
  if (uns_runtime_of(a->co) == uns_runtime_of(b->co)) return b->id > a->id ? b : a;
  return uns_task_since_ns(b) > uns_task_since_ns(a) ? b : a;
}

uns_task *uns_chain_follow(uns_task *start, bool frozen, uns_chain_link *end) {
  uns_task *at = start, *kept = NULL; /* after Brent: what was kept at the last power of two comes again in a cycle */
  for (size_t steps = 0, limit = 1; at != NULL && at != kept; steps++) {
    if (steps == limit) {
      kept = at;
      limit *= 2;
    }
    *end = uns_chain_behind(at, frozen);
    if (at->state != UNS_TASK_PARKED || end->kind != UNS_BEHIND_TASK) return NULL;
    at = end->task;
  }
  if (at == NULL) return NULL;
  uns_task *youngest = at;
  for (uns_task *other = uns_chain_behind(at, frozen).task; other != NULL && other != at;) {
    youngest = uns_chain_younger(youngest, other);
    other = uns_chain_behind(other, frozen).task;
  }
  return youngest;
}

uns_task *uns_chain_youngest(uns_task *start) {
  uns_task *youngest = NULL;
  for (uns_task *at = start; at != NULL && at->state == UNS_TASK_PARKED;) {
    youngest = uns_chain_younger(youngest, at);
    uns_chain_link behind = uns_chain_behind(at, true);
    at = behind.kind == UNS_BEHIND_TASK ? behind.task : NULL;
  }
  return youngest;
}

/* ---- texts ---- */

static const char *kind_of(const uns_task *task) {
  const uns_runtime *runtime = uns_runtime_of(task->co);
  if (runtime->job == NULL || task->id != runtime->root_id)
    return task->future != NULL ? uns_future_kind_name(task->future) : "io";
  return runtime->job->function->kind == UNS_KIND_CPU ? "cpu" : "thread";
}

void uns_chain_add_task(uns_text *text, const uns_task *task) {
  const char *name = task->future != NULL ? task->future->name : NULL;
  if (task->is_main) uns_text_add(text, "the main script");
  else uns_text_add(text, "%s %s", kind_of(task), name != NULL ? name : "task");
  char where[UNS_WHERE_BYTES];
  if (uns_task_where(task, where)) uns_text_add(text, " at %s", where);
}

/* "promise", or "cpu name" */
static void add_future(uns_text *text, const uns_future *future) {
  uns_text_add(text, "%s%s%s", uns_future_kind_name(future), future->name != NULL ? " " : "",
               future->name != NULL ? future->name : "");
}

void uns_chain_add_wait(uns_text *text, const uns_task *task, const uns_chain_link *behind, bool for_ever) {
  const char *what = task->waits_for != UNS_WAITS_NOT ? uns_task_waits_for(task) : "nothing";
  if (task->held) {
    uns_text_add(text, "its turn behind a limit");
  } else if (uns_task_awaited(task) != NULL) {
    add_future(text, uns_task_awaited(task));
    if (for_ever && behind->kind == UNS_BEHIND_NOBODY) uns_text_add(text, ", which nobody will settle");
  } else if (uns_task_wanted(task) != NULL && behind->kind == UNS_BEHIND_TASK) {
    uns_text_add(text, "%s that ", what);
    uns_chain_add_task(text, behind->task);
    uns_text_add(text, " holds");
  } else {
    uns_text_add(text, "%s", what);
  }
}
