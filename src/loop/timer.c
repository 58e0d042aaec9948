/*
 * timer: sleeps and deadlines, ordered by a binary heap on uns_clock_ns.
 *
 * Equal deadlines fire in the order they were armed. Arming later and later deadlines, as sleepers do, costs no
 * sifting. One uv_timer (loop/runtime.c) wakes the loop for the nearest.
 */
#include "core/packet.h"
#include "loop/runtime.h"

static bool before(const uns_timer *a, const uns_timer *b) {
  return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static void put(uns_runtime *runtime, size_t place, uns_timer *timer) {
  runtime->timers[place] = timer;
  timer->place = place;
}

static void sift_up(uns_runtime *runtime, size_t place, uns_timer *timer) {
  while (place > 0) {
    size_t parent = (place - 1) / 2;
    if (!before(timer, runtime->timers[parent])) break;
    put(runtime, place, runtime->timers[parent]);
    place = parent;
  }
  put(runtime, place, timer);
}

static void sift_down(uns_runtime *runtime, size_t place, uns_timer *timer) {
  for (;;) {
    size_t child = 2 * place + 1;
    if (child >= runtime->timer_count) break;
    if (child + 1 < runtime->timer_count && before(runtime->timers[child + 1], runtime->timers[child])) child++;
    if (!before(runtime->timers[child], timer)) break;
    put(runtime, place, runtime->timers[child]);
    place = child;
  }
  put(runtime, place, timer);
}

void uns_timer_init(uns_timer *timer, void (*fire)(uns_timer *, uns_runtime *)) {
  timer->place = SIZE_MAX;
  timer->fire = fire;
}

int uns_timer_arm(uns_runtime *runtime, uns_timer *timer, uint64_t deadline_ns) {
  uns_timer_disarm(runtime, timer);
  if (runtime->timer_count == runtime->timer_capacity) {
    size_t capacity = runtime->timer_capacity == 0 ? 16 : runtime->timer_capacity * 2;
    uns_timer **timers = uns_realloc(runtime->timers, capacity * sizeof *timers);
    if (timers == NULL) return UNS_ENOMEM;
    runtime->timers = timers;
    runtime->timer_capacity = capacity;
  }
  timer->deadline_ns = deadline_ns;
  timer->order = runtime->timer_order++;
  sift_up(runtime, runtime->timer_count++, timer);
  uns_runtime_stir(runtime); /* it may be nearer than what libuv would sleep for */
  return UNS_OK;
}

void uns_timer_disarm(uns_runtime *runtime, uns_timer *timer) {
  if (!uns_timer_armed(timer)) return;
  size_t place = timer->place;
  timer->place = SIZE_MAX;
  uns_timer *last = runtime->timers[--runtime->timer_count];
  if (last == timer) return;
  if (place > 0 && before(last, runtime->timers[(place - 1) / 2])) sift_up(runtime, place, last);
  else sift_down(runtime, place, last);
}

uint64_t uns_timers_left(const uns_runtime *runtime) {
  if (runtime->timer_count == 0) return UINT64_MAX;
  uint64_t now = uns_clock_ns(), deadline = runtime->timers[0]->deadline_ns;
  return deadline > now ? deadline - now : 0;
}

uint64_t uns_timers_run(uns_runtime *runtime, bool *fired) {
  if (runtime->timer_count == 0) return UINT64_MAX;
  uint64_t now = uns_clock_ns();
  while (runtime->timer_count > 0) {
    uns_timer *timer = runtime->timers[0];
    if (timer->deadline_ns > now) return timer->deadline_ns - now;
    uns_timer_disarm(runtime, timer);
    *fired = true;
    timer->fire(timer, runtime);
  }
  return UINT64_MAX;
}
