/*
 * timer: sleeps and deadlines, ordered by a binary heap on uns_clock_ns.
 *
 * Equal deadlines fire in the order they were armed. Arming later and later deadlines, as sleepers do, costs no
 * sifting. One uv_timer (loop/runtime.c) wakes the loop for the nearest. Where there is a test clock, it has a heap of its
 * own, and only timers for the world outside go by uns_clock_ns.
 */
#include "core/packet.h"
#include "loop/test_clock.h"

static bool before(const uns_timer *a, const uns_timer *b) {
  return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static void put(uns_timer_heap *heap, size_t place, uns_timer *timer) {
  heap->timers[place] = timer;
  timer->place = place;
}

static void sift_up(uns_timer_heap *heap, size_t place, uns_timer *timer) {
  while (place > 0) {
    size_t parent = (place - 1) / 2;
    if (!before(timer, heap->timers[parent])) break;
    put(heap, place, heap->timers[parent]);
    place = parent;
  }
  put(heap, place, timer);
}

static void sift_down(uns_timer_heap *heap, size_t place, uns_timer *timer) {
  for (;;) {
    size_t child = 2 * place + 1;
    if (child >= heap->count) break;
    if (child + 1 < heap->count && before(heap->timers[child + 1], heap->timers[child])) child++;
    if (!before(heap->timers[child], timer)) break;
    put(heap, place, heap->timers[child]);
    place = child;
  }
  put(heap, place, timer);
}

void uns_timer_init(uns_timer *timer, void (*fire)(uns_timer *, uns_runtime *)) {
  timer->place = SIZE_MAX;
  timer->fire = fire;
  timer->real = timer->on_test = false;
}

void uns_timer_init_real(uns_timer *timer, void (*fire)(uns_timer *, uns_runtime *)) {
  uns_timer_init(timer, fire);
  timer->real = true;
}

static uns_timer_heap *heap_of(uns_runtime *runtime, const uns_timer *timer) {
  return __builtin_expect(timer->on_test, 0) ? &runtime->test_clock->timers : &runtime->timers;
}

int uns_timer_arm(uns_runtime *runtime, uns_timer *timer, uint64_t deadline_ns) {
  uns_timer_disarm(runtime, timer);
  timer->on_test = runtime->test_clock != NULL && !timer->real;
  uns_timer_heap *heap = heap_of(runtime, timer);
  if (heap->count == heap->capacity) {
    size_t capacity = heap->capacity == 0 ? 16 : heap->capacity * 2;
    uns_timer **timers = uns_realloc(heap->timers, capacity * sizeof(uns_timer *));
    if (timers == NULL) return UNS_ENOMEM;
    heap->timers = timers;
    heap->capacity = capacity;
  }
  timer->deadline_ns = deadline_ns;
  timer->order = runtime->timer_order++;
  sift_up(heap, heap->count++, timer);
  uns_runtime_stir(runtime); /* it may be nearer than what libuv would sleep for */
  return UNS_OK;
}

void uns_timer_disarm(uns_runtime *runtime, uns_timer *timer) {
  if (!uns_timer_armed(timer)) return;
  size_t place = timer->place;
  timer->place = SIZE_MAX;
  uns_timer_heap *heap = heap_of(runtime, timer);
  uns_timer *last = heap->timers[--heap->count];
  if (last == timer) return;
  if (place > 0 && before(last, heap->timers[(place - 1) / 2])) sift_up(heap, place, last);
  else sift_down(heap, place, last);
}

static uint64_t left(const uns_timer_heap *heap, uint64_t now_ns) {
  if (heap->count == 0) return UINT64_MAX;
  uint64_t deadline_ns = heap->timers[0]->deadline_ns;
  return deadline_ns > now_ns ? deadline_ns - now_ns : 0;
}

/* The nearer of what is left on our clock and of what is left on the test clock, where that runs on by itself. */
static uint64_t with_test_clock(const uns_runtime *runtime, uint64_t left_ns) {
  const uns_test_clock *clock = runtime->test_clock;
  uint64_t test_ns = left(&clock->timers, uns_test_clock_now_ns(clock));
  if (clock->stopped && test_ns > 0) return left_ns;
  return test_ns < left_ns ? test_ns : left_ns;
}

uint64_t uns_timers_left(const uns_runtime *runtime) {
  uint64_t left_ns = runtime->timers.count == 0 ? UINT64_MAX : left(&runtime->timers, uns_clock_ns());
  return runtime->test_clock == NULL ? left_ns : with_test_clock(runtime, left_ns);
}

static uint64_t run(uns_runtime *runtime, uns_timer_heap *heap, uint64_t now_ns, bool *fired) {
  while (heap->count > 0) {
    uns_timer *timer = heap->timers[0];
    if (timer->deadline_ns > now_ns) return timer->deadline_ns - now_ns;
    uns_timer_disarm(runtime, timer);
    *fired = true;
    timer->fire(timer, runtime);
  }
  return UINT64_MAX;
}

uint64_t uns_timers_run(uns_runtime *runtime, bool *fired) {
  uint64_t left_ns = run(runtime, &runtime->timers, runtime->turn_ns, fired);
  uns_test_clock *clock = runtime->test_clock;
  if (clock == NULL) return left_ns;
  run(runtime, &clock->timers, uns_test_clock_now_ns(clock), fired);
  return with_test_clock(runtime, left_ns);
}
