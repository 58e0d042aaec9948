#include "loop/group.h"

#include <lauxlib.h>

/* Lets go of a member, settled or not. */
static void member_free(uns_member *member) {
  uns_future_remove_waiter(&member->waiter);
  uns_list_remove(&member->link);
  uns_runtime_unpin(member->group->runtime, member->pin);
  uns_free(member);
}

static void run_cancel(uns_callback *callback, uns_runtime *runtime) {
  (void)runtime;
  uns_group_cancel(uns_container_of(callback, uns_group, callback));
}

static bool each_member(const uns_behind *behind, bool (*visit)(void *, const uns_future *), void *context) {
  const uns_group *group = uns_container_of(behind, uns_group, behind);
  for (const uns_link *link = group->members.next; link != &group->members; link = link->next) {
    if (visit(context, uns_container_of(link, uns_member, link)->future)) return true;
  }
  return false;
}

uns_group *uns_group_new(uns_runtime *runtime) {
  uns_group *group = runtime->idle_group;
  runtime->idle_group = NULL;
  if (group == NULL) group = uns_malloc(sizeof *group);
  if (group == NULL) return NULL;
  *group = (uns_group){.references = 1, .behind.each = each_member};
  group->runtime = runtime;
  uns_list_init(&group->members);
  uns_list_init(&group->failed);
  uns_callback_init(&group->callback, run_cancel);
  uns_timed_scope_init(&group->block);
  uns_cancel_scope_init(&group->drain);
  group->drain.shield = true;
  return group;
}

static void free_all(uns_link *members) {
  while (!uns_list_empty(members)) member_free(uns_container_of(members->next, uns_member, link));
}

void uns_group_unref(uns_group *group) {
  while (group != NULL && --group->references == 0) {
    uns_group *outer = group->outer;
    uns_list_remove(&group->callback.link);
    free_all(&group->members);
    free_all(&group->failed);
    uns_runtime *runtime = group->runtime;
    if (runtime->closing || runtime->idle_group != NULL) uns_free(group);
    else runtime->idle_group = group;
    group = outer;
  }
}

int uns_group_enter(uns_group *group, uns_task *task, uint64_t deadline_ns) {
  if (uns_cancel_scope_enter(group->runtime, &group->block.scope, deadline_ns) != UNS_OK) return UNS_ENOMEM;
  group->outer = task->group; /* its reference too */
  task->group = uns_group_ref(group);
  return UNS_OK;
}

void uns_group_leave(uns_group *group, uns_task *task) {
  if (group->ended) return;
  group->ended = true;
  uns_cancel_scope_leave(group->runtime, &group->drain);
  uns_cancel_scope_leave(group->runtime, &group->block.scope);
  while (task->group != NULL && task->group->ended) {
    uns_group *left = task->group;
    task->group = left->outer != NULL ? uns_group_ref(left->outer) : NULL;
    uns_group_unref(left);
  }
}

static void on_settled(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  uns_member *member = uns_container_of(waiter, uns_member, waiter);
  uns_group *group = member->group;
  group->count--;
  if (future->state == UNS_FUTURE_FAILED && !future->expected) {
    uns_list_remove(&member->link);
    uns_list_push_back(&group->failed, &member->link);
    if (member->is_child && group->first == NULL && !runtime->closing) {
      if (!group->block_failed && !group->cancelled) group->first = member;
      uns_runtime_call_soon(runtime, &group->callback);
    }
  } else {
    member_free(member);
  }
  if (group->count == 0 && group->waiting != NULL && !runtime->closing) uns_task_wake(runtime, group->waiting);
}

static bool stands_in(const uns_task *task, const uns_group *group) {
  const uns_group *at = task->group;
  while (at != NULL && at != group) at = at->outer;
  return at != NULL;
}

void uns_group_adopt_call(uns_runtime *runtime, lua_State *L, uns_task *task, uns_group *group) {
  uns_future *future = lua_touserdata(L, -1);
  while (group != NULL && group->ended) group = group->outer;
  if (group == NULL || future->state == UNS_FUTURE_DONE || future->state == UNS_FUTURE_CANCELLED) return;
  if (future->task != NULL && !stands_in(future->task, group)) return; /* it has detached itself */
  lua_pushvalue(L, -1);
  int pin = uns_runtime_pin(runtime, L);
  uns_member *member = uns_malloc(sizeof *member);
  if (member == NULL) {
    uns_runtime_unpin(runtime, pin);
    uns_cancel_work(runtime, future); /* nobody would ever wait for it */
    luaL_error(L, "not enough memory");
    return;
  }
  *member = (uns_member){.group = group, .future = future};
  member->waiter.wake = on_settled;
  member->waiter.listens = true;
  uns_list_init(&member->waiter.link);
  member->pin = pin;
  if (uns_future_settled(future)) {
    uns_list_push_back(&group->failed, &member->link);
    return;
  }
  group->count++;
  uns_list_push_back(&group->members, &member->link);
  uns_future_add_waiter(future, &member->waiter);
  if (group->cancelled && (task == NULL || uns_cancel_reaching(task) != NULL)) uns_cancel_work(runtime, future);
}

void uns_group_make_child(uns_group *group, const uns_future *future) {
  if (!uns_list_empty(&group->failed)) {
    uns_member *last = uns_container_of(group->failed.prev, uns_member, link);
    if (last->future == future) {
      last->is_child = true;
      if (group->first == NULL && !group->block_failed && !group->cancelled) group->first = last;
      uns_runtime_call_soon(group->runtime, &group->callback);
      return;
    }
  }
  if (uns_list_empty(&group->members)) return;
  uns_member *last = uns_container_of(group->members.prev, uns_member, link);
  if (last->future != future) return;
  last->is_child = true;
  if (group->cancelled) uns_cancel_work(group->runtime, last->future);
}

void uns_group_cancel(uns_group *group) {
  if (group->ended) return;
  group->cancelled = true;
  group->spared = false;
  uns_cancel_scope_cancel(group->runtime, &group->block.scope);
  uns_link batch; /* the end of one may be that of others */
  uns_list_init(&batch);
  uns_list_append(&batch, &group->members);
  uns_link *link;
  while ((link = uns_list_pop_front(&batch)) != NULL) {
    uns_list_push_back(&group->members, link);
    uns_future *future = uns_container_of(link, uns_member, link)->future;
    if (uns_group_spares(group->runtime, group, future)) group->spared = true;
    else uns_cancel_work(group->runtime, future);
  }
}

/* ---- shields ---- */

static uns_task *find_task(const uns_runtime *runtime, uint64_t id) {
  for (uns_link *link = runtime->tasks.next; id != 0 && link != &runtime->tasks; link = link->next) {
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->id == id) return task;
  }
  return NULL;
}

/* The task that waits for a future which nobody runs: a request of the loop's own. */
static uns_task *find_waiting(const uns_runtime *runtime, const uns_future *future) {
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (uns_task_awaited(task) == future) return task;
  }
  return NULL;
}

bool uns_group_spares(uns_runtime *runtime, const uns_group *group, const uns_future *future) {
  if (runtime->shields == 0) return false;
  uns_task_list_running(runtime);
  const uns_task *task = future->task != NULL  ? find_task(runtime, future->task->parent_id)
                         : future->job != NULL ? find_task(runtime, future->job->parent_id)
                                               : find_waiting(runtime, future);
  for (; task != NULL && (group == NULL || stands_in(task, group)); task = find_task(runtime, task->parent_id)) {
    for (const uns_cancel_scope *scope = task->scope; scope != NULL; scope = scope->outer) {
      if (group != NULL && scope == &group->block.scope) return false; /* what is around it is not inside */
      if (scope->shield && (group == NULL || scope != &group->drain)) return true;
    }
  }
  return false;
}

void uns_group_cancel_spared(uns_task *task) {
  for (uns_group *group = task->group; group != NULL; group = group->outer) {
    if (group->cancelled && group->spared) uns_group_cancel(group);
  }
}

void uns_group_detach(uns_runtime *runtime, uns_future *future) {
  if (future->task != NULL) { /* scopes of its own stay with it */
    uns_group **at = &future->task->group;
    while (*at != NULL && (*at)->block.scope.task == future->task) at = &(*at)->outer;
    uns_group *left = *at;
    *at = NULL;
    uns_group_unref(left);
  }
  if (uns_future_settled(future)) return;
  for (uns_link *link = future->waiters.next; link != &future->waiters; link = link->next) {
    uns_waiter *waiter = uns_container_of(link, uns_waiter, link);
    if (waiter->wake != on_settled) continue;
    uns_member *member = uns_container_of(waiter, uns_member, waiter);
    uns_group *group = member->group;
    group->count--;
    member_free(member);
    if (group->count == 0 && group->waiting != NULL) uns_task_wake(runtime, group->waiting);
    return;
  }
}
