/*
 * process_calls: calls on their way to worker processes, through the rings, and their ends on the way back.
 *
 *   - A child may have several calls: the first runs, the others were given ahead, and can be taken back until it claims them.
 *   - What one is asked to stop that does not is made to, rung by rung.
 * Who gives, and what is locked: worker_process.h.
 */
#include <signal.h>
#include <string.h>

#include "core/recorder.h"
#include "exec/worker_process.h"

static const uint64_t AHEAD_NS = 400000;  /* work given ahead to a child, at most */
static const uint64_t STUCK_NS = 3000000; /* what was given ahead waits that long for one call, then another takes it:
                                                   about the scheduler's slice, so that a child that has just lost its
                                                   core is left alone */

const char uns_garbage[] = "it wrote garbage on its channel";
const char uns_no_memory_to_read[] = "there was not enough memory to read what it wrote";

static uns_child *child_of(uns_worker *worker) { return uns_container_of(worker, uns_child, worker); }

/* ---- giving ---- */

void uns_calls_wake(const uns_child *child) { uns_mailbox_wake_at(child->wake_fd); }

/* The lock held, like in all of this part. */
static void kick(const uns_child *child) {
  if (atomic_load(&child->wire.board->child_asleep) && atomic_exchange(&child->wire.board->child_asleep, 0)) {
    uns_calls_wake(child);
  }
}

/* Writes as much of the frame at hand as there is room for. True if that was all of it. */
static bool write_frame(uns_child *child) {
  uns_ring *ring = &child->wire.to_child;
  size_t left;
  while ((left = child->frame.size_bytes - child->frame_written) > 0) {
    int64_t room = uns_ring_room(ring);
    if (room == UNS_RING_BAD) {
      uns_child_condemn_locked(child, uns_garbage);
      return false;
    }
    if (room == 0) {
      if (uns_ring_ask_for_room(ring, room)) return false; /* the supervisor goes on */
      continue;
    }
    size_t now = left < (uint64_t)room ? left : (size_t)room;
    uns_frame_copy(&child->frame, child->frame_written, uns_ring_place(ring), now);
    uns_ring_publish(ring, now);
    child->frame_written += now;
    kick(child);
  }
  uns_frame_done(&child->frame);
  return true;
}

/* The child's next call is one that it starts at once; those behind it wait. */
static void mark_started(uns_child *child) {
  uns_job *job = child->jobs[child->order[0]];
  if (atomic_load_explicit(&job->state, memory_order_relaxed) != UNS_JOB_GIVEN) return;
  job->started_ns = uns_clock_ns();
  atomic_store_explicit(&job->state, UNS_JOB_STARTED, memory_order_release);
}

/* The call in `slot` is no longer the child's. */
static void vacate(uns_child *child, unsigned slot) {
  if (child->jobs[slot]->home == child->pool->main_mailbox) atomic_fetch_sub(&child->main_jobs, 1);
  child->jobs[slot] = NULL;
  unsigned place = 0;
  while (child->order[place] != slot) place++;
  memmove(child->order + place, child->order + place + 1, --child->in_flight - place);
  if (child->in_flight == 0) child->arrived = false;
  else mark_started(child);
}

static int begin_frame(uns_child *child, unsigned slot) {
  uns_job *job = child->jobs[slot];
  uns_message message;
  uns_message_of_call(&message, job);
  message.words.slot = slot;
  message.words.sequence = child->sequences[slot];
  message.words.home = job->home == child->pool->main_mailbox;
  child->frame_written = 0;
  return uns_frame_build(&child->frame, &child->to_child, &message, &job->call);
}

/* Goes on writing. Returns a job whose frame could not be made, with `*status`, and its place is free; or NULL. */
static uns_job *write_on(uns_child *child, int *status) {
  for (;;) {
    if (child->writing) {
      if (!write_frame(child)) return NULL;
      child->writing = false;
    }
    if (child->unsent_count == 0) return NULL;
    unsigned slot = child->unsent[0];
    memmove(child->unsent, child->unsent + 1, --child->unsent_count);
    *status = begin_frame(child, slot);
    if (*status != UNS_OK) {
      uns_job *job = child->jobs[slot];
      vacate(child, slot);
      return job;
    }
    child->writing = true;
    child->writing_slot = slot;
  }
}

/* There is one: a child is given no more calls than places. Mostly calls end in turn, and the first look finds it. */
static unsigned free_slot(const uns_child *child) {
  unsigned slot = child->last_sequence % UNS_CLAIMS;
  while (child->jobs[slot] != NULL) slot = (slot + 1) % UNS_CLAIMS;
  return slot;
}

/* Puts the call into its ring. Returns like write_on. */
static uns_job *take_in(uns_child *child, uns_job *job, int *status) {
  uns_process_pool *pool = child->pool;
  uns_board *board = child->wire.board;
  unsigned slot = free_slot(child);
  child->jobs[slot] = job;
  job->record.track = child->track;
  child->sequences[slot] = ++child->last_sequence;
  child->order[child->in_flight++] = (uint8_t)slot;
  if (child->in_flight == 1) mark_started(child);
  atomic_store(&board->claims[slot], child->last_sequence * 4 + UNS_CLAIM_GIVEN);
  child->unsent[child->unsent_count++] = (uint8_t)slot;
  if (job->home == pool->main_mailbox) {
    atomic_fetch_add(&child->main_jobs, 1);
    if (atomic_load(&pool->main_asleep)) atomic_store(&board->host_asleep, UNS_HOST_ASLEEP);
  }
  if (!atomic_load_explicit(&pool->check_armed, memory_order_relaxed)) uns_check_later(pool);
  return write_on(child, status);
}

static void fail_unsent(uns_process_pool *pool, uns_job *job, int status) {
  uns_job_fail_unsent(job, "the arguments", status);
  uns_process_pool_abandon(pool, job);
}

/* It was cancelled after the dispatch had chosen a worker for it. */
static void fail_cancelled(uns_process_pool *pool, uns_job *job) {
  uns_job_fail(job, "cancelled", "%s was cancelled", job->function->name);
  uns_process_pool_abandon(pool, job);
}

/* The worker has died since the dispatch chose it. */
static void put_back(uns_process_pool *pool, uns_child *child, uns_job *job) {
  uns_dispatch *dispatch = &pool->dispatch;
  uns_mailbox *supervisor = uns_supervisor_mailbox(pool->supervisor); /* the pool may end once nobody is expected */
  uns_dispatch_put_back(dispatch, job);
  uv_mutex_lock(&child->lock);
  uv_mutex_lock(&dispatch->lock);
  if (child->worker.job == job) child->worker.job = NULL;
  uv_mutex_unlock(&dispatch->lock);
  child->expects_give = false;
  uv_mutex_unlock(&child->lock);
  uns_mailbox_wake(supervisor);
}

void uns_calls_give(uns_dispatch *dispatch, uns_worker *worker, uns_job *job) {
  uns_child *child = child_of(worker);
  uns_process_pool *pool = dispatch->owner;
  while (job != NULL) {
    int status = UNS_OK;
    uv_mutex_lock(&child->lock);
    bool alive = child->state == UNS_CHILD_LIVE;
    bool cancelled = alive && atomic_load(&job->cancel) != 0; /* set before the lock is taken to look for the job */
    uns_job *failed = NULL, *next = NULL;
    if (alive && !cancelled) {
      child->arrived = true;
      failed = take_in(child, job, &status);
    }
    /* Under the lock, for one that is buried meanwhile would be expected to be given what it will never get. */
    if (cancelled || failed != NULL) next = uns_dispatch_next(dispatch, worker);
    uv_mutex_unlock(&child->lock);
    if (!alive) {
      put_back(pool, child, job);
      return;
    }
    if (failed == NULL && !cancelled) return;
    if (cancelled) fail_cancelled(pool, job);
    else fail_unsent(pool, failed, status);
    job = next;
  }
}

/* ---- giving ahead ----
 * A child that runs short calls is given some of those that wait, so that it need not be idle until its last end has
 * been read. They can be taken back until it has claimed them.
 */

static void look_at_ahead(void *argument);

/* How many calls may lie in a child whose calls take so long. */
static uint32_t ahead_limit(uint64_t average_ns) {
  if (average_ns == 0) return 1;
  uint64_t limit = 1 + AHEAD_NS / average_ns;
  return limit < UNS_CLAIMS ? (uint32_t)limit : UNS_CLAIMS;
}

/* A call of it has taken so long. The read_lock held. */
static void note_time(uns_child *child, uint64_t took_ns) {
  uint64_t average_ns = child->average_ns == 0 ? took_ns : (child->average_ns * 3 + took_ns) / 4;
  child->average_ns = average_ns | 1; /* 0 is for none yet */
}

/* The read_lock held, and no call is in it. How many are now. */
static uint32_t give_next(uns_child *child) {
  uns_dispatch *dispatch = &child->pool->dispatch;
  uns_job *next = uns_dispatch_next(dispatch, &child->worker);
  if (next != NULL) uns_calls_give(dispatch, &child->worker, next);
  return next != NULL;
}

/* The read_lock held: `left` calls are in it. */
static void give_ahead(uns_child *child, uint32_t left) {
  uns_process_pool *pool = child->pool;
  uint32_t limit = ahead_limit(child->average_ns);
  while (left > 0 && left < limit) {
    uns_job *job = uns_dispatch_ahead(&pool->dispatch, &child->worker, left - 1);
    if (job == NULL) break;
    int status = UNS_OK;
    uv_mutex_lock(&child->lock);
    bool alive = child->state == UNS_CHILD_LIVE, cancelled = atomic_load(&job->cancel) != 0;
    uns_job *failed = alive && !cancelled ? take_in(child, job, &status) : NULL;
    left = alive ? child->in_flight : limit;
    uv_mutex_unlock(&child->lock);
    if (cancelled) fail_cancelled(pool, job);
    else if (!alive) uns_dispatch_put_back(&pool->dispatch, job);
    if (failed == NULL) continue;
    if (left == 0) give_next(child);
    fail_unsent(pool, failed, status);
    break;
  }
  if (left > 1 && !atomic_load_explicit(&pool->ahead_armed, memory_order_relaxed) &&
      !atomic_exchange(&pool->ahead_armed, true)) {
    if (uns_supervisor_after(pool->supervisor, STUCK_NS, look_at_ahead, pool) != 0)
      atomic_store(&pool->ahead_armed, false);
  }
}

static void forget_unsent(uns_child *child, unsigned slot) {
  unsigned kept = 0;
  for (unsigned i = 0; i < child->unsent_count; i++) {
    if (child->unsent[i] != slot) child->unsent[kept++] = child->unsent[i];
  }
  child->unsent_count = (uint8_t)kept;
}

/* Takes back what the child has not claimed; others may run it. */
void uns_calls_take_back(uns_child *child) {
  uns_job *jobs[UNS_CLAIMS];
  uint64_t sequences[UNS_CLAIMS];
  unsigned count = 0;
  uv_mutex_lock(&child->lock);
  int oldest = child->in_flight > 0 ? child->order[0] : -1;
  for (unsigned slot = 0; slot < UNS_CLAIMS; slot++) {
    if (child->jobs[slot] == NULL || (int)slot == oldest || (child->writing && child->writing_slot == slot)) continue;
    uint64_t given = child->sequences[slot] * 4 + UNS_CLAIM_GIVEN;
    if (!atomic_compare_exchange_strong(&child->wire.board->claims[slot], &given,
                                        child->sequences[slot] * 4 + UNS_CLAIM_REVOKED)) {
      /* It has begun; or the word is none of ours, and it never will. */
      if (given != child->sequences[slot] * 4 + UNS_CLAIM_STARTED) uns_child_condemn_locked(child, uns_garbage);
      continue;
    }
    unsigned place = count++; /* the latest first: each goes in front of the last */
    for (; place > 0 && sequences[place - 1] < child->sequences[slot]; place--) {
      jobs[place] = jobs[place - 1];
      sequences[place] = sequences[place - 1];
    }
    jobs[place] = child->jobs[slot];
    sequences[place] = child->sequences[slot];
    forget_unsent(child, slot);
    vacate(child, slot);
  }
  uv_mutex_unlock(&child->lock);
  for (unsigned i = 0; i < count; i++) uns_dispatch_put_back(&child->pool->dispatch, jobs[i]);
}

/* ---- stopping ---- */

static bool still_runs(const uns_child *child) {
  for (unsigned slot = 0; slot < UNS_CLAIMS; slot++) {
    if (child->jobs[slot] != NULL && child->sequences[slot] == child->cancelled) return true;
  }
  return false;
}

const char *uns_calls_stopped_by(const uns_child *child, uint64_t sequence) {
  if (child->cancelled != sequence || child->rung == 0) return NULL;
  return child->rung == 1 ? "sigterm" : "sigkill";
}

static void climb(void *argument);

/* The lock held. */
static void climb_later(uns_child *child) {
  child->next_rung_ns = uns_clock_ns() + child->grace_ns;
  if (uns_supervisor_after(child->pool->supervisor, child->grace_ns, climb, child) != 0) {
    uns_child_condemn_locked(child, "there was not enough memory to stop it otherwise");
  }
}

/* A grace period is over. Supervisor. */
static void climb(void *argument) {
  uns_child *child = argument;
  uv_mutex_lock(&child->lock);
  if (child->cancelled != 0 && uns_clock_ns() >= child->next_rung_ns && still_runs(child)) {
    uns_child_signal_locked(child, ++child->rung == 1 ? SIGTERM : SIGKILL);
    if (child->rung < 2) climb_later(child);
  }
  uv_mutex_unlock(&child->lock);
}

static void begin_to_climb(void *argument) {
  uns_child *child = argument;
  uv_mutex_lock(&child->lock);
  bool runs = child->cancelled != 0 && child->rung == 0 && still_runs(child);
  uint64_t sequence = child->cancelled;
  if (runs) climb_later(child);
  uv_mutex_unlock(&child->lock);
  if (runs) uns_service_cancel(child, sequence);
}

bool uns_calls_cancel(uns_process_pool *pool, uns_job *job) {
  uns_dispatch *dispatch = &pool->dispatch;
  uv_mutex_lock(&dispatch->lock);
  uns_worker *worker = job->worker;
  uv_mutex_unlock(&dispatch->lock);
  if (worker == NULL) return false; /* on its way back into the queue: whoever gives it next sees the flag */
  uns_child *child = child_of(worker);
  uv_mutex_lock(&child->lock);
  unsigned slot = 0;
  while (slot < UNS_CLAIMS && child->jobs[slot] != job) slot++;
  if (slot == UNS_CLAIMS) { /* on its way to the child: its giver sees the flag */
    uv_mutex_unlock(&child->lock);
    return false;
  }
  uint64_t sequence = child->sequences[slot], given = sequence * 4 + UNS_CLAIM_GIVEN;
  /* The only one in the child is not taken out, since the worker would then have to be made idle: it ends itself. */
  bool out = child->in_flight > 1 && !(child->writing && child->writing_slot == slot) &&
             atomic_compare_exchange_strong(&child->wire.board->claims[slot], &given, sequence * 4 + UNS_CLAIM_REVOKED);
  if (out) {
    forget_unsent(child, slot);
    vacate(child, slot);
  } else {
    atomic_store(&child->wire.board->cancels[slot], sequence);
    child->cancelled = sequence;
    child->rung = 0;
    child->next_rung_ns = UINT64_MAX; /* until it has been asked */
    child->grace_ns = job->function->grace_ns != 0 ? job->function->grace_ns : pool->executors->grace_ns;
  }
  uv_mutex_unlock(&child->lock);
  if (!out && uns_supervisor_after(pool->supervisor, 0, begin_to_climb, child) != 0) {
    uns_child_condemn(child, "there was not enough memory to stop it otherwise");
  }
  return out;
}

/* ---- what is stuck ---- */

/* On the supervisor's thread, as long as something was given ahead. */
static void look_at_ahead(void *argument) {
  uns_process_pool *pool = argument;
  bool more = false;
  atomic_store(&pool->ahead_armed, false);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    bool ahead = child->state == UNS_CHILD_LIVE && child->in_flight > 1;
    uint64_t running = ahead ? child->sequences[child->order[0]] : 0;
    uv_mutex_unlock(&child->lock);
    if (ahead && running == child->seen_running) uns_calls_take_back(child);
    else more |= ahead;
    child->seen_running = running;
  }
  if (more && !pool->closing && !atomic_exchange(&pool->ahead_armed, true)) {
    if (uns_supervisor_after(pool->supervisor, STUCK_NS, look_at_ahead, pool) != 0)
      atomic_store(&pool->ahead_armed, false);
  }
}

/* There is room again for what did not fit into its ring. */
void uns_calls_write_rest(uns_child *child) {
  int status = UNS_OK;
  uns_job *failed;
  do {
    uv_mutex_lock(&child->lock);
    failed = child->state == UNS_CHILD_LIVE && child->writing ? write_on(child, &status) : NULL;
    uv_mutex_unlock(&child->lock);
    if (failed == NULL) return;
    uv_mutex_lock(&child->read_lock);
    uv_mutex_lock(&child->lock);
    bool idle = child->state == UNS_CHILD_LIVE && child->in_flight == 0;
    uv_mutex_unlock(&child->lock);
    if (idle) give_next(child);
    uv_mutex_unlock(&child->read_lock);
    fail_unsent(child->pool, failed, status);
  } while (true);
}

/* ---- progress ---- */

void uns_calls_pass_progress(uns_child *child) {
  uns_board *board = child->wire.board;
  uint64_t count = atomic_load(&board->progress_count);
  if (count == child->progress_count) return;
  child->progress_count = count;
  uint64_t sequence = atomic_load(&board->progress_call);
  uint64_t done = atomic_load(&board->progress_done), total = atomic_load(&board->progress_total);
  if (sequence == 0 || atomic_load(&board->progress_call) != sequence) return; /* there is more to come */
  uv_mutex_lock(&child->lock); /* so that the call does not end meanwhile */
  for (unsigned slot = 0; slot < UNS_CLAIMS; slot++) {
    if (child->jobs[slot] != NULL && child->sequences[slot] == sequence)
      uns_job_note_progress(child->jobs[slot], done, total);
  }
  uv_mutex_unlock(&child->lock);
}

/* ---- reading ---- */

/* The job that a frame ends, taken out of the child; NULL if it makes no sense: calls end in the order they were given in,
   and not before the child has the whole of them, as we are still reading from what we write. */
static uns_job *take_job(uns_child *child, const uns_message *message, uint32_t *left) {
  unsigned slot = message->words.slot;
  if (message->words.kind != UNS_FRAME_RESULT || slot >= UNS_CLAIMS) return NULL;
  if (message->words.state > UNS_OUTCOME_ERROR) return NULL;
  uv_mutex_lock(&child->lock);
  uns_job *job = child->in_flight > 0 && child->order[0] == slot ? child->jobs[slot] : NULL;
  if (child->writing && child->writing_slot == slot) job = NULL;
  if (job != NULL && job->id == message->words.id) vacate(child, slot);
  else job = NULL;
  *left = child->in_flight;
  uv_mutex_unlock(&child->lock);
  return job;
}

/* The end of `job` has been read: tells whoever waits. Where that is us, it is told at once, and may read from the
   ring; but not before the last report of its progress, which lies in the mailbox. */
static void deliver(uns_process_pool *pool, uns_job *job, uns_runtime *runtime) {
  bool ours = job->home == pool->main_mailbox;
  if (ours) atomic_fetch_sub(&pool->main_jobs, 1);
  if (ours && runtime != NULL && !atomic_load(&job->progress_posted)) {
    job->ended_ns = uns_clock_ns();
    atomic_store_explicit(&job->state, UNS_JOB_ENDED, memory_order_release);
    uns_alive *alive = job->alive;
    job->mail.deliver(&job->mail, runtime);
    uns_alive_leave(alive);
    return;
  }
  if (uns_frame_own(&job->result) != UNS_OK) {
    uns_job_fail(job, "ENOMEM", "not enough memory for what %s returned", job->function->name);
  }
  uns_job_post(job);
}

/* One whole frame. False: no more can be read from this child. */
static bool read_frame(uns_child *child, const uint8_t *bytes, size_t size_bytes, uns_runtime *runtime) {
  uns_process_pool *pool = child->pool;
  uns_message message;
  int status = uns_frame_read(&child->from_child, bytes, size_bytes, &message);
  if (status != UNS_OK) {
    uns_child_condemn(child, status == UNS_ENOMEM ? uns_no_memory_to_read : uns_garbage);
    return false;
  }
  uint32_t left = 0;
  uns_job *job = take_job(child, &message, &left);
  if (job != NULL) uns_message_end_job(&message, job);
  uns_message_deinit(&message);
  if (job == NULL) {
    uns_child_condemn(child, uns_garbage);
    return false;
  }
  if (message.words.count > 0) uns_job_note_progress(job, message.words.progress_done, message.words.progress_total);
  if (message.words.started_ns != 0) {
    note_time(child, message.words.ended_ns - message.words.started_ns);
    if (job->record.recorder != NULL) uns_recorder_job_ran(job, message.words.started_ns, message.words.ended_ns);
  }
  if (left == 0) left = give_next(child);
  give_ahead(child, left);
  deliver(pool, job, runtime);
  return true;
}

void uns_calls_give_room(uns_child *child, size_t size_bytes) {
  if (!uns_ring_consume(&child->wire.to_host, size_bytes)) return;
  uv_mutex_lock(&child->lock);
  if (child->wake_fd >= 0) uns_calls_wake(child);
  uv_mutex_unlock(&child->lock);
}

/* Part of a frame that is larger than the ring. */
static bool read_large(uns_child *child, const uint8_t *bytes, int64_t there, uns_runtime *runtime) {
  uint64_t left = child->large_bytes - child->large_have;
  size_t now = (uint64_t)there < left ? (size_t)there : (size_t)left;
  memcpy(child->large + child->large_have, bytes, now);
  child->large_have += now;
  uns_calls_give_room(child, now);
  if (child->large_have < child->large_bytes) return true;
  uint8_t *large = child->large;
  child->large = NULL;
  bool fine = read_frame(child, large, (size_t)child->large_bytes, runtime);
  uns_free(large);
  return fine;
}

/* Reads what the child wrote. The read_lock held. `runtime`: the script's, on its thread; NULL: the supervisor. */
bool uns_calls_read(uns_child *child, uns_runtime *runtime) {
  uns_ring *ring = &child->wire.to_host;
  const uint8_t *bytes;
  bool found = false;
  for (;;) {
    int64_t there = uns_ring_peek(ring, &bytes);
    if (there == UNS_RING_BAD) break;
    if (child->large != NULL && there > 0) {
      found = true;
      if (!read_large(child, bytes, there, runtime)) return found;
      continue;
    }
    if (there < UNS_FRAME_HEAD) return found;
    uint64_t size_bytes = uns_frame_size(bytes);
    if (size_bytes == 0) break;
    if (size_bytes > UNS_RING_BYTES) {
      child->large = uns_malloc((size_t)size_bytes);
      if (child->large == NULL) {
        uns_child_condemn(child, uns_no_memory_to_read);
        return found;
      }
      child->large_bytes = size_bytes;
      child->large_have = 0;
      continue;
    }
    if (size_bytes > (uint64_t)there) return found;
    found = true;
    bool fine = read_frame(child, bytes, (size_t)size_bytes, runtime);
    uns_calls_give_room(child, (size_t)size_bytes);
    if (!fine) return found;
  }
  uns_child_condemn(child, uns_garbage);
  return found;
}

/* The script's loop: in each turn, and while it spins. */
bool uns_calls_poll(uns_source *source, uns_runtime *runtime) {
  uns_process_pool *pool = uns_container_of(source, uns_process_pool, source);
  bool found = false;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire), working = 0;
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    if (atomic_load_explicit(&child->main_jobs, memory_order_relaxed) == 0) continue;
    if (uv_mutex_trylock(&child->read_lock) != 0) continue; /* the supervisor reads it, and posts */
    if (child->readable && uns_ring_has_news(&child->wire.to_host)) found |= uns_calls_read(child, runtime);
    if (child->readable && atomic_load(&child->wire.board->waiting) % 2 == 0) working++;
    uv_mutex_unlock(&child->read_lock);
  }
  source->busy = atomic_load_explicit(&pool->main_jobs, memory_order_relaxed) > 0;
  source->crowded = working >= (uint32_t)pool->executors->cores;
  return found;
}

/* From now on children write the loop's eventfd when they have written something. */
bool uns_calls_fall_asleep(uns_source *source, bool asleep) {
  uns_process_pool *pool = uns_container_of(source, uns_process_pool, source);
  bool may = true;
  source->dozes = false;
  atomic_store(&pool->main_asleep, asleep);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    if (atomic_load(&child->main_jobs) == 0) continue;
    /* Under the lock, for the supervisor may be laying another child's memory over this one's. What it is reading now it
       posts; what comes after its last look counts here. */
    uv_mutex_lock(&child->read_lock);
    if (child->readable) {
      uv_mutex_lock(&child->lock);
      bool doze = asleep && child->in_flight > 1; /* with more to do it need not wake us for each end */
      uv_mutex_unlock(&child->lock);
      source->dozes |= doze;
      atomic_store(&child->wire.board->host_asleep, doze ? UNS_HOST_DOZES : asleep ? UNS_HOST_ASLEEP : UNS_HOST_AWAKE);
      if (asleep && uns_ring_has_news(&child->wire.to_host)) may = false;
    }
    uv_mutex_unlock(&child->read_lock);
  }
  return may;
}
