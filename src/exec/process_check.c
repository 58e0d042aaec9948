/*
 * process_check: whether a child that has calls keeps to what it and its host have agreed on.
 *
 * A worker may lose its mind: write over the memory that it shares with us, or begin to say something and leave it at that.
 * What can be seen to be wrong when it is read is dealt with there; here, what would be waited for without end:
 *   - Calls lie in a child in order. The claim of each is its number, given or started, and none is started before the
 *     one in front of it has ended.
 *   - A child that sleeps has written all the ends of what it had started; one that says that it does not speak has said
 *     the whole of its last frame. What is there only in part then will stay so.
 *   - What the host said on the board is said again, and who may have missed a wake-up is woken once more.
 * Time plays no part in the judgement, so a worker that is slow, or was stopped, is left alone. Somebody looks now and
 * then, as long as a call is under way. Calls and their ends: process_calls.c. What is said: serve.c.
 */
#include "exec/worker_process.h"

static const uint64_t LOOK_NS = 500000000; /* a mad worker is rare; two looks a second cost nothing to speak of */

static uint64_t claim_of(uns_child *child, unsigned place) {
  return atomic_load(&child->wire.board->claims[child->order[place]]);
}

static uint64_t sequence_of(const uns_child *child, unsigned place) { return child->sequences[child->order[place]]; }

/* The lock held. */
static bool claims_make_sense(uns_child *child) {
  for (unsigned i = 0; i < child->in_flight; i++) {
    uint64_t claim = claim_of(child, i), given = sequence_of(child, i) * 4 + UNS_CLAIM_GIVEN;
    if (claim != given && claim != sequence_of(child, i) * 4 + UNS_CLAIM_STARTED) return false;
  }
  return true;
}

/* The lock held, and a call is in it. By its own account the child has written the end of its first call. */
static bool first_has_ended(uns_child *child) {
  for (unsigned i = 1; i < child->in_flight; i++) {
    if (claim_of(child, i) == sequence_of(child, i) * 4 + UNS_CLAIM_STARTED) return true;
  }
  /* In this order: a sleeper has started nothing since. */
  bool started = claim_of(child, 0) == sequence_of(child, 0) * 4 + UNS_CLAIM_STARTED;
  return started && atomic_load(&child->wire.board->child_asleep) != 0;
}

/* The read_lock held. The number of a call whose end must be there in whole; 0: there is none. */
static uint64_t look_at_claims(uns_child *child) {
  uint64_t ended = 0;
  uv_mutex_lock(&child->lock);
  if (child->state == UNS_CHILD_LIVE && child->in_flight > 0) {
    uint64_t first = sequence_of(child, 0);
    if (!claims_make_sense(child)) uns_child_condemn_locked(child, uns_garbage);
    else if (first_has_ended(child)) ended = first;
    uns_ring_publish(&child->wire.to_child, 0);
    bool overslept = first == child->checked && claim_of(child, 0) == first * 4 + UNS_CLAIM_GIVEN;
    if (overslept && child->wake_fd >= 0) uns_calls_wake(child);
    child->checked = first;
  }
  uv_mutex_unlock(&child->lock);
  return ended;
}

/* The read_lock held. */
static void expect_end(uns_child *child, uint64_t sequence) {
  uv_mutex_lock(&child->lock);
  if (child->in_flight > 0 && sequence_of(child, 0) == sequence) uns_child_condemn_locked(child, uns_garbage);
  uv_mutex_unlock(&child->lock);
}

static void check_calls(uns_child *child) {
  uns_calls_write_rest(child);
  uv_mutex_lock(&child->read_lock);
  if (child->readable) {
    uint64_t ended = look_at_claims(child);
    if (uns_ring_has_news(&child->wire.to_host)) uns_calls_read(child, NULL);
    if (ended != 0) expect_end(child, ended);
    uns_calls_give_room(child, 0);
  }
  uv_mutex_unlock(&child->read_lock);
}

static void check(void *argument) {
  uns_process_pool *pool = argument;
  bool more = false;
  atomic_store(&pool->check_armed, false);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    check_calls(child);
    uns_service_check(child);
    uv_mutex_lock(&child->lock);
    more |= child->in_flight > 0;
    uv_mutex_unlock(&child->lock);
  }
  if (more && !pool->closing) uns_check_later(pool);
}

void uns_check_later(uns_process_pool *pool) {
  if (atomic_exchange(&pool->check_armed, true)) return;
  /* Without memory for it the next call asks again. */
  if (uns_supervisor_after(pool->supervisor, LOOK_NS, check, pool) != 0) atomic_store(&pool->check_armed, false);
}
