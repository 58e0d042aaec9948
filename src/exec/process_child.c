/*
 * process_child: one worker process from its start to its end, and what becomes of the calls that it had.
 *
 * What is locked: worker_process.h. What differs from system to system: spawn.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/recorder.h"
#include "exec/spawn.h"
#include "exec/worker_process.h"

static const uint64_t HELLO_NS = 30000000000;   /* a program that has not said hello by then never will */
static const uint64_t LOOK_AGAIN_NS = 20000000; /* where the system tells nobody of a child's end */

enum {
  PUT_BACK_MAX = 8, /* a call that was next in so many children that died is at fault itself */
  STARTS_MAX = 3    /* a program that has ended so often before it was ready always will */
};

/* The lock held. */
void uns_child_condemn_locked(uns_child *child, const char *why) {
  if (child->condemned[0] == '\0') snprintf(child->condemned, sizeof child->condemned, "was killed, for %s", why);
  if (child->pid > 0) kill(child->pid, SIGKILL); /* not yet reaped, so the number is its own */
}

void uns_child_condemn(uns_child *child, const char *why) {
  uv_mutex_lock(&child->lock);
  uns_child_condemn_locked(child, why);
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

/* ---- starting ---- */

uns_child *uns_child_new(uns_process_pool *pool) {
  uns_child *child = uns_calloc(1, sizeof *child);
  if (child == NULL) return NULL;
  child->pool = pool;
  child->wake_fd = child->ended.fd = child->service.watch.fd = child->service.received_fd = -1;
  uns_list_init(&child->questions);
  uns_list_init(&child->worker.link);
  uns_list_init(&child->service.output);
  uns_list_init(&child->service.nested);
  uns_list_init(&child->service.waits);
  uns_list_init(&child->service.groups);
  uns_list_init(&child->service.given);
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

void uns_child_free(uns_child *child) {
  uns_wire_unmap(&child->wire);
  uns_exports_deinit(&child->exports);
  uv_mutex_destroy(&child->read_lock);
  uv_mutex_destroy(&child->lock);
  uns_free(child);
}

static void on_ended(uns_watch *watch, uint32_t events);
static void look_again(void *argument);
static void arm_hello(uns_child *child);

/* 0, or an errno and what could not be done. */
int uns_child_start(uns_child *child, const char **what) {
  uns_process_pool *pool = child->pool;
  int sockets[2], memory, watch_fd = -1, status;
  *what = "";
  if (pool->executors->program == NULL) return ENOENT;
  *what = "shared memory: ";
  memory = uns_wire_create();
  if (memory < 0) return errno;
  uv_mutex_lock(&child->read_lock); /* the script's loop may be looking at what the last one left */
  uv_mutex_lock(&child->lock);
  status = uns_wire_map(&child->wire, memory) == 0 ? 0 : errno;
  uv_mutex_unlock(&child->lock);
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
  status = uns_spawn(pool->executors->program, uns_frame_build_id(), descriptors, &pid, &watch_fd);
  close(sockets[1]);
  close(memory);
  if (status != 0) {
    close(sockets[0]);
    return status;
  }
  uv_mutex_lock(&child->lock);
  child->state = UNS_CHILD_STARTING;
  child->pid = pid;
  child->track = pool->executors->recorder != NULL ? uns_recorder_process(pool->executors->recorder, pid) : 0;
  child->condemned[0] = child->error_code[0] = '\0';
  uns_port_init(&child->to_child, &uns_exports_ops, child);
  uv_mutex_unlock(&child->lock);
  atomic_store(&child->group, pid);
  uv_mutex_lock(&child->read_lock);
  uns_port_init(&child->from_child, &uns_exports_ops, child);
  child->readable = true;
  child->average_ns = 0;
  uv_mutex_unlock(&child->read_lock);
  child->waiting = 0;
  child->progress_count = 0;
  child->started_ns = uns_clock_ns();
  if (uns_service_open(child, sockets[0]) != 0) uns_child_condemn(child, "there was not enough memory for its channel");
  arm_hello(child);
  /* Last, for where it has to be looked for, it may be found dead here and now. */
  child->ended.ready = on_ended;
  if (watch_fd < 0 || uns_supervisor_watch(pool->supervisor, &child->ended, watch_fd, EPOLLIN) != 0) {
    if (watch_fd >= 0) close(watch_fd);
    look_again(child);
  }
  return 0;

no_sockets:
  close(memory);
  return status;
}

bool uns_child_up(uns_child *child, int wake_fd) {
  uns_process_pool *pool = child->pool;
  uv_mutex_lock(&child->lock);
  if (child->wake_fd >= 0) {
    uv_mutex_unlock(&child->lock);
    return false;
  }
  child->wake_fd = wake_fd;
  bool live = child->state == UNS_CHILD_STARTING;
  if (live) child->state = UNS_CHILD_LIVE;
  uv_mutex_unlock(&child->lock);
  pool->failed_starts = 0;
  if (!live) return true;
  uns_job *job = uns_dispatch_next(&pool->dispatch, &child->worker);
  if (job != NULL) uns_calls_give(&pool->dispatch, &child->worker, job);
  return true;
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

void uns_child_signal_locked(const uns_child *child, int number) {
  if (child->pid <= 0) return;
  kill(-child->pid, number);
  if (getpgid(child->pid) != child->pid) kill(child->pid, number); /* it has left its own group */
}

static void send_signal(uns_child *child, int number) {
  uv_mutex_lock(&child->lock);
  uns_child_signal_locked(child, number);
  uv_mutex_unlock(&child->lock);
}

static void end_now(void *argument) { send_signal(argument, SIGKILL); }

void uns_child_expect_end(uns_child *child) {
  if (uns_supervisor_after(child->pool->supervisor, child->pool->executors->grace_ns, end_now, child) != 0)
    end_now(child);
}

static void end_soon(void *argument) {
  uns_child *child = argument;
  send_signal(child, SIGTERM);
  uns_child_expect_end(child);
}

void uns_child_terminate(uns_child *child) { end_soon(child); }

/* An idle one closes its state and goes; should that take too long, it is made to. */
void uns_child_ask_to_end(uns_child *child) {
  uns_process_pool *pool = child->pool;
  uv_mutex_lock(&child->lock);
  child->state = UNS_CHILD_ENDING;
  atomic_store(&child->wire.board->closing, 1);
  if (child->wake_fd >= 0) uns_calls_wake(child);
  uv_mutex_unlock(&child->lock);
  if (uns_supervisor_after(pool->supervisor, pool->executors->grace_ns, end_soon, child) != 0) end_soon(child);
}

static void describe_end(char *text, size_t size_bytes, const uns_child *child, uns_exit how, bool ready) {
  const char *early = ready ? "" : " before it was ready";
  if (child->condemned[0] != '\0') snprintf(text, size_bytes, "%s", child->condemned);
  else if (!ready && how.exit_code == UNS_EXIT_OTHER_BUILD)
    snprintf(text, size_bytes, "is of another build than this program");
  else if (how.signal_number != 0)
    snprintf(text, size_bytes, "died of signal %d (%s)%s", how.signal_number, strsignal(how.signal_number), early);
  else if (how.exit_code >= 0) snprintf(text, size_bytes, "ended with exit code %d%s", how.exit_code, early);
  else snprintf(text, size_bytes, "ended, and somebody else was told how");
}

typedef struct lost_job {
  uns_job *job;
  bool started;
  bool next;              /* it would have been the next to start */
  const char *stopped_by; /* static, or NULL */
} lost_job;

/* What becomes of a call in a child that died. */
static void lose_job(uns_child *child, const lost_job *lost, uns_exit how) {
  uns_process_pool *pool = child->pool;
  uns_job *job = lost->job;
  if (lost->next) job->put_back++;
  if (!lost->started && !pool->closing && job->put_back < PUT_BACK_MAX) {
    uns_dispatch_put_back(&pool->dispatch, job);
    return;
  }
  char text[200];
  describe_end(text, sizeof text, child, how, true);
  if (lost->stopped_by != NULL) {
    uns_job_fail(job, "cancelled", "%s was cancelled", job->function->name);
    job->stopped_by = lost->stopped_by;
  } else if (pool->closing) {
    uns_job_fail(job, "closed", "closed: the program is ending");
  } else {
    uns_job_fail(job, "crashed", "crashed: the worker process of %s %s", job->function->name, text);
    job->signal_number = how.signal_number;
    job->exit_code = how.exit_code;
  }
  uns_process_pool_abandon(pool, job);
}

/* Takes out what the child held, the latest first. */
static unsigned clear_child(uns_child *child, lost_job *lost) {
  uns_board *board = child->wire.board;
  unsigned count = 0;
  while (child->in_flight > 0) {
    unsigned slot = child->order[--child->in_flight];
    uint64_t sequence = child->sequences[slot];
    bool started = atomic_load(&board->claims[slot]) != sequence * 4 + UNS_CLAIM_GIVEN; /* or the word is none of ours */
    lost[count++] = (lost_job){child->jobs[slot], started, false, uns_calls_stopped_by(child, sequence)};
    child->jobs[slot] = NULL;
  }
  if (count > 0) lost[count - 1].next = !lost[count - 1].started;
  child->cancelled = 0;
  if (child->writing) uns_frame_abandon(&child->frame);
  child->writing = false;
  child->unsent_count = 0;
  if (child->wake_fd >= 0) close(child->wake_fd);
  child->wake_fd = -1;
  return count;
}

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
  uns_calls_read(child, NULL);
  uns_free(child->large);
  child->large = NULL;
  uns_port_deinit(&child->from_child);
  child->readable = false;
  uv_mutex_unlock(&child->read_lock);
  if (was != UNS_CHILD_ENDING) uns_dispatch_lost(dispatch, &child->worker);

  lost_job lost[UNS_CLAIMS];
  uv_mutex_lock(&child->lock);
  unsigned count = clear_child(child, lost);
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

  for (unsigned i = 0; i < count; i++) lose_job(child, &lost[i], how);
  bool try_again = was == UNS_CHILD_STARTING && child->condemned[0] == '\0' && how.exit_code != UNS_EXIT_OTHER_BUILD &&
                   ++pool->failed_starts < STARTS_MAX;
  if (was == UNS_CHILD_STARTING && !pool->closing && !try_again) {
    pool->failed_starts = 0;
    char text[200];
    describe_end(text, sizeof text, child, how, false);
    uns_process_pool_fail_queue(pool, child->error_code[0] != '\0' ? child->error_code : "crashed", text);
  }
  uv_mutex_lock(&child->lock);
  child->state = UNS_CHILD_NONE;
  uv_mutex_unlock(&child->lock);
  if (pool->closing) uns_process_pool_tell_if_gone(pool);
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
