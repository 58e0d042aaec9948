#include "loop/gate.h"

#include <lauxlib.h>
#include <string.h>

#include "core/error.h"

uns_task *uns_gate_wait(uns_runtime *runtime, lua_State *L, uns_link *waiters, uns_waits what) {
  uns_task *task = uns_task_check_can_wait(runtime, L);
  task->extra->waiter.told = UNS_TOLD_NONE;
  task->waits_for = (uint8_t)what;
  uns_list_push_back(waiters, &task->extra->waiter.link);
  return task;
}

static void tell_all(uns_runtime *runtime, uns_link *waiters, uns_told told) {
  uns_waiter *waiter;
  while ((waiter = uns_waiter_first(waiters)) != NULL) uns_waiter_tell(waiter, runtime, told);
}

/* ---- semaphore ---- */

void uns_semaphore_init(uns_semaphore *semaphore, lua_Integer most) {
  uns_list_init(&semaphore->waiters);
  semaphore->most = semaphore->free = most;
}

bool uns_semaphore_try_acquire(uns_semaphore *semaphore) {
  if (semaphore->free == 0) return false;
  semaphore->free--;
  return true;
}

bool uns_semaphore_release(uns_runtime *runtime, uns_semaphore *semaphore) {
  if (semaphore->free == semaphore->most) return false;
  uns_waiter *waiter = uns_waiter_first(&semaphore->waiters);
  if (waiter != NULL) uns_waiter_tell(waiter, runtime, UNS_TOLD_GIVEN);
  else semaphore->free++;
  return true;
}

/* ---- mutex ---- */

static const char *name_of(const uns_task *task) {
  if (task->future == NULL) return "the main script";
  return task->future->name != NULL ? task->future->name : "a task";
}

void uns_mutex_init(uns_mutex *mutex) {
  *mutex = (uns_mutex){.owner = NULL};
  uns_list_init(&mutex->waiters);
  uns_list_init(&mutex->held_link);
}

static void own(uns_mutex *mutex, uns_task *task) {
  mutex->owner = task;
  uns_list_push_back(&task->extra->mutexes, &mutex->held_link);
}

bool uns_mutex_try_lock(uns_runtime *runtime, uns_mutex *mutex) {
  if (mutex->owner != NULL) return false;
  own(mutex, runtime->current);
  return true;
}

void uns_mutex_deinit(uns_mutex *mutex) {
  uns_list_remove(&mutex->held_link);
  mutex->owner = NULL;
}

void uns_mutex_unlock(uns_runtime *runtime, uns_mutex *mutex) {
  uns_mutex_deinit(mutex);
  uns_waiter *waiter = uns_waiter_first(&mutex->waiters);
  if (waiter == NULL) return;
  own(mutex, waiter->task); /* at once: nobody can come in between */
  uns_waiter_tell(waiter, runtime, UNS_TOLD_GIVEN);
}

void uns_mutex_abandon(uns_runtime *runtime, uns_task *task) {
  uns_link *mutexes = &task->extra->mutexes;
  while (!uns_list_empty(mutexes)) {
    uns_mutex *mutex = uns_container_of(mutexes->next, uns_mutex, held_link);
    mutex->left_by = name_of(task);
    uns_mutex_deinit(mutex);
    if (!runtime->closing) tell_all(runtime, &mutex->waiters, UNS_TOLD_CLOSED);
  }
}

/* " (at file:line)", or nothing. */
static const char *push_place(lua_State *L, const uns_mutex *mutex) {
  if (mutex->locked_at == NULL) return lua_pushliteral(L, "");
  return lua_pushfstring(L, " (at %s)", mutex->locked_at);
}

void uns_mutex_push_held(lua_State *L, const uns_task *task) {
  const char *place = push_place(L, uns_container_of(task->extra->mutexes.next, uns_mutex, held_link));
  uns_error_push(L, "abandoned", "abandoned: %s ended with a mutex locked%s", name_of(task), place);
  lua_remove(L, -2);
}

int uns_mutex_raise_abandoned(lua_State *L, const uns_mutex *mutex) {
  return uns_error_raise(L, "abandoned",
                         "abandoned: %s ended with this mutex locked%s: what it guards may be half done",
                         mutex->left_by, push_place(L, mutex));
}

/* ---- event ---- */

void uns_event_init(uns_event *event) {
  uns_list_init(&event->waiters);
  event->set = false;
}

void uns_event_set(uns_runtime *runtime, uns_event *event) {
  event->set = true;
  tell_all(runtime, &event->waiters, UNS_TOLD_GIVEN);
}

/* ---- barrier ---- */

void uns_barrier_init(uns_barrier *barrier, lua_Integer parties) {
  uns_list_init(&barrier->waiters);
  barrier->parties = parties;
  barrier->waiting = 0;
}

/* It waits no more, for whatever reason: of those let through all leave at once, and a cancelled one steps back. */
static void leave_barrier(uns_task *task, uns_runtime *runtime) {
  (void)runtime;
  uns_barrier *barrier = task->extra->wait_in;
  barrier->waiting--;
}

bool uns_barrier_arrive(uns_runtime *runtime, lua_State *L, uns_barrier *barrier) {
  if (barrier->waiting + 1 == barrier->parties) {
    tell_all(runtime, &barrier->waiters, UNS_TOLD_GIVEN);
    return true;
  }
  uns_task *task = uns_gate_wait(runtime, L, &barrier->waiters, UNS_WAITS_BARRIER);
  task->extra->wait_in = barrier;
  task->extra->leave = leave_barrier;
  barrier->waiting++;
  return false;
}

/* ---- rate ---- */

static bool due(const uns_rate *rate, uint64_t now_ns) {
  uint64_t oldest_ns = rate->granted_ns[rate->next];
  return oldest_ns == 0 || now_ns >= oldest_ns + rate->window_ns;
}

static void grant(uns_rate *rate, uint64_t now_ns) {
  rate->granted_ns[rate->next] = now_ns;
  rate->next = (rate->next + 1) % rate->most;
}

static uint64_t next_ns(const uns_rate *rate) { return rate->granted_ns[rate->next] + rate->window_ns; }

/* Serves the line as far as it goes. The heap has room for a timer that has just fired or been disarmed. */
static void serve(uns_rate *rate, uns_runtime *runtime) {
  uint64_t now_ns = uns_now_ns(runtime);
  uns_waiter *waiter;
  while ((waiter = uns_waiter_first(&rate->waiters)) != NULL && due(rate, now_ns)) {
    grant(rate, now_ns);
    uns_waiter_tell(waiter, runtime, UNS_TOLD_GIVEN);
  }
  if (waiter != NULL) uns_timer_arm(runtime, &rate->timer, next_ns(rate));
}

static void on_timer(uns_timer *timer, uns_runtime *runtime) {
  serve(uns_container_of(timer, uns_rate, timer), runtime);
}

/* The last one in line takes the timer along: it would be hope for nobody. */
static void leave_rate(uns_task *task, uns_runtime *runtime) {
  uns_rate *rate = task->extra->wait_in;
  if (uns_list_empty(&rate->waiters) && uns_timer_armed(&rate->timer)) uns_timer_disarm(runtime, &rate->timer);
}

void uns_rate_init(uns_rate *rate, size_t most, uint64_t window_ns) {
  uns_list_init(&rate->waiters);
  uns_timer_init(&rate->timer, on_timer);
  rate->window_ns = window_ns;
  rate->most = most;
  rate->next = 0;
  memset(rate->granted_ns, 0, most * sizeof *rate->granted_ns);
}

bool uns_rate_try_acquire(const uns_runtime *runtime, uns_rate *rate) {
  uint64_t now_ns = uns_now_ns(runtime);
  if (!uns_list_empty(&rate->waiters) || !due(rate, now_ns)) return false;
  grant(rate, now_ns);
  return true;
}

void uns_rate_wait(uns_runtime *runtime, lua_State *L, uns_rate *rate) {
  uns_task_check_can_wait(runtime, L);
  if (!uns_timer_armed(&rate->timer) && uns_timer_arm(runtime, &rate->timer, next_ns(rate)) != UNS_OK) {
    luaL_error(L, "not enough memory");
  }
  uns_task *task = uns_gate_wait(runtime, L, &rate->waiters, UNS_WAITS_RATE);
  task->extra->wait_in = rate;
  task->extra->leave = leave_rate;
}

void uns_rate_give_back(uns_runtime *runtime, uns_rate *rate) {
  rate->next = (rate->next + rate->most - 1) % rate->most;
  rate->granted_ns[rate->next] = 0;
  if (!uns_timer_armed(&rate->timer)) return;
  uns_timer_disarm(runtime, &rate->timer);
  serve(rate, runtime);
}
