#include "exec/process.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/parent.h"
#include "exec/spawn.h"
#include "exec/worker_process.h"

static const uint64_t HELLO_NS = 30000000000;   /* a program that has not said hello by then never will */
static const uint64_t LOOK_AGAIN_NS = 20000000; /* where the system tells nobody of a child's end */
static const uint64_t AHEAD_NS = 200000;        /* work given ahead to a child, at most */
static const uint64_t STUCK_NS = 3000000;       /* what was given ahead waits that long for one call, then another takes it:
                                                   about the scheduler's slice, so that a child that has just lost its
                                                   core is left alone */
static const uint64_t SURPLUS_NS = 10000000000; /* idle for that long: a child beyond the target ends */

enum {
  PUT_BACK_MAX = 8, /* a call that was next in so many children that died is at fault itself */
  STARTS_MAX = 3    /* a program that has ended so often before it was ready always will */
};

struct uns_process_pool {
  uns_dispatch dispatch;
  struct uns_parent *parent; /* borrowed: in a worker process, and then nothing else is used */
  uns_executors *executors;  /* borrowed */
  uns_supervisor *supervisor; /* borrowed */
  uns_mailbox *main_mailbox; /* one reference */
  uns_runtime *main_runtime; /* borrowed; its thread's */
  uns_source source;         /* in its list once it has submitted something */
  atomic_uint main_jobs;     /* its calls under way */
  atomic_bool main_asleep;   /* pairs with each child's main_jobs (seq_cst): whoever gives a call tells its child */
  char *program;             /* owned; NULL: not found */
  uns_sweep sweep;

  uns_mail grow_mail; /* on its way while `growing` */
  atomic_bool growing;
  uns_mail open_mail, close_mail, gone_mail;

  uv_mutex_t lock; /* with `gone` */
  uv_cond_t gone;
  bool closed; /* all children are gone for good; guarded by `lock` */

  atomic_bool ahead_armed; /* the supervisor will look whether what was given ahead is stuck */
  bool closing; /* the supervisor's from here on */
  bool told_gone;
  int failed_starts; /* one after the other */
  bool surplus_armed;
  uint32_t capacity;
  atomic_uint count; /* of `children`; release by the supervisor: they are never freed before the pool */
  uns_child *children[];
};

uns_supervisor *uns_process_pool_supervisor(uns_process_pool *pool) { return pool->supervisor; }
uns_executors *uns_process_pool_executors(uns_process_pool *pool) { return pool->executors; }

static uns_child *child_of(uns_worker *worker) { return uns_container_of(worker, uns_child, worker); }

static const char garbage[] = "it wrote garbage on its channel";
static const char no_memory_to_read[] = "there was not enough memory to read what it wrote";

/* The lock held. */
static void condemn(uns_child *child, const char *why) {
  if (child->condemned[0] == '\0') snprintf(child->condemned, sizeof child->condemned, "was killed, for %s", why);
  if (child->pid > 0) kill(child->pid, SIGKILL); /* not yet reaped, so the number is its own */
}

void uns_child_condemn(uns_child *child, const char *why) {
  uv_mutex_lock(&child->lock);
  condemn(child, why);
  uv_mutex_unlock(&child->lock);
}

void uns_child_is_sorry(uns_child *child, const char *error_code, const char *why) {
  uv_mutex_lock(&child->lock);
  if (child->condemned[0] == '\0') {
    snprintf(child->condemned, sizeof child->condemned, "cannot start: %s", why);
    snprintf(child->error_code, sizeof child->error_code, "%s", error_code);
  }
  uv_mutex_unlock(&child->lock);
}

/* ---- giving ---- */

static void wake_child(const uns_child *child) {
  uint64_t one = 1;
  while (write(child->wake_fd, &one, sizeof one) < 0 && errno == EINTR) continue; /* EAGAIN: it is awake for sure */
}

/* The lock held, like in all of this part. */
static void kick(const uns_child *child) {
  if (atomic_load(&child->wire.board->child_asleep) && atomic_exchange(&child->wire.board->child_asleep, 0)) {
    wake_child(child);
  }
}

/* Writes as much of the frame at hand as there is room for. True if that was all of it. */
static bool write_frame(uns_child *child) {
  uns_ring *ring = &child->wire.to_child;
  size_t left;
  while ((left = child->frame.size_bytes - child->frame_written) > 0) {
    int64_t room = uns_ring_room(ring);
    if (room == UNS_RING_BAD) {
      condemn(child, garbage);
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

/* The call in `slot` is no longer the child's. */
static void vacate(uns_child *child, unsigned slot) {
  if (child->jobs[slot]->home == child->pool->main_mailbox) atomic_fetch_sub(&child->main_jobs, 1);
  child->jobs[slot] = NULL;
  child->in_flight--;
  if (child->in_flight == 0) child->arrived = false;
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

static unsigned free_slot(const uns_child *child) {
  unsigned slot = 0;
  while (child->jobs[slot] != NULL) slot++; /* there is one: a child is given no more calls than places */
  return slot;
}

/* Puts the call into its ring. Returns like write_on. */
static uns_job *take_in(uns_child *child, uns_job *job, int *status) {
  uns_process_pool *pool = child->pool;
  uns_board *board = child->wire.board;
  unsigned slot = free_slot(child);
  child->jobs[slot] = job;
  child->in_flight++;
  child->sequences[slot] = ++child->last_sequence;
  atomic_store(&board->claims[slot], child->last_sequence * 4 + UNS_CLAIM_GIVEN);
  child->unsent[child->unsent_count++] = (uint8_t)slot;
  if (job->home == pool->main_mailbox) {
    atomic_fetch_add(&child->main_jobs, 1);
    if (atomic_load(&pool->main_asleep)) atomic_store(&board->host_asleep, 1);
  }
  return write_on(child, status);
}

/* A job that was not run ends here; counted as it was when it was submitted. */
static void abandon_job(uns_process_pool *pool, uns_job *job) {
  if (job->home == pool->main_mailbox) atomic_fetch_sub(&pool->main_jobs, 1);
  uns_job_post(job);
}

static void fail_unsent(uns_process_pool *pool, uns_job *job, int status) {
  if (status == UNS_ENOMEM) {
    uns_job_fail(job, "ENOMEM", "not enough memory to hand %s to a worker process", job->function->name);
  } else {
    uns_job_fail(job, "unsendable", "%s: its arguments hold something that cannot leave the process",
                 job->function->name);
  }
  abandon_job(pool, job);
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

static void give(uns_dispatch *dispatch, uns_worker *worker, uns_job *job) {
  uns_child *child = child_of(worker);
  uns_process_pool *pool = dispatch->owner;
  while (job != NULL) {
    int status = UNS_OK;
    uv_mutex_lock(&child->lock);
    bool alive = child->state == UNS_CHILD_LIVE;
    uns_job *failed = NULL;
    if (alive) {
      child->arrived = true;
      failed = take_in(child, job, &status);
    }
    uv_mutex_unlock(&child->lock);
    if (!alive) {
      put_back(pool, child, job);
      return;
    }
    if (failed == NULL) return;
    job = uns_dispatch_next(dispatch, worker);
    fail_unsent(pool, failed, status);
  }
}

static void grow(uns_dispatch *dispatch) {
  uns_process_pool *pool = dispatch->owner;
  uv_mutex_lock(&dispatch->lock);
  bool wanted = dispatch->queued > 0 && dispatch->workers - dispatch->lending < dispatch->target;
  uv_mutex_unlock(&dispatch->lock);
  if (wanted && !atomic_exchange(&pool->growing, true)) {
    uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->grow_mail);
  }
}

static const uns_dispatch_ops process_ops = {give, grow};

/* ---- reading ---- */

/* The job that a frame ends, taken out of the child; NULL if it makes no sense. */
static uns_job *take_job(uns_child *child, const uns_message *message, uint32_t *left) {
  unsigned slot = message->words.slot;
  if (message->words.kind != UNS_FRAME_RESULT || slot >= UNS_CLAIMS) return NULL;
  uv_mutex_lock(&child->lock);
  uns_job *job = child->jobs[slot];
  if (job != NULL && job->id == message->words.id) {
    vacate(child, slot);
  } else {
    job = NULL;
  }
  *left = child->in_flight;
  uv_mutex_unlock(&child->lock);
  return job;
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

/* The read_lock held, and no call is in it. How many are now. */
static uint32_t give_next(uns_child *child) {
  uns_dispatch *dispatch = &child->pool->dispatch;
  uns_job *next = uns_dispatch_next(dispatch, &child->worker);
  if (next != NULL) give(dispatch, &child->worker, next);
  return next != NULL;
}

/* The read_lock held: `left` calls are in it. */
static void give_ahead(uns_child *child, uint32_t left) {
  uns_process_pool *pool = child->pool;
  uint32_t limit = ahead_limit(child->average_ns);
  while (left > 0 && left < limit) {
    uns_job *job = uns_dispatch_ahead(&pool->dispatch, &child->worker);
    if (job == NULL) return;
    int status = UNS_OK;
    uv_mutex_lock(&child->lock);
    bool alive = child->state == UNS_CHILD_LIVE;
    uns_job *failed = alive ? take_in(child, job, &status) : NULL;
    left = alive ? child->in_flight : limit;
    uv_mutex_unlock(&child->lock);
    if (!alive) uns_dispatch_put_back(&pool->dispatch, job);
    if (failed == NULL) continue;
    if (left == 0) give_next(child);
    fail_unsent(pool, failed, status);
    return;
  }
  if (left > 1 && !atomic_load_explicit(&pool->ahead_armed, memory_order_relaxed) &&
      !atomic_exchange(&pool->ahead_armed, true)) {
    if (uns_supervisor_after(pool->supervisor, STUCK_NS, look_at_ahead, pool) != 0) atomic_store(&pool->ahead_armed, false);
  }
}

static int oldest_slot(const uns_child *child) {
  int oldest = -1;
  for (int i = 0; i < UNS_CLAIMS; i++) {
    if (child->jobs[i] != NULL && (oldest < 0 || child->sequences[i] < child->sequences[oldest])) oldest = i;
  }
  return oldest;
}

static void forget_unsent(uns_child *child, unsigned slot) {
  unsigned kept = 0;
  for (unsigned i = 0; i < child->unsent_count; i++) {
    if (child->unsent[i] != slot) child->unsent[kept++] = child->unsent[i];
  }
  child->unsent_count = (uint8_t)kept;
}

/* Takes back what the child has not claimed; others may run it. */
static void take_back(uns_child *child) {
  uns_job *jobs[UNS_CLAIMS];
  uint64_t sequences[UNS_CLAIMS];
  unsigned count = 0;
  uv_mutex_lock(&child->lock);
  int oldest = oldest_slot(child);
  for (unsigned slot = 0; slot < UNS_CLAIMS; slot++) {
    if (child->jobs[slot] == NULL || (int)slot == oldest || (child->writing && child->writing_slot == slot)) continue;
    uint64_t given = child->sequences[slot] * 4 + UNS_CLAIM_GIVEN;
    if (!atomic_compare_exchange_strong(&child->wire.board->claims[slot], &given,
                                        child->sequences[slot] * 4 + UNS_CLAIM_REVOKED)) {
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
    uint64_t running = ahead ? child->sequences[oldest_slot(child)] : 0;
    uv_mutex_unlock(&child->lock);
    if (ahead && running == child->seen_running) take_back(child);
    else more |= ahead;
    child->seen_running = running;
  }
  if (more && !pool->closing && !atomic_exchange(&pool->ahead_armed, true)) {
    if (uns_supervisor_after(pool->supervisor, STUCK_NS, look_at_ahead, pool) != 0) atomic_store(&pool->ahead_armed, false);
  }
}

/* ---- reading, further ---- */

/* The end of `job` has been read: tells whoever waits. Where that is us, it is told at once, and may read from the ring. */
static void deliver(uns_process_pool *pool, uns_job *job, uns_runtime *runtime) {
  bool ours = job->home == pool->main_mailbox;
  if (ours) atomic_fetch_sub(&pool->main_jobs, 1);
  if (ours && runtime != NULL) {
    job->ended_ns = uns_clock_ns();
    atomic_store_explicit(&job->state, UNS_JOB_ENDED, memory_order_release);
    job->mail.deliver(&job->mail, runtime);
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
    uns_child_condemn(child, status == UNS_ENOMEM ? no_memory_to_read : garbage);
    return false;
  }
  uint32_t left = 0;
  uns_job *job = take_job(child, &message, &left);
  if (job == NULL || uns_message_end_job(&message, job) != UNS_OK) {
    if (job != NULL) {
      uns_job_fail(job, "crashed", "crashed: the worker process of %s wrote garbage on its channel", job->function->name);
      deliver(pool, job, runtime);
    }
    uns_message_deinit(&message);
    uns_child_condemn(child, garbage);
    return false;
  }
  uns_message_deinit(&message);
  uint64_t took_ns = job->ended_ns > job->started_ns ? job->ended_ns - job->started_ns : 0;
  child->average_ns = child->average_ns == 0 ? took_ns | 1 : (child->average_ns * 3 + took_ns) / 4 | 1;
  if (left == 0) left = give_next(child);
  give_ahead(child, left);
  deliver(pool, job, runtime);
  return true;
}

static void give_room(uns_child *child) {
  uv_mutex_lock(&child->lock);
  if (child->wake_fd >= 0) wake_child(child);
  uv_mutex_unlock(&child->lock);
}

/* Part of a frame that is larger than the ring. */
static bool read_large(uns_child *child, const uint8_t *bytes, int64_t there, uns_runtime *runtime) {
  uint64_t left = child->large_bytes - child->large_have;
  size_t now = (uint64_t)there < left ? (size_t)there : (size_t)left;
  memcpy(child->large + child->large_have, bytes, now);
  child->large_have += now;
  if (uns_ring_consume(&child->wire.to_host, now)) give_room(child);
  if (child->large_have < child->large_bytes) return true;
  uint8_t *large = child->large;
  child->large = NULL;
  bool fine = read_frame(child, large, (size_t)child->large_bytes, runtime);
  uns_free(large);
  return fine;
}

/* Reads what the child wrote. The read_lock held. `runtime`: the script's, on its thread; NULL: the supervisor. */
static bool read_child(uns_child *child, uns_runtime *runtime) {
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
        uns_child_condemn(child, no_memory_to_read);
        return found;
      }
      child->large_bytes = size_bytes;
      child->large_have = 0;
      continue;
    }
    if (size_bytes > (uint64_t)there) return found;
    found = true;
    bool fine = read_frame(child, bytes, (size_t)size_bytes, runtime);
    if (uns_ring_consume(ring, (size_t)size_bytes)) give_room(child);
    if (!fine) return found;
  }
  uns_child_condemn(child, garbage);
  return found;
}

/* The script's loop: in each turn, and while it spins. */
static bool poll_children(uns_source *source, uns_runtime *runtime) {
  uns_process_pool *pool = uns_container_of(source, uns_process_pool, source);
  bool found = false;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    if (atomic_load_explicit(&child->main_jobs, memory_order_relaxed) == 0) continue;
    if (uv_mutex_trylock(&child->read_lock) != 0) continue; /* the supervisor reads it, and posts */
    if (child->readable && uns_ring_has_news(&child->wire.to_host)) found |= read_child(child, runtime);
    uv_mutex_unlock(&child->read_lock);
  }
  source->busy = atomic_load_explicit(&pool->main_jobs, memory_order_relaxed) > 0;
  return found;
}

/* From now on children write the loop's eventfd when they have written something. */
static bool loop_falls_asleep(uns_source *source, bool asleep) {
  uns_process_pool *pool = uns_container_of(source, uns_process_pool, source);
  bool may = true;
  atomic_store(&pool->main_asleep, asleep);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    if (atomic_load(&child->main_jobs) == 0) continue;
    atomic_store(&child->wire.board->host_asleep, asleep);
    if (!asleep) continue;
    if (uv_mutex_trylock(&child->read_lock) != 0) continue;
    if (child->readable && uns_ring_has_news(&child->wire.to_host)) may = false;
    uv_mutex_unlock(&child->read_lock);
  }
  return may;
}

/* ---- starting ---- */

/* No child could be started: if none runs that will come free some day, the calls that wait fail with the reason. Those
   that lend their places do not count: what they wait for may be these very calls. */
static void fail_queue(uns_process_pool *pool, const char *code, const char *why) {
  uns_dispatch *dispatch = &pool->dispatch;
  for (;;) {
    uv_mutex_lock(&dispatch->lock);
    uns_link *link = dispatch->workers == dispatch->lending ? uns_list_pop_front(&dispatch->queue) : NULL;
    if (link != NULL) dispatch->queued--;
    uv_mutex_unlock(&dispatch->lock);
    if (link == NULL) return;
    uns_job *job = uns_container_of(link, uns_job, link);
    uns_job_fail(job, code, "no worker process for %s: %s %s", job->function->name,
                 pool->program != NULL ? pool->program : "unsync", why);
    abandon_job(pool, job);
  }
}

static uns_child *child_new(uns_process_pool *pool) {
  uns_child *child = uns_calloc(1, sizeof *child);
  if (child == NULL) return NULL;
  child->pool = pool;
  child->wake_fd = child->ended.fd = child->service.watch.fd = child->service.received_fd = -1;
  uns_list_init(&child->worker.link);
  uns_list_init(&child->service.output);
  uns_list_init(&child->service.nested);
  if (uv_mutex_init(&child->lock) != 0) goto no_lock;
  if (uv_mutex_init(&child->read_lock) != 0) goto no_read_lock;
  if (uns_exports_init(&child->exports) != 0) goto no_exports;
  return child;
no_exports:
  uv_mutex_destroy(&child->read_lock);
no_read_lock:
  uv_mutex_destroy(&child->lock);
no_lock:
  uns_free(child);
  return NULL;
}

static void child_free(uns_child *child) {
  uns_wire_unmap(&child->wire);
  uns_exports_deinit(&child->exports);
  uv_mutex_destroy(&child->read_lock);
  uv_mutex_destroy(&child->lock);
  uns_free(child);
}

/* A place for one more child: one that is free, or a new one. */
static uns_child *free_place(uns_process_pool *pool) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    bool is_free = child->state == UNS_CHILD_NONE && !child->expects_give;
    uv_mutex_unlock(&child->lock);
    if (is_free) return child;
  }
  if (count == pool->capacity) return NULL;
  return child_new(pool);
}

static void publish_place(uns_process_pool *pool, uns_child *child) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    if (pool->children[i] == child) return;
  }
  pool->children[count] = child;
  atomic_store_explicit(&pool->count, count + 1, memory_order_release);
}

static void on_ended(uns_watch *watch, uint32_t events);
static void look_again(void *argument);
static void arm_hello(uns_child *child);

/* 0, or an errno and what could not be done. */
static int start_child(uns_process_pool *pool, uns_child *child, const char **what) {
  int sockets[2], memory, watch_fd = -1, status;
  *what = "";
  if (pool->program == NULL) return ENOENT;
  *what = "shared memory: ";
  memory = uns_wire_create();
  if (memory < 0) return errno;
  uv_mutex_lock(&child->read_lock); /* the script's loop may be looking at what the last one left */
  status = uns_wire_map(&child->wire, memory) == 0 ? 0 : errno;
  uv_mutex_unlock(&child->read_lock);
  if (status != 0) goto no_sockets;
  *what = "a socket: ";
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    status = errno;
    goto no_sockets;
  }
  fcntl(sockets[0], F_SETFL, O_NONBLOCK);
  *what = "";
  pid_t pid;
  const int descriptors[] = {sockets[1], memory, pool->main_mailbox->fd, uns_supervisor_mailbox(pool->supervisor)->fd};
  status = uns_spawn(pool->program, uns_frame_build_id(), descriptors, &pid, &watch_fd);
  close(sockets[1]);
  close(memory);
  if (status != 0) {
    close(sockets[0]);
    return status;
  }
  uv_mutex_lock(&child->lock);
  child->state = UNS_CHILD_STARTING;
  child->pid = pid;
  child->condemned[0] = child->error_code[0] = '\0';
  uns_port_init(&child->to_child, &uns_exports_ops, child);
  uv_mutex_unlock(&child->lock);
  atomic_store(&child->group, pid);
  uv_mutex_lock(&child->read_lock);
  uns_port_init(&child->from_child, &uns_exports_ops, child);
  child->readable = true;
  child->average_ns = 0;
  uv_mutex_unlock(&child->read_lock);
  child->started_ns = uns_clock_ns();
  child->waiting = 0;
  publish_place(pool, child);
  child->ended.ready = on_ended;
  if (watch_fd < 0 || uns_supervisor_watch(pool->supervisor, &child->ended, watch_fd, EPOLLIN) != 0) {
    if (watch_fd >= 0) close(watch_fd);
    look_again(child);
  }
  if (uns_service_open(child, sockets[0]) != 0) uns_child_condemn(child, "there was not enough memory for its channel");
  arm_hello(child);
  return 0;

no_sockets:
  close(memory);
  return status;
}

static uint32_t starting(uns_process_pool *pool) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed), found = 0;
  for (uint32_t i = 0; i < count; i++) {
    uv_mutex_lock(&pool->children[i]->lock);
    found += pool->children[i]->state == UNS_CHILD_STARTING;
    uv_mutex_unlock(&pool->children[i]->lock);
  }
  return found;
}

/* Starts as many as are wanted: the supervisor's thread, which never ends, for a child dies with its starter. */
static void on_grow(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, grow_mail);
  uns_dispatch *dispatch = &pool->dispatch;
  if (receiver == NULL) return;
  atomic_store(&pool->growing, false); /* before looking: what is submitted from here on asks again */
  for (;;) {
    uint32_t underway = starting(pool);
    uv_mutex_lock(&dispatch->lock);
    bool wanted = !pool->closing && !dispatch->closed && dispatch->queued > underway &&
                  dispatch->workers - dispatch->lending < dispatch->target;
    if (wanted) dispatch->workers++;
    uv_mutex_unlock(&dispatch->lock);
    if (!wanted) return;
    const char *what = "";
    uns_child *child = free_place(pool);
    int status = child != NULL ? start_child(pool, child, &what) : ENOMEM;
    if (status == 0) continue;
    if (child != NULL) {
      bool known = false;
      uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
      for (uint32_t i = 0; i < count; i++) known |= pool->children[i] == child;
      if (!known) child_free(child);
    }
    uv_mutex_lock(&dispatch->lock);
    dispatch->workers--;
    uv_mutex_unlock(&dispatch->lock);
    char why[160];
    snprintf(why, sizeof why, "cannot be started: %s%s", what, strerror(status));
    fail_queue(pool, uv_err_name(uv_translate_sys_error(status)), why);
    return;
  }
}

void uns_child_up(uns_child *child, int wake_fd) {
  uns_process_pool *pool = child->pool;
  uv_mutex_lock(&child->lock);
  child->wake_fd = wake_fd;
  bool live = child->state == UNS_CHILD_STARTING;
  if (live) child->state = UNS_CHILD_LIVE;
  uv_mutex_unlock(&child->lock);
  pool->failed_starts = 0;
  if (!live) return;
  uns_job *job = uns_dispatch_next(&pool->dispatch, &child->worker);
  if (job != NULL) give(&pool->dispatch, &child->worker, job);
}

static void check_hello(void *argument) {
  uns_child *child = argument;
  uv_mutex_lock(&child->lock);
  bool late = child->state == UNS_CHILD_STARTING && uns_clock_ns() - child->started_ns >= HELLO_NS;
  uv_mutex_unlock(&child->lock);
  if (late) uns_child_condemn(child, "it did not say hello");
}

static void arm_hello(uns_child *child) { uns_supervisor_after(child->pool->supervisor, HELLO_NS, check_hello, child); }

/* ---- ending ---- */

static void describe_end(char *text, size_t size_bytes, const uns_child *child, uns_exit how, bool ready) {
  const char *early = ready ? "" : " before it was ready";
  if (child->condemned[0] != '\0') snprintf(text, size_bytes, "%s", child->condemned);
  else if (!ready && how.exit_code == UNS_EXIT_OTHER_BUILD) snprintf(text, size_bytes, "is of another build than this program");
  else if (how.signal_number != 0) snprintf(text, size_bytes, "died of signal %d (%s)%s", how.signal_number, strsignal(how.signal_number), early);
  else if (how.exit_code >= 0) snprintf(text, size_bytes, "ended with exit code %d%s", how.exit_code, early);
  else snprintf(text, size_bytes, "ended, and somebody else was told how");
}

/* What becomes of a call in a child that died. */
static void lose_job(uns_child *child, uns_job *job, bool started, bool next, uns_exit how) {
  uns_process_pool *pool = child->pool;
  if (next) job->put_back++;
  if (!started && !pool->closing && job->put_back < PUT_BACK_MAX) {
    uns_dispatch_put_back(&pool->dispatch, job);
    return;
  }
  char text[200];
  describe_end(text, sizeof text, child, how, true);
  if (pool->closing) {
    uns_job_fail(job, "closed", "closed: the program is ending");
  } else {
    uns_job_fail(job, "crashed", "crashed: the worker process of %s %s", job->function->name, text);
    job->signal_number = how.signal_number;
    job->exit_code = how.exit_code;
  }
  abandon_job(pool, job);
}

/* Takes out what the child held, the latest first. */
static void clear_child(uns_child *child, uns_job **jobs, bool *started, unsigned *count) {
  uns_board *board = child->wire.board;
  for (;;) {
    int last = -1;
    for (int i = 0; i < UNS_CLAIMS; i++) {
      if (child->jobs[i] != NULL && (last < 0 || child->sequences[i] > child->sequences[last])) last = i;
    }
    if (last < 0) break;
    jobs[*count] = child->jobs[last];
    started[(*count)++] = atomic_load(&board->claims[last]) == child->sequences[last] * 4 + UNS_CLAIM_STARTED;
    child->jobs[last] = NULL;
  }
  if (child->writing) uns_frame_abandon(&child->frame);
  child->writing = false;
  child->unsent_count = 0;
  child->in_flight = 0;
  if (child->wake_fd >= 0) close(child->wake_fd);
  child->wake_fd = -1;
}

static void tell_if_gone(uns_process_pool *pool);

/* It is dead and reaped, and was in state `was`. */
static void bury(uns_child *child, uns_child_state was, uns_exit how) {
  uns_process_pool *pool = child->pool;
  uns_dispatch *dispatch = &pool->dispatch;
  uns_supervisor_forget(pool->supervisor, child);
  if (child->ended.fd >= 0) {
    int fd = child->ended.fd;
    uns_supervisor_unwatch(pool->supervisor, &child->ended);
    close(fd);
  }
  /* What it had finished counts, whatever came then. */
  uv_mutex_lock(&child->read_lock);
  read_child(child, NULL);
  uns_free(child->large);
  child->large = NULL;
  uns_port_deinit(&child->from_child);
  child->readable = false;
  uv_mutex_unlock(&child->read_lock);
  if (was != UNS_CHILD_ENDING) uns_dispatch_lost(dispatch, &child->worker);

  uns_job *jobs[UNS_CLAIMS];
  bool started[UNS_CLAIMS];
  unsigned count = 0;
  uv_mutex_lock(&child->lock);
  clear_child(child, jobs, started, &count);
  uns_port_deinit(&child->to_child);
  atomic_store(&child->main_jobs, 0);
  uv_mutex_lock(&dispatch->lock);
  /* Chosen while it died: whoever gives it the job will find it dead and put it back. */
  child->expects_give = child->worker.job != NULL && !child->arrived;
  child->arrived = false;
  child->worker.job = NULL;
  uv_mutex_unlock(&dispatch->lock);
  uv_mutex_unlock(&child->lock);
  uns_service_close(child);

  for (unsigned i = 0; i < count; i++) lose_job(child, jobs[i], started[i], i + 1 == count && !started[i], how);
  bool try_again = was == UNS_CHILD_STARTING && child->condemned[0] == '\0' && how.exit_code != UNS_EXIT_OTHER_BUILD && ++pool->failed_starts < STARTS_MAX;
  if (was == UNS_CHILD_STARTING && !pool->closing && !try_again) {
    pool->failed_starts = 0;
    char text[200];
    describe_end(text, sizeof text, child, how, false);
    fail_queue(pool, child->error_code[0] != '\0' ? child->error_code : "crashed", text);
  }
  uv_mutex_lock(&child->lock);
  child->state = UNS_CHILD_NONE;
  uv_mutex_unlock(&child->lock);
  if (pool->closing) tell_if_gone(pool);
}

static bool reap(uns_child *child) {
  uns_exit how;
  uv_mutex_lock(&child->lock); /* nobody sends a signal to a number that is somebody else's by now */
  uns_child_state was = child->state;
  bool ended = child->pid > 0 && uns_reap(child->pid, &how);
  if (ended) {
    child->state = UNS_CHILD_DEAD;
    child->pid = 0;
    atomic_store(&child->group, 0);
  }
  uv_mutex_unlock(&child->lock);
  if (ended) bury(child, was, how);
  return ended;
}

static void on_ended(uns_watch *watch, uint32_t events) {
  (void)events;
  reap(uns_container_of(watch, uns_child, ended));
}

static void look_again(void *argument) {
  uns_child *child = argument;
  if (!reap(child)) uns_supervisor_after(child->pool->supervisor, LOOK_AGAIN_NS, look_again, child);
}

/* ---- what children wrote into memory ---- */

static void arm_surplus(uns_process_pool *pool);

static void send_signal(uns_child *child, int number) {
  uv_mutex_lock(&child->lock);
  if (child->pid > 0) kill(-child->pid, number);
  uv_mutex_unlock(&child->lock);
}

static void end_now(void *argument) { send_signal(argument, SIGKILL); }

void uns_child_expect_end(uns_child *child) {
  if (uns_supervisor_after(child->pool->supervisor, child->pool->executors->grace_ns, end_now, child) != 0) end_now(child);
}


static void end_soon(void *argument) {
  uns_child *child = argument;
  send_signal(child, SIGTERM);
  uns_child_expect_end(child);
}

/* An idle one closes its state and goes; should that take too long, it is made to. */
static void ask_to_end(uns_child *child) {
  uns_process_pool *pool = child->pool;
  uv_mutex_lock(&child->lock);
  child->state = UNS_CHILD_ENDING;
  atomic_store(&child->wire.board->closing, 1);
  if (child->wake_fd >= 0) wake_child(child);
  uv_mutex_unlock(&child->lock);
  if (uns_supervisor_after(pool->supervisor, pool->executors->grace_ns, end_soon, child) != 0) end_soon(child);
}

/* Waits have ended, and more children than should are idle. */
static void end_surplus(void *argument) {
  uns_process_pool *pool = argument;
  uns_dispatch *dispatch = &pool->dispatch;
  pool->surplus_armed = false;
  if (pool->closing) return;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&dispatch->lock);
    bool surplus = dispatch->workers - dispatch->lending > dispatch->target;
    uv_mutex_unlock(&dispatch->lock);
    if (!surplus) return;
    if (uns_dispatch_retire(dispatch, &child->worker)) ask_to_end(child);
  }
  arm_surplus(pool);
}

static void arm_surplus(uns_process_pool *pool) {
  if (pool->surplus_armed) return;
  pool->surplus_armed = uns_supervisor_after(pool->supervisor, SURPLUS_NS, end_surplus, pool) == 0;
}

/* The child's call has begun to wait, or goes on. */
static void look_at_waiting(uns_child *child) {
  uns_dispatch *dispatch = &child->pool->dispatch;
  uint32_t waiting = atomic_load(&child->wire.board->waiting);
  if (waiting == child->waiting) return;
  child->waiting = waiting;
  bool waits = waiting % 2 == 1;
  if (waits) take_back(child); /* it may take long */
  if (!uns_dispatch_lend(dispatch, &child->worker, waits)) uns_service_limit(child, waiting);
  if (!waits) arm_surplus(child->pool);
}

/* There is room again for what did not fit into its ring. */
static void write_rest(uns_child *child) {
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

static void sweep(uns_sweep *swept) {
  uns_process_pool *pool = uns_container_of(swept, uns_process_pool, sweep);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    write_rest(child);
    if (uv_mutex_trylock(&child->read_lock) != 0) continue; /* the script's loop reads it */
    if (child->readable && uns_ring_has_news(&child->wire.to_host)) read_child(child, NULL);
    bool there = child->readable;
    uv_mutex_unlock(&child->read_lock);
    if (!there) continue;
    look_at_waiting(child);
    uns_service_sweep(child);
  }
  if (pool->closing) tell_if_gone(pool);
}

/* ---- the end of the pool ---- */

/* Told by mail, since at this moment the supervisor may still have to look at watches in the children. */
static void on_gone(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, gone_mail);
  (void)receiver;
  uns_supervisor_forget(pool->supervisor, pool);
  uns_list_remove(&pool->sweep.link);
  uv_mutex_lock(&pool->lock);
  pool->closed = true;
  uv_cond_broadcast(&pool->gone);
  uv_mutex_unlock(&pool->lock);
}

/* The last child is gone, and nobody is about to give one a job: whoever waits for that may go on. */
static void tell_if_gone(uns_process_pool *pool) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  bool there = pool->told_gone;
  for (uint32_t i = 0; i < count && !there; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    there = child->state != UNS_CHILD_NONE || child->expects_give;
    uv_mutex_unlock(&child->lock);
  }
  if (there) return;
  pool->told_gone = true;
  uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->gone_mail);
}

static void on_close(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, close_mail);
  (void)receiver;
  pool->closing = true;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    uns_child_state state = child->state;
    uv_mutex_unlock(&child->lock);
    if (state == UNS_CHILD_LIVE && uns_dispatch_retire(&pool->dispatch, &child->worker)) ask_to_end(child);
    else if (state == UNS_CHILD_LIVE || state == UNS_CHILD_STARTING) end_soon(child);
  }
  tell_if_gone(pool);
}

/* ---- the pool ---- */

static bool can_run(const char *path) { return access(path, X_OK) == 0; }

/* The unsync program: as told, or beside the file that this code is in. */
static char *find_program(const uns_executors *executors) {
  const char *told = getenv("UNSYNC_WORKER");
  if (told == NULL || *told == '\0') told = executors->program;
  char path[4096];
  if (told == NULL) {
    static const char *const places[] = {"%.*s/unsync", "%.*s/../bin/unsync", "%.*s/../../../bin/unsync"};
    Dl_info here;
    if (dladdr(&process_ops, &here) == 0 || here.dli_fname == NULL) return NULL;
    const char *slash = strrchr(here.dli_fname, '/');
    int length = slash != NULL ? (int)(slash - here.dli_fname) : 0;
    for (size_t i = 0; i < sizeof places / sizeof *places && told == NULL; i++) {
      snprintf(path, sizeof path, places[i], length > 0 ? length : 1, length > 0 ? here.dli_fname : ".");
      if (can_run(path)) told = path;
    }
  }
  if (told == NULL) return NULL;
  size_t size = strlen(told) + 1;
  char *program = uns_malloc(size);
  if (program != NULL) memcpy(program, told, size);
  return program;
}

static void on_open(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, open_mail);
  if (receiver != NULL) uns_supervisor_add_sweep(pool->supervisor, &pool->sweep);
}

uns_process_pool *uns_process_pool_new(uns_executors *executors, uns_mailbox *main_mailbox, uns_runtime *main_runtime) {
  uint32_t capacity = executors->process_target + UNS_PROCESSES_WAITING_MAX + 8;
  uns_process_pool *pool = uns_calloc(1, sizeof *pool + capacity * sizeof *pool->children);
  if (pool == NULL) goto no_memory;
  pool->executors = executors;
  pool->supervisor = executors->supervisor;
  pool->main_runtime = main_runtime;
  pool->capacity = capacity;
  uns_list_init(&pool->source.link);
  pool->source.poll = poll_children;
  pool->source.fall_asleep = loop_falls_asleep;
  pool->grow_mail.deliver = on_grow;
  pool->open_mail.deliver = on_open;
  pool->close_mail.deliver = on_close;
  pool->gone_mail.deliver = on_gone;
  pool->sweep.sweep = sweep;
  if (uv_mutex_init(&pool->lock) != 0) goto no_lock;
  if (uv_cond_init(&pool->gone) != 0) goto no_cond;
  if (uns_dispatch_init(&pool->dispatch, &process_ops, pool, executors->process_target) != 0) goto no_dispatch;
  pool->dispatch.waiting_max = UNS_PROCESSES_WAITING_MAX;
  pool->main_mailbox = uns_mailbox_ref(main_mailbox);
  pool->program = find_program(executors);
  uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->open_mail);
  return pool;
no_dispatch:
  uv_cond_destroy(&pool->gone);
no_cond:
  uv_mutex_destroy(&pool->lock);
no_lock:
  uns_free(pool);
no_memory:
  errno = ENOMEM;
  return NULL;
}

uns_process_pool *uns_process_pool_of_parent(struct uns_parent *parent) {
  uns_process_pool *pool = uns_calloc(1, sizeof *pool);
  if (pool != NULL) pool->parent = parent;
  return pool;
}

bool uns_process_pool_withdraw(uns_process_pool *pool, uns_job *job) {
  if (pool->parent != NULL || !uns_dispatch_withdraw(&pool->dispatch, job)) return false;
  if (job->home == pool->main_mailbox && atomic_fetch_sub(&pool->main_jobs, 1) == 1) pool->source.busy = false;
  return true;
}

void uns_process_pool_submit(uns_process_pool *pool, uns_job *job) {
  if (pool->parent != NULL) {
    uns_parent_submit(pool->parent, job);
    return;
  }
  if (job->home == pool->main_mailbox) {
    if (uns_list_empty(&pool->source.link)) uns_list_push_back(&pool->main_runtime->sources, &pool->source.link);
    atomic_fetch_add_explicit(&pool->main_jobs, 1, memory_order_relaxed);
    pool->source.busy = true;
  }
  uns_dispatch_submit(&pool->dispatch, job);
}

void uns_process_pool_free(uns_process_pool *pool) {
  if (pool == NULL) return;
  if (pool->parent != NULL) {
    uns_free(pool);
    return;
  }
  uns_dispatch_close(&pool->dispatch);
  uns_list_remove(&pool->source.link);
  uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->close_mail);
  uv_mutex_lock(&pool->lock);
  while (!pool->closed) uv_cond_wait(&pool->gone, &pool->lock);
  uv_mutex_unlock(&pool->lock);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) child_free(pool->children[i]);
  uns_dispatch_deinit(&pool->dispatch);
  uns_mailbox_unref(pool->main_mailbox);
  uv_cond_destroy(&pool->gone);
  uv_mutex_destroy(&pool->lock);
  uns_free(pool->program);
  uns_free(pool);
}

void uns_process_pool_signal(uns_process_pool *pool, int number) {
  int saved = errno;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    int group = atomic_load(&pool->children[i]->group);
    if (group > 0) kill(-group, number);
  }
  errno = saved;
}

uint32_t uns_process_pool_count(uns_process_pool *pool) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire), alive = 0;
  for (uint32_t i = 0; i < count; i++) alive += atomic_load(&pool->children[i]->group) > 0;
  return alive;
}
