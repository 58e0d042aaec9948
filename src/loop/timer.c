/*
 * timer: sleeps and deadlines, ordered by uns_clock_ns.
 *
 * Most timers are armed for as long as the one before them was, so they fall due in the order in which they are armed. They
 * stand in lanes, lists that are in order because each newcomer goes behind one that is due no later: to arm, disarm and
 * fire costs the same however many there are. What finds no lane goes into a binary heap.
 *   - Equal deadlines fire in the order they were armed.
 *   - One uv_timer (loop/runtime.c) wakes the loop for the nearest.
 *   - Where there is a test clock, it has a queue of its own, and only timers for the world outside go by uns_clock_ns.
 */
#include "core/packet.h"
#include "loop/test_clock.h"

/* uns_timer.where */
enum { NOWHERE, IN_HEAP, FIRST_LANE };

static bool before(const uns_timer *a, const uns_timer *b) {
  return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : (int32_t)(a->order - b->order) < 0;
}

/* ---- the heap ---- */

static void put(uns_timer_queue *queue, size_t place, uns_timer *timer) {
  queue->heap[place] = timer;
  timer->place = place;
}

static void sift_up(uns_timer_queue *queue, size_t place, uns_timer *timer) {
  while (place > 0) {
    size_t parent = (place - 1) / 2;
    if (!before(timer, queue->heap[parent])) break;
    put(queue, place, queue->heap[parent]);
    place = parent;
  }
  put(queue, place, timer);
}

static void sift_down(uns_timer_queue *queue, size_t place, uns_timer *timer) {
  for (;;) {
    size_t child = 2 * place + 1;
    if (child >= queue->heap_count) break;
    if (child + 1 < queue->heap_count && before(queue->heap[child + 1], queue->heap[child])) child++;
    if (!before(queue->heap[child], timer)) break;
    put(queue, place, queue->heap[child]);
    place = child;
  }
  put(queue, place, timer);
}

static int heap_add(uns_timer_queue *queue, uns_timer *timer) {
  if (queue->heap_count == queue->heap_capacity) {
    size_t capacity = queue->heap_capacity == 0 ? 16 : queue->heap_capacity * 2;
    uns_timer **heap = uns_realloc(queue->heap, capacity * sizeof(uns_timer *));
    if (heap == NULL) return UNS_ENOMEM;
    queue->heap = heap;
    queue->heap_capacity = capacity;
  }
  timer->where = IN_HEAP;
  sift_up(queue, queue->heap_count++, timer);
  return UNS_OK;
}

static void heap_remove(uns_timer_queue *queue, const uns_timer *timer) {
  size_t place = timer->place;
  uns_timer *last = queue->heap[--queue->heap_count];
  if (last == timer) return;
  if (place > 0 && before(last, queue->heap[(place - 1) / 2])) sift_up(queue, place, last);
  else sift_down(queue, place, last);
}

/* ---- the lanes ---- */

static uns_timer *lane_timer(uns_link *link) { return uns_container_of(link, uns_timer, link); }

/*
 * Of the lanes whose last timer is due no later than `deadline_ns`, the one where it is due last, so that long waits do not
 * close the lanes of short ones; else one that is empty. -1: none.
 */
static int find_lane(const uns_timer_queue *queue, uint64_t deadline_ns) {
  int best = -1;
  uint64_t best_ns = 0;
  for (unsigned left = queue->used; left != 0; left &= left - 1) {
    int lane = __builtin_ctz(left);
    uint64_t last_ns = lane_timer(queue->lanes[lane].prev)->deadline_ns;
    if (last_ns <= deadline_ns && (best < 0 || last_ns > best_ns)) {
      best = lane;
      best_ns = last_ns;
    }
  }
  unsigned empty = ~queue->used & ((1u << UNS_TIMER_LANES) - 1);
  return best < 0 && empty != 0 ? __builtin_ctz(empty) : best;
}

/* ---- both ---- */

void uns_timer_queue_init(uns_timer_queue *queue) {
  *queue = (uns_timer_queue){.used = 0};
  for (int lane = 0; lane < UNS_TIMER_LANES; lane++) uns_list_init(&queue->lanes[lane]);
}

void uns_timer_queue_deinit(uns_timer_queue *queue) {
  uns_free(queue->heap);
  uns_timer_queue_init(queue);
}

static uns_timer *first(const uns_timer_queue *queue) {
  uns_timer *nearest = queue->heap_count > 0 ? queue->heap[0] : NULL;
  for (unsigned left = queue->used; left != 0; left &= left - 1) {
    uns_timer *timer = lane_timer(queue->lanes[__builtin_ctz(left)].next);
    if (nearest == NULL || before(timer, nearest)) nearest = timer;
  }
  return nearest;
}

uint64_t uns_timer_queue_next_ns(const uns_timer_queue *queue) {
  return queue->count > 0 ? first(queue)->deadline_ns : UINT64_MAX;
}

static int add(uns_timer_queue *queue, uns_timer *timer) {
  int lane = find_lane(queue, timer->deadline_ns);
  if (lane >= 0) {
    uns_list_push_back(&queue->lanes[lane], &timer->link);
    queue->used |= 1u << lane;
    timer->where = (uint8_t)(FIRST_LANE + lane);
  } else if (heap_add(queue, timer) != UNS_OK) {
    return UNS_ENOMEM;
  }
  queue->count++;
  return UNS_OK;
}

static void take_out(uns_timer_queue *queue, uns_timer *timer) {
  queue->count--;
  if (timer->where == IN_HEAP) {
    heap_remove(queue, timer);
  } else {
    int lane = timer->where - FIRST_LANE;
    uns_list_remove(&timer->link);
    if (uns_list_empty(&queue->lanes[lane])) queue->used &= ~(1u << lane);
  }
  timer->where = NOWHERE;
}

/* ---- timers ---- */

void uns_timer_init(uns_timer *timer, void (*fire)(uns_timer *, uns_runtime *)) {
  timer->where = NOWHERE;
  timer->fire = fire;
  timer->real = timer->on_test = false;
}

void uns_timer_init_real(uns_timer *timer, void (*fire)(uns_timer *, uns_runtime *)) {
  uns_timer_init(timer, fire);
  timer->real = true;
}

static uns_timer_queue *queue_of(uns_runtime *runtime, const uns_timer *timer) {
  return __builtin_expect(timer->on_test, 0) ? &runtime->test_clock->timers : &runtime->timers;
}

int uns_timer_arm(uns_runtime *runtime, uns_timer *timer, uint64_t deadline_ns) {
  uns_timer_disarm(runtime, timer);
  timer->on_test = runtime->test_clock != NULL && !timer->real;
  timer->deadline_ns = deadline_ns;
  timer->order = runtime->timer_order++;
  if (add(queue_of(runtime, timer), timer) != UNS_OK) return UNS_ENOMEM;
  if (deadline_ns < atomic_load_explicit(&runtime->due_hint_ns, memory_order_relaxed) && !timer->on_test) {
    atomic_store_explicit(&runtime->due_hint_ns, deadline_ns, memory_order_relaxed);
  }
  uns_runtime_stir(runtime); /* it may be nearer than what libuv would sleep for */
  return UNS_OK;
}

void uns_timer_disarm(uns_runtime *runtime, uns_timer *timer) {
  if (uns_timer_armed(timer)) take_out(queue_of(runtime, timer), timer);
}

static uint64_t left(const uns_timer_queue *queue, uint64_t now_ns) {
  uint64_t deadline_ns = uns_timer_queue_next_ns(queue);
  if (deadline_ns == UINT64_MAX) return UINT64_MAX;
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

static void run(uns_runtime *runtime, uns_timer_queue *queue, uint64_t now_ns, bool *fired) {
  while (queue->count > 0) {
    uns_timer *timer = first(queue);
    if (timer->deadline_ns > now_ns) return;
    take_out(queue, timer);
    *fired = true;
    timer->fire(timer, runtime);
  }
}

void uns_timers_run(uns_runtime *runtime, bool *fired) {
  run(runtime, &runtime->timers, uns_runtime_turn_ns(runtime), fired);
  atomic_store_explicit(&runtime->due_hint_ns, uns_timer_queue_next_ns(&runtime->timers), memory_order_relaxed);
  uns_test_clock *clock = runtime->test_clock;
  if (clock != NULL) run(runtime, &clock->timers, uns_test_clock_now_ns(clock), fired);
}
