#include "exec/child.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/output.h"
#include "base/spin.h"
#include "exec/frame.h"
#include "exec/interrupt.h"
#include "exec/parent.h"
#include "exec/process.h"
#include "exec/ring.h"
#include "exec/watchdog.h"

static const uint64_t SHARED_WAKE_NS = 150000; /* so long may the end of a call wait for others to share its wake-up */

enum {
  UNREAD_MS = 2, /* an end that the script's loop has not read by then is read by the supervisor: the script is busy */
  EXIT_BROKEN = 70
};

typedef struct worker {
  uns_executors *executors;
  uns_runtime *runtime;
  uns_parent *parent;
  uns_wire wire;
  uns_port in, out;
  uns_function *function; /* of the last call; one reference */
  uint64_t sequence;      /* of the call that runs */
  uint64_t untold_ns;     /* since when there is an end that a dozing host was not woken for; 0: there is none */
  uns_spin spin;
  bool told_lost; /* that what calls print gets lost */
} worker;

/* ---- sleeping ---- */

/* Waits for the eventfd of our runtime's mailbox, which the host writes too. False: the time is over. */
static bool sleep_until_woken(worker *w, int timeout_ms) {
  struct pollfd wake = {.fd = w->runtime->mailbox->fd, .events = POLLIN};
  int count;
  do count = poll(&wake, 1, timeout_ms);
  while (count < 0 && errno == EINTR);
  uint64_t wakes;
  if (count > 0)
    while (read(wake.fd, &wakes, sizeof wakes) < 0 && errno == EINTR) continue;
  return count != 0;
}

static bool closing(const worker *w) { return atomic_load(&w->wire.board->closing) != 0; }

/* Has the host read all that we wrote? */
static bool all_read(const worker *w) {
  return atomic_load_explicit(&w->wire.board->to_host.head, memory_order_relaxed) == w->wire.to_host.position;
}

static bool spin_for_news(worker *w, uint64_t seen) {
  const _Atomic uint64_t *tail = &w->wire.board->to_child.tail;
  bool hit = atomic_load_explicit(tail, memory_order_acquire) != seen;
  if (hit || !uns_spin_begin(&w->spin)) return hit;
  do {
    for (int i = 0; i < 64 && !hit; i++) {
      uns_spin_pause();
      hit = atomic_load_explicit(tail, memory_order_acquire) != seen;
    }
  } while (uns_spin_on(&w->spin) && !hit);
  uns_spin_end(&w->spin, hit);
  return hit;
}

static void wake_host(worker *w) {
  w->untold_ns = 0;
  if (atomic_exchange(&w->wire.board->host_asleep, UNS_HOST_AWAKE) != UNS_HOST_AWAKE) uns_mailbox_wake_at(UNS_FD_LOOP);
}

/* Waits until the host has written past `seen`. False: it wants us to end. */
static bool wait_for_news(worker *w, uint64_t seen) {
  uns_board *board = w->wire.board;
  if (w->untold_ns != 0) wake_host(w);
  bool told = all_read(w), rested = false;
  if (spin_for_news(w, seen)) return true;
  while (atomic_load(&board->to_child.tail) == seen) {
    if (closing(w)) return false;
    atomic_store(&board->child_asleep, 1);
    if (atomic_load(&board->to_child.tail) == seen && !closing(w)) {
      bool woken = sleep_until_woken(w, !told ? UNREAD_MS : !rested ? UNS_REST_AFTER_MS : -1);
      if (w->runtime->look_wanted) w->runtime->look(w->runtime, w->runtime->L);
      if (!woken && !told) {
        if (!all_read(w)) uns_parent_wake_supervisor(w->parent);
        told = true;
      } else if (!woken && !rested) {
        rested = true;
        uns_runner_rest(w->runtime);
      }
    }
    atomic_store(&board->child_asleep, 0);
  }
  return true;
}

/* ---- the ends of calls ---- */

/* What was written is for the script's loop (`home`), or for the supervisor. */
static void notify(worker *w, bool home) {
  uint32_t asleep = atomic_load(&w->wire.board->host_asleep);
  if (!home) {
    uns_parent_wake_supervisor(w->parent);
  } else if (asleep == UNS_HOST_DOZES) {
    if (w->untold_ns == 0) w->untold_ns = uns_clock_ns();
  } else if (asleep != UNS_HOST_AWAKE) {
    wake_host(w);
  }
}

/* A frame has been dealt with: wakes a host that dozes, unless more calls are there and it can wait for their ends. */
static void tell_dozing(worker *w) {
  if (w->untold_ns == 0) return;
  if (uns_ring_has_news(&w->wire.to_child) && uns_clock_ns() - w->untold_ns < SHARED_WAKE_NS) return;
  wake_host(w);
}

/* Writes a frame, piece by piece where it is larger than what is free. */
static void write_frame(worker *w, const uns_frame *frame, bool home) {
  uns_ring *ring = &w->wire.to_host;
  for (size_t done = 0; done < frame->size_bytes;) {
    int64_t room = uns_ring_room(ring);
    if (room == UNS_RING_BAD) exit(EXIT_BROKEN);
    if (room == 0) {
      if (!uns_ring_ask_for_room(ring, room)) continue;
      uns_parent_wake_supervisor(w->parent); /* it reads, whatever the script is doing */
      sleep_until_woken(w, -1);
      continue;
    }
    size_t left = frame->size_bytes - done, now = left < (uint64_t)room ? left : (size_t)room;
    uns_frame_copy(frame, done, uns_ring_place(ring), now);
    uns_ring_publish(ring, now);
    done += now;
    notify(w, home);
  }
}

/* What the call has printed comes before its end. */
static void flush_output(worker *w) {
  int problem = uns_output_flush();
  fflush(stderr);
  if (problem <= 0 || problem == EPIPE || w->told_lost) return; /* of a closed pipe print has told its caller */
  w->told_lost = true;
  fprintf(stderr, "unsync: a worker process cannot write to stdout: %s\n", uns_output_problem(problem));
}

static void write_end(worker *w, uns_job *job, uint32_t slot, bool home) {
  uns_frame frame;
  uns_parent_settle(w->parent);      /* with this call may end the last hope of who waits for it */
  if (all_read(w)) w->untold_ns = 0; /* somebody else has woken it */
  for (;;) {
    uns_message message;
    uns_message_of_result(&message, job);
    message.words.slot = slot;
    int status = uns_frame_build(&frame, &w->out, &message, &job->result);
    if (status == UNS_OK) break;
    if (job->outcome == UNS_OUTCOME_ERROR) exit(EXIT_BROKEN); /* not even that: the host will say that we are gone */
    uns_job_fail_unsent(job, "the result", status);
  }
  flush_output(w);
  write_frame(w, &frame, home);
  uns_frame_done(&frame);
}

/* ---- calls ---- */

static uns_runtime *open_state(worker *w) {
  uns_runtime *runtime = w->executors->new_state(w->executors);
  if (runtime == NULL) return NULL;
  runtime->owner = w->parent;
  runtime->channel_remote = w->executors->channel_remote;
  runtime->lend = uns_parent_lend;
  uns_watchdog_offer(runtime);
  return runtime;
}

/* Puts a native task's progress on the board. On a thread of the task. */
static void tell_progress(uns_job *job) {
  worker *w = job->worker;
  uns_board *board = w->wire.board;
  atomic_store(&board->progress_call, 0);
  atomic_store(&board->progress_done, atomic_load(&job->progress_done));
  atomic_store(&board->progress_total, atomic_load(&job->progress_total));
  atomic_store(&board->progress_call, w->sequence);
  atomic_fetch_add(&board->progress_count, 1);
  uns_parent_wake_supervisor(w->parent);
}

static void run_in(worker *w, uns_runtime *runtime, uns_job *job, const struct uns_message_words *words) {
  w->sequence = words->sequence;
  job->worker = w;
  job->progressed = tell_progress;
  uns_parent_set_running(w->parent, job, words->sequence);
  if (atomic_load(&w->wire.board->cancels[words->slot]) == words->sequence) atomic_store(&job->cancel, 1);
  if (atomic_load(&job->cancel)) uns_job_fail(job, "cancelled", "%s was cancelled", job->function->name);
  else uns_runner_run(runtime, job);
  uns_parent_set_running(w->parent, NULL, 0);
}

static void run(worker *w, uns_job *job, const struct uns_message_words *words) {
  if (!job->function->fresh || job->function->native != NULL) {
    run_in(w, w->runtime, job, words);
    return;
  }
  uns_runtime *fresh = open_state(w);
  if (fresh == NULL) {
    uns_executors_fail_for_state(job);
    return;
  }
  atomic_store(&w->runtime->party.at_work, false); /* the new one is it meanwhile */
  run_in(w, fresh, job, words);
  atomic_store(&w->runtime->party.at_work, true);
  w->executors->free_state(fresh);
}

/* The call that a message describes; NULL without memory. */
static uns_job *make_job(worker *w, uns_message *message) {
  uns_function *function = uns_function_of_message(message, w->function);
  if (function == NULL) return NULL;
  uns_shared_unref(w->function);
  w->function = function;
  uns_job *job = uns_job_new(w->runtime->mailbox, function);
  if (job == NULL) return NULL;
  job->id = message->words.id;
  job->submitted_ns = message->words.submitted_ns;
  job->deadline_ns = message->words.deadline_ns;
  if (message->search_path != NULL) job->search_path = uns_shared_ref(message->search_path);
  job->named_context = message->words.context != 0;
  uns_packet_move(&job->call, &message->packet);
  return job;
}

/* The host may have taken it back meanwhile, to give it to another. */
static bool claim(worker *w, const struct uns_message_words *words) {
  uint64_t given = words->sequence * 4 + UNS_CLAIM_GIVEN;
  return atomic_compare_exchange_strong(&w->wire.board->claims[words->slot], &given,
                                        words->sequence * 4 + UNS_CLAIM_STARTED);
}

/* One whole frame. */
static void handle_frame(worker *w, const uint8_t *bytes, size_t size_bytes) {
  uns_message message;
  int status = uns_frame_read(&w->in, bytes, size_bytes, &message);
  if (status != UNS_OK || message.words.kind != UNS_FRAME_CALL || message.words.slot >= UNS_CLAIMS) {
    fprintf(stderr, "unsync: worker: cannot read a call: %s\n",
            status == UNS_ENOMEM ? "not enough memory" : "it makes no sense");
    exit(EXIT_BROKEN);
  }
  struct uns_message_words words = message.words;
  uns_job *job = make_job(w, &message);
  uns_message_deinit(&message);
  if (job == NULL) {
    fprintf(stderr, "unsync: worker: not enough memory for a call\n");
    exit(EXIT_BROKEN);
  }
  if (claim(w, &words)) {
    run(w, job, &words);
    if (job->ended_ns == 0) job->ended_ns = uns_clock_ns();
    write_end(w, job, words.slot, words.home != 0);
  }
  uns_job_free(job);
  /* Strings that were lent to the result want to be let go. */
  if (uns_mailbox_has_mail(w->runtime->mailbox)) uns_runtime_turn(w->runtime, false);
}

static void consume(worker *w, size_t size_bytes) {
  if (uns_ring_consume(&w->wire.to_child, size_bytes)) uns_parent_wake_supervisor(w->parent);
}

/* A frame that does not fit into the ring is put together beside it. False: to end. */
static bool take_large(worker *w, uint64_t size_bytes) {
  uns_ring *ring = &w->wire.to_child;
  uint8_t *large = uns_malloc((size_t)size_bytes);
  if (large == NULL) {
    fprintf(stderr, "unsync: worker: not enough memory for a call of %llu bytes\n", (unsigned long long)size_bytes);
    exit(EXIT_BROKEN);
  }
  bool go_on = true;
  for (uint64_t have = 0; have < size_bytes && go_on;) {
    const uint8_t *bytes;
    int64_t there = uns_ring_peek(ring, &bytes);
    if (there <= 0) {
      go_on = there == 0 && wait_for_news(w, ring->position);
      continue;
    }
    size_t now = (uint64_t)there < size_bytes - have ? (size_t)there : (size_t)(size_bytes - have);
    memcpy(large + have, bytes, now);
    have += now;
    consume(w, now);
  }
  if (go_on) handle_frame(w, large, (size_t)size_bytes);
  uns_free(large);
  return go_on;
}

static void serve(worker *w) {
  uns_ring *ring = &w->wire.to_child;
  for (;;) {
    const uint8_t *bytes;
    int64_t there = uns_ring_peek(ring, &bytes);
    if (there == UNS_RING_BAD) exit(EXIT_BROKEN);
    uint64_t size_bytes = there >= UNS_FRAME_HEAD ? uns_frame_size(bytes) : UNS_FRAME_HEAD;
    if (size_bytes == 0) exit(EXIT_BROKEN);
    if (size_bytes > UNS_RING_BYTES) {
      if (!take_large(w, size_bytes)) return;
    } else if (size_bytes > (uint64_t)there || there < UNS_FRAME_HEAD) {
      if (!wait_for_news(w, ring->position + (uint64_t)there)) return;
    } else {
      handle_frame(w, bytes, (size_t)size_bytes);
      consume(w, (size_t)size_bytes);
      tell_dozing(w);
    }
  }
}

/* ---- beginning and end ---- */

/* What failed is said to the host, whose calls fail with it; where it cannot be reached, to whoever reads stderr. */
static int give_up(const worker *w, const char *what) {
  int number = errno;
  if (w->parent != NULL) uns_parent_apologize(w->parent, what, number);
  else fprintf(stderr, "unsync: worker: cannot start: %s: %s\n", what, strerror(number));
  return EXIT_BROKEN;
}

static int begin(worker *w) {
  if (uns_wire_map(&w->wire, UNS_FD_MEMORY) != 0) return give_up(w, "the shared memory");
  close(UNS_FD_MEMORY);
  w->parent = uns_parent_new(UNS_FD_CONTROL, w->wire.board, UNS_FD_SUPERVISOR);
  if (w->parent == NULL) return give_up(w, "the control socket");
  w->executors->parties.alive.none = uns_parent_tell_silence;
  atomic_store(&w->executors->parties.alive.owner, w->parent);
  int status = uns_parent_set_up(w->parent, w->executors);
  if (status == UNS_ENOMEM) errno = ENOMEM;
  if (status != UNS_OK) return errno != 0 ? give_up(w, "the control socket") : EXIT_BROKEN; /* the host is gone */
  uns_port_init(&w->in, &uns_parent_ops, w->parent);
  uns_port_init(&w->out, &uns_parent_ops, w->parent);
  w->executors->processes = uns_process_pool_of_parent(w->parent);
  if (w->executors->processes == NULL) return give_up(w, "memory");
  w->executors->channel_remote = uns_parent_channel_remote(w->parent);
  w->runtime = open_state(w);
  if (w->runtime == NULL) return give_up(w, "a Lua state");
  w->executors->main_runtime = w->runtime;
  uns_parent_set_parties(w->parent, &w->executors->parties);
  w->spin.allowed = w->executors->cores > 1;
  if (uns_parent_greet(w->parent, w->runtime) != 0) return give_up(w, "the thread that listens to the host");
  return 0;
}

/* The host wants us to end, and no call runs: closes all in order, so that finalizers run and files are written. */
static int end(worker *w, void (*free_state)(uns_runtime *runtime)) {
  uns_parent_closing(w->parent);
  if (!uns_executors_free(w->executors)) { /* a thread is stuck in foreign code: nothing it may touch is taken away */
    fflush(NULL);
    _exit(0);
  }
  free_state(w->runtime);
  uns_port_deinit(&w->in);
  uns_port_deinit(&w->out);
  uns_shared_unref(w->function);
  uns_parent_free(w->parent); /* last, for what was closed may still have given something back */
  uns_wire_unmap(&w->wire);
  return 0;
}

int uns_child_main(int argc, char **argv, uns_runtime *(*new_state)(uns_executors *executors),
                   void (*free_state)(uns_runtime *runtime)) {
  if (argc < 4 || getpgrp() != getpid()) {
    fprintf(stderr, "unsync: %s is how unsync starts its own worker processes\n", UNS_CHILD_OPTION);
    return 1;
  }
  if (strcmp(argv[3], uns_frame_build_id()) != 0) {
    fprintf(stderr, "unsync: worker: this is %s, but its host is %s\n", uns_frame_build_id(), argv[3]);
    return UNS_EXIT_OTHER_BUILD;
  }
  if (!uns_spawned((pid_t)strtol(argv[2], NULL, 10))) return 1;
  worker w = {.executors = uns_executors_new()};
  if (w.executors == NULL) return give_up(&w, "memory");
  w.executors->new_state = new_state;
  w.executors->free_state = free_state;
  w.executors->is_child = true;
  uns_watchdog_read_environment(w.executors); /* the host has said what is wrong with it */
  uns_interrupt_install();
  w.executors->program = uns_copy_text(argv[0]); /* plugins lie beside it */
  int code = begin(&w);
  if (code != 0) { /* what was half made is not taken apart */
    fflush(NULL);
    _exit(code);
  }
  serve(&w);
  return end(&w, free_state);
}
