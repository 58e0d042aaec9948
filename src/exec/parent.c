#include "exec/parent.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/interrupt.h"
#include "exec/parent_channels.h"
#include "exec/silence.h"
#include "exec/why.h"
#include "exec/spawn.h"
#include "loop/task.h"

enum { INPUT_BYTES = 16384 };

/* Numbers of cells that were made here; the host's own have the bit clear. */
static const uint64_t made_here = (uint64_t)1 << 63;

/* A cell of the host that is known here. */
typedef struct proxy {
  uint64_t id;
  uns_cell *cell;  /* the stand-in; not counted: it tells us when it goes. NULL: only `early` */
  uns_cell *early; /* one reference: it settled before a reference to it had arrived */
  uint64_t held;   /* references that came and are not given back */
  uint64_t sent;   /* how often its number went to the host */
} proxy;

/* A question whose asker waits. */
typedef struct request {
  uns_link link;
  uint64_t id;
  bool answered;
  uns_message *answer;
} request;

struct uns_parent {
  int socket;
  int supervisor_fd; /* borrowed */
  uns_board *board;  /* borrowed */
  uns_port in;       /* the thread's, as the next */
  struct {
    size_t first, end;
    uint8_t bytes[INPUT_BYTES];
  } input; /* what came and has not been looked at */

  uv_mutex_t look_lock; /* taken before all others */
  uns_parties *parties; /* borrowed; NULL: they are not there yet, or no more */
  pthread_t thread;
  bool has_thread;
  atomic_bool closing;
  uns_cell_remote remote;
  uns_parent_channels channels;

  uv_mutex_t write_lock;
  uns_port out;
  bool deaf; /* the host takes no more */

  uv_mutex_t lock;
  uv_cond_t answered;
  uns_table proxies, calls; /* proxy *; uns_job * by its id */
  uns_link requests;
  uint64_t last_made, last_request;
  bool ended;            /* the host says nothing more */
  atomic_bool unsettled; /* somebody waits for the room of what was taken, and has perhaps not been told */
  uns_mailbox *waits;    /* of the runtime whose call waits, borrowed; NULL: none does */
  uns_job *running;      /* the call that runs; NULL: none */
  pthread_t runner;      /* its thread */
  uint64_t running_sequence;
};

/* ---- sending ---- */

/* Without its host, or unable to hear or to tell it something, this process serves nobody. `what` it cannot do, by errno;
   0: the host is gone. */
static void give_up(const char *what) {
  if (errno != 0 && errno != EPIPE && errno != ECONNRESET)
    fprintf(stderr, "unsync: worker: cannot %s its host: %s\n", what, strerror(errno));
  uns_end_group();
}

/* From the first byte of a frame to its last: what the host has only a part of while we do not speak, it will never have.
   The write_lock held. */
static void begin_to_speak(const uns_parent *parent) { atomic_fetch_add(&parent->board->speaking, 1); }
static void end_to_speak(const uns_parent *parent) { atomic_fetch_add(&parent->board->speaking, 1); }

/* The write_lock held. False: the host takes no more. */
static bool send_pieces(uns_parent *parent, const uns_frame *frame) {
  for (uint32_t i = 0; i < frame->piece_count && !parent->deaf; i++) {
    const uns_frame_piece *piece = &frame->pieces[i];
    for (size_t done = 0; done < piece->size_bytes;) {
      ssize_t sent = send(parent->socket, piece->bytes + done, piece->size_bytes - done, MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) {
        parent->deaf = true;
        if (!atomic_load(&parent->closing)) give_up("speak to");
        break;
      }
      done += (size_t)sent;
    }
  }
  return !parent->deaf;
}

int uns_parent_send(uns_parent *parent, const uns_message *message, const uns_packet *packet) {
  uns_frame frame;
  uv_mutex_lock(&parent->write_lock);
  int status = parent->deaf ? UNS_ECLOSED : uns_frame_build(&frame, &parent->out, message, packet);
  if (status == UNS_OK) {
    begin_to_speak(parent);
    if (!send_pieces(parent, &frame)) status = UNS_ECLOSED;
    end_to_speak(parent);
    uns_frame_done(&frame);
  }
  uv_mutex_unlock(&parent->write_lock);
  return status;
}

void uns_parent_wake_supervisor(const uns_parent *parent) {
  uint64_t one = 1;
  int saved = errno;
  while (write(parent->supervisor_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
  errno = saved;
}

/* ---- cells ---- */

/* A new stand-in for `id`, pending. */
static uns_cell *stand_in(uns_parent *parent, uint64_t id, bool by_task) {
  uns_cell *cell = uns_cell_new();
  if (cell == NULL) return NULL;
  cell->by_task = by_task;
  uns_cell_bind(cell, &parent->remote, id);
  return cell;
}

/* The lock held. */
static proxy *add_proxy(uns_parent *parent, uint64_t id) {
  proxy *added = uns_calloc(1, sizeof *added);
  if (added == NULL) return NULL;
  added->id = id;
  if (uns_table_put(&parent->proxies, id, added)) return added;
  uns_free(added);
  return NULL;
}

/* The number of a stand-in; 0: it is a cell of this process alone. */
static uint64_t number_of(const uns_parent *parent, uns_cell *cell) {
  uv_mutex_lock(&cell->lock);
  uint64_t id = cell->remote == &parent->remote ? cell->remote_id : 0;
  uv_mutex_unlock(&cell->lock);
  return id;
}

static int export_cell(void *owner, uns_cell *cell, uint64_t *id, bool *tell) {
  uns_parent *parent = owner;
  *tell = false;
  uv_mutex_lock(&parent->lock);
  *id = number_of(parent, cell);
  if (*id != 0) {
    proxy *known = uns_table_get(&parent->proxies, *id);
    known->sent++;
    uv_mutex_unlock(&parent->lock);
    return UNS_OK;
  }
  int status = UNS_OK;
  if (uns_cell_peek(cell) == UNS_CELL_PENDING) {
    /* From now on the host's is the real one, and settling goes there. */
    proxy *made = add_proxy(parent, made_here | (parent->last_made + 1));
    if (made == NULL) {
      status = UNS_ENOMEM;
    } else if (uns_cell_bind(cell, &parent->remote, made->id)) {
      parent->last_made++;
      made->cell = cell;
      made->held = made->sent = 1;
      *id = made->id;
    } else { /* settled in this moment */
      uns_table_take(&parent->proxies, made->id);
      uns_free(made);
    }
  }
  uv_mutex_unlock(&parent->lock);
  *tell = status == UNS_OK && *id == 0;
  return status;
}

static void unexport_cell(void *owner, uint64_t id, bool told) {
  uns_parent *parent = owner;
  (void)told;
  if (id == 0) return;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  known->sent--;
  uv_mutex_unlock(&parent->lock);
}

static int import_cell(void *owner, uint64_t id, bool by_task, uns_cell **cell) {
  uns_parent *parent = owner;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  if (known == NULL) known = add_proxy(parent, id);
  if (known != NULL && known->cell != NULL && uns_shared_try_ref(known->cell)) {
    *cell = known->cell;
  } else if (known != NULL && known->early != NULL) {
    *cell = known->cell = known->early;
    known->early = NULL;
  } else if (known != NULL) { /* the last stand-in, if there was one, is going; it will find itself replaced */
    uns_cell *fresh = stand_in(parent, id, by_task);
    if (fresh != NULL) *cell = known->cell = fresh;
    else known = NULL;
  }
  if (known != NULL) known->held++;
  uv_mutex_unlock(&parent->lock);
  return known != NULL ? UNS_OK : UNS_ENOMEM;
}

static void import_outcome(void *owner, uns_cell *cell, uint64_t id, uns_cell_state state, uns_packet *outcome) {
  (void)owner;
  (void)id;
  uns_cell_settle_here(cell, state, outcome);
}

const uns_port_ops uns_parent_ops = {export_cell,
                                     unexport_cell,
                                     import_cell,
                                     import_outcome,
                                     uns_parent_export_channel,
                                     uns_parent_unexport_channel,
                                     uns_parent_import_channel};

/* The last reference to a stand-in is gone: the host may let go, too. */
static void drop(uns_cell_remote *remote, uns_cell *cell) {
  uns_parent *parent = uns_container_of(remote, uns_parent, remote);
  uns_message message = {.words = {.kind = UNS_FRAME_UNREF, .id = cell->remote_id}};
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, cell->remote_id);
  bool ours = known != NULL && (known->cell == cell || known->cell == NULL);
  if (ours) {
    message.words.count = known->held;
    message.words.request = known->sent;
    known->held = known->sent = 0;
    known->cell = NULL;
    if (known->early == NULL) uns_free(uns_table_take(&parent->proxies, known->id));
  }
  uv_mutex_unlock(&parent->lock);
  if (ours) uns_parent_send(parent, &message, NULL);
}

int uns_parent_ask(uns_parent *parent, uns_message *message, const uns_packet *packet, uns_message *answer) {
  request asked = {.answer = answer};
  uns_packet_init(&answer->packet);
  uv_mutex_lock(&parent->lock);
  asked.id = message->words.request = ++parent->last_request;
  uns_list_push_back(&parent->requests, &asked.link);
  uv_mutex_unlock(&parent->lock);
  int status = uns_parent_send(parent, message, packet);
  uv_mutex_lock(&parent->lock);
  while (status == UNS_OK && !asked.answered && !parent->ended) uv_cond_wait(&parent->answered, &parent->lock);
  uns_list_remove(&asked.link);
  if (status == UNS_OK && !asked.answered) status = UNS_ECLOSED;
  uv_mutex_unlock(&parent->lock);
  return status;
}

uint64_t uns_parent_number(uns_parent *parent, bool made) {
  uv_mutex_lock(&parent->lock);
  uint64_t number = made ? made_here | ++parent->last_made : ++parent->last_request;
  uv_mutex_unlock(&parent->lock);
  return number;
}

uns_parent_channels *uns_parent_channels_of(uns_parent *parent) { return &parent->channels; }
uns_channel_remote *uns_parent_channel_remote(uns_parent *parent) { return &parent->channels.remote; }

bool uns_parent_claim(uns_parent *parent, uint32_t slot, uint64_t number) {
  uns_board *board = parent->board;
  uint64_t given = number * 4 + UNS_LOAN_GIVEN;
  if (!atomic_compare_exchange_strong(&board->loans[slot], &given, number * 4 + UNS_LOAN_TAKEN)) return false;
  if (atomic_load(&board->loans_wanted) != 0 && atomic_exchange(&board->loans_wanted, 0) != 0) {
    atomic_store(&parent->unsettled, true);
    uns_parent_wake_supervisor(parent);
  }
  return true;
}

void uns_parent_settle(uns_parent *parent) {
  if (!atomic_load(&parent->unsettled) || !atomic_exchange(&parent->unsettled, false)) return;
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_SETTLE}}, answer;
  if (uns_parent_ask(parent, &message, NULL, &answer) == UNS_OK) uns_message_deinit(&answer);
}

/* Asks the host, and waits for what it says: it knows who was first. */
static bool ask_to_settle(uns_parent *parent, uns_message *message, const uns_packet *outcome) {
  uns_message answer;
  int status = uns_parent_ask(parent, message, outcome, &answer);
  if (status == UNS_ENOMEM || status == UNS_ECORRUPT) {
    message->words.state = UNS_CELL_FAILED;
    status = uns_parent_ask(parent, message, NULL, &answer);
  }
  bool first = status == UNS_OK && answer.words.first != 0;
  if (status == UNS_OK) uns_message_deinit(&answer);
  return first;
}

/* The host has to know before it hears how the call has ended, for that may be the end of the script. */
static void looked_at(uns_cell_remote *remote, uns_cell *cell) {
  uns_parent *parent = uns_container_of(remote, uns_parent, remote);
  uns_message message = {.words = {.kind = UNS_FRAME_LOOKED, .id = cell->remote_id}};
  uns_message answer;
  if (uns_parent_ask(parent, &message, NULL, &answer) == UNS_OK) uns_message_deinit(&answer);
}

static bool settle(uns_cell_remote *remote, uns_cell *cell, uns_cell_state state, uns_packet *outcome) {
  uns_parent *parent = uns_container_of(remote, uns_parent, remote);
  uns_message message = {
      .words = {.kind = UNS_FRAME_SETTLE, .id = cell->remote_id, .state = state, .by_task = cell->by_task}};
  if (ask_to_settle(parent, &message, outcome)) return uns_cell_settle_here(cell, state, outcome);
  uns_packet_deinit(outcome);
  return false;
}

/* The host says how a cell has ended. */
static int on_settled(uns_parent *parent, uns_message *message) {
  uint64_t id = message->words.id;
  uns_cell_state state = (uns_cell_state)message->words.state;
  uns_cell *cell = NULL, *early = NULL;
  if (uns_frame_own(&message->packet) != UNS_OK) return UNS_ENOMEM;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  if (known != NULL && known->cell != NULL && uns_shared_try_ref(known->cell)) {
    cell = known->cell;
  } else if (known == NULL || known->early == NULL) {
    early = stand_in(parent, id, false);
    if (early != NULL && known == NULL) known = add_proxy(parent, id);
    if (early != NULL && known != NULL) { /* settled before anybody can see it */
      uns_cell_settle_here(early, state, &message->packet);
      known->early = early;
      known->cell = NULL;
      early = NULL;
    } else {
      known = NULL;
    }
  }
  uv_mutex_unlock(&parent->lock);
  if (cell != NULL) uns_cell_settle_here(cell, state, &message->packet);
  uns_shared_unref(cell);
  uns_shared_unref(early);
  return known != NULL ? UNS_OK : UNS_ENOMEM;
}

static void on_forget(uns_parent *parent, uint64_t id) {
  uns_cell *early = NULL;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  if (known != NULL && known->cell == NULL) {
    early = known->early;
    uns_free(uns_table_take(&parent->proxies, id));
  }
  uv_mutex_unlock(&parent->lock);
  uns_shared_unref(early);
}

static void on_answer(uns_parent *parent, uns_message *message) {
  uv_mutex_lock(&parent->lock);
  for (uns_link *link = parent->requests.next; link != &parent->requests; link = link->next) {
    request *asked = uns_container_of(link, request, link);
    if (asked->id != message->words.id) continue;
    asked->answered = true;
    asked->answer->words = message->words;
    uns_packet_move(&asked->answer->packet, &message->packet);
    uv_cond_broadcast(&parent->answered);
    break;
  }
  uv_mutex_unlock(&parent->lock);
}

/* ---- calls ---- */

static void fail_call(uns_parent *parent, uns_job *job, int status) {
  uv_mutex_lock(&parent->lock);
  bool still = uns_table_take(&parent->calls, job->id) != NULL;
  uv_mutex_unlock(&parent->lock);
  if (!still) return;
  if (status == UNS_ECLOSED) uns_job_fail(job, "closed", "closed: the program is ending");
  else uns_job_fail_unsent(job, "the arguments", status);
  uns_job_post(job);
}

void uns_parent_submit(uns_parent *parent, uns_job *job) {
  uns_message message;
  uns_message_of_call(&message, job);
  uv_mutex_lock(&parent->lock);
  bool kept = uns_table_put(&parent->calls, job->id, job);
  uv_mutex_unlock(&parent->lock);
  if (!kept) {
    uns_job_fail_unsent(job, "the arguments", UNS_ENOMEM);
    uns_job_post(job);
    return;
  }
  /* The call's packet is the job's, which may be gone as soon as the host has the frame: it goes with us meanwhile. */
  uns_packet packet = job->call;
  uns_packet_init(&job->call);
  uns_function *function = uns_shared_ref(job->function); /* the message's texts */
  uns_search_path *search_path = job->search_path;
  job->search_path = NULL;
  int status = uns_parent_send(parent, &message, &packet);
  if (status != UNS_OK) fail_call(parent, job, status);
  uns_packet_deinit(&packet);
  uns_shared_unref(function);
  uns_shared_unref(search_path);
}

void uns_parent_cancel(uns_parent *parent, uns_job *job) {
  uns_message message = {.words = {.kind = UNS_FRAME_CANCEL, .id = job->id}};
  uns_parent_send(parent, &message, NULL);
}

void uns_parent_set_running(uns_parent *parent, uns_job *job, uint64_t sequence) {
  uv_mutex_lock(&parent->lock);
  parent->running = job;
  parent->runner = pthread_self();
  parent->running_sequence = sequence;
  uv_mutex_unlock(&parent->lock);
}

/* The call that runs is asked to stop: by its flag, and by a hook that its own thread arms. */
static void on_cancel(uns_parent *parent, uint64_t sequence) {
  uv_mutex_lock(&parent->lock);
  if (parent->running != NULL && parent->running_sequence == sequence) {
    atomic_store(&parent->running->cancel, 1);
    if (parent->running->function->native == NULL)
      pthread_kill(parent->runner, UNS_INTERRUPT_SIGNAL); /* as in pool.c */
  }
  uv_mutex_unlock(&parent->lock);
}

static void on_progress(uns_parent *parent, const struct uns_message_words *words) {
  uv_mutex_lock(&parent->lock); /* so that the call does not end meanwhile */
  uns_job *job = uns_table_get(&parent->calls, words->id);
  if (job != NULL) uns_job_note_progress(job, words->progress_done, words->progress_total);
  uv_mutex_unlock(&parent->lock);
}

static int on_result(uns_parent *parent, uns_message *message) {
  uv_mutex_lock(&parent->lock);
  uns_job *job = uns_table_take(&parent->calls, message->words.id);
  uv_mutex_unlock(&parent->lock);
  if (job == NULL) return UNS_OK;
  if (uns_frame_own(&message->packet) != UNS_OK) {
    uns_job_fail(job, "ENOMEM", "not enough memory for what %s returned", job->function->name);
  } else {
    uns_message_end_job(message, job);
    const struct uns_message_words *words = &message->words;
    if (words->count > 0) uns_job_note_progress(job, words->progress_done, words->progress_total);
  }
  uns_job_post(job);
  return UNS_OK;
}

/* ---- waiting ---- */

void uns_parent_lend(uns_runtime *runtime, bool waiting) {
  uns_parent *parent = runtime->owner;
  uint32_t said = atomic_load_explicit(&parent->board->waiting, memory_order_relaxed);
  if ((said % 2 == 1) == waiting) return;
  uv_mutex_lock(&parent->lock);
  parent->waits = waiting ? runtime->mailbox : NULL;
  uv_mutex_unlock(&parent->lock);
  atomic_store(&parent->board->waiting, said + 1);
  uns_parent_wake_supervisor(parent);
}

typedef struct limit_notice {
  uns_mail mail;
  uint32_t waiting, limit;
} limit_notice;

/* Too many wait: the wait fails, if it still is the same. */
static void on_limit_mail(uns_mail *mail, void *receiver) {
  limit_notice *notice = uns_container_of(mail, limit_notice, mail);
  uns_runtime *runtime = receiver;
  if (runtime != NULL) {
    const uns_parent *parent = runtime->owner;
    uint32_t said = atomic_load_explicit(&parent->board->waiting, memory_order_relaxed);
    if (said == notice->waiting || said == notice->waiting + 1) { /* this mail itself has woken it up */
      uns_task_limit_youngest(runtime, "limit: %d calls wait in worker processes already", (int)notice->limit);
    }
  }
  uns_free(notice);
}

static int on_limit(uns_parent *parent, const struct uns_message_words *words) {
  limit_notice *notice = uns_malloc(sizeof *notice);
  if (notice == NULL) return UNS_ENOMEM;
  notice->mail.deliver = on_limit_mail;
  notice->waiting = (uint32_t)words->count;
  notice->limit = words->limit;
  uv_mutex_lock(&parent->lock);
  uns_mailbox *waits = parent->waits;
  if (waits != NULL) uns_mailbox_post(waits, &notice->mail);
  uv_mutex_unlock(&parent->lock);
  if (waits == NULL) uns_free(notice); /* it waits no more */
  return UNS_OK;
}

/* ---- silence ---- */

void uns_parent_tell_silence(uns_alive *alive) {
  const uns_parent *parent = atomic_load(&alive->owner);
  if (parent == NULL) return;
  atomic_fetch_add(&parent->board->silences, 1);
  uns_parent_wake_supervisor(parent);
}

void uns_parent_set_parties(uns_parent *parent, uns_parties *parties) {
  uv_mutex_lock(&parent->look_lock);
  parent->parties = parties;
  uv_mutex_unlock(&parent->look_lock);
}

/* The cells made here that the host knows, which somebody here settles. The states stand still. */
static uint32_t find_cells(uns_parent *parent, uns_quiet_cell *cells) {
  uint32_t count = 0;
  uv_mutex_lock(&parent->lock);
  for (uint32_t i = 0; i < parent->proxies.size && count < UNS_QUIET_EDGES_MAX; i++) {
    const proxy *known = parent->proxies.entries[i].value;
    if (known == NULL || known->cell == NULL || (known->id & made_here) == 0) continue;
    uns_cell *cell = known->cell; /* whose last step is to tell us, under our lock */
    if (cell->task == NULL || uns_cell_peek(cell) != UNS_CELL_PENDING || !uns_shared_try_ref(cell)) continue;
    cells[count++] = (uns_quiet_cell){cell, known->id};
  }
  uv_mutex_unlock(&parent->lock);
  return count;
}

/* Nothing of ours is being handled meanwhile, for that is this thread's, too. */
static int on_ask(uns_parent *parent, uint64_t round) {
  uns_message message = {.words = {.kind = UNS_FRAME_QUIET, .id = round}};
  uns_packet packet;
  uns_packet_init(&packet);
  uns_quiet_cell *cells = uns_malloc(UNS_QUIET_EDGES_MAX * sizeof *cells);
  message.words.count = cells == NULL;
  uv_mutex_lock(&parent->look_lock);
  if (cells != NULL && parent->parties != NULL && uns_parties_freeze(parent->parties)) {
    uv_mutex_lock(&parent->lock);
    bool stopping = parent->running != NULL && atomic_load(&parent->running->cancel) != 0;
    uns_runtime *main = parent->running != NULL ? parent->running->runtime : NULL;
    uv_mutex_unlock(&parent->lock);
    uint32_t count = find_cells(parent, cells);
    if (!stopping && uns_quiet_describe(parent->parties, main, cells, count, &packet) == UNS_OK)
      message.words.first = 1;
    else message.words.count = !stopping;
    uns_parties_thaw(parent->parties);
    for (uint32_t i = 0; i < count; i++) uns_shared_unref(cells[i].cell);
  }
  uv_mutex_unlock(&parent->look_lock);
  uns_free(cells);
  int status = uns_parent_send(parent, &message, &packet);
  uns_packet_deinit(&packet);
  return status == UNS_ENOMEM ? UNS_ENOMEM : UNS_OK;
}

/* The state is known by a number that the host has from us. */
static int on_deadlock(uns_parent *parent, const uns_message *message) {
  const struct uns_message_words *words = &message->words;
  int status = UNS_OK;
  uv_mutex_lock(&parent->look_lock);
  uns_parties *parties = parent->parties;
  if (parties != NULL) {
    uv_mutex_lock(&parties->lock);
    for (uns_link *link = parties->list.next; link != &parties->list; link = link->next) {
      uns_runtime *runtime = uns_container_of(link, uns_runtime, party.link);
      if ((uintptr_t)runtime == words->request)
        status = uns_deadlock_tell(runtime, words->id, (uint32_t)words->count, words->first != 0, message->texts[0]);
    }
    uv_mutex_unlock(&parties->lock);
  }
  uv_mutex_unlock(&parent->look_lock);
  return status;
}

/* Somebody wants to see what waits here, and for what. */
static int on_why(uns_parent *parent, const struct uns_message_words *words) {
  const uns_job *job = NULL;
  const void *task = NULL;
  uv_mutex_lock(&parent->look_lock);
  uv_mutex_lock(&parent->lock);
  if (words->request != 0) {
    const proxy *known = uns_table_get(&parent->proxies, words->request);
    if (known != NULL && known->cell != NULL) task = known->cell->task;
  } else if (parent->running_sequence == words->sequence) {
    job = parent->running;
  }
  uv_mutex_unlock(&parent->lock);
  bool asked = (job != NULL || task != NULL) && parent->parties != NULL &&
               uns_why_pass_on(parent, parent->parties, words->id, job, task);
  uv_mutex_unlock(&parent->look_lock);
  if (asked) return UNS_OK;
  uns_message message = {.words = {.kind = UNS_FRAME_BECAUSE, .id = words->id}};
  return uns_parent_send(parent, &message, NULL) == UNS_ENOMEM ? UNS_ENOMEM : UNS_OK;
}

/* ---- the thread ---- */

static int handle(uns_parent *parent, uns_message *message) {
  switch (message->words.kind) {
    case UNS_FRAME_SETTLED: return on_settled(parent, message);
    case UNS_FRAME_FORGET: on_forget(parent, message->words.id); return UNS_OK;
    case UNS_FRAME_ANSWER: on_answer(parent, message); return UNS_OK;
    case UNS_FRAME_RESULT: return on_result(parent, message);
    case UNS_FRAME_PROGRESS: on_progress(parent, &message->words); return UNS_OK;
    case UNS_FRAME_CANCEL: on_cancel(parent, message->words.sequence); return UNS_OK;
    case UNS_FRAME_CHANNEL_TOLD: uns_parent_channels_told(&parent->channels, message); return UNS_OK;
    case UNS_FRAME_CHANNEL_AHEAD: return uns_parent_channels_ahead(&parent->channels, message);
    case UNS_FRAME_LIMIT: return on_limit(parent, &message->words);
    case UNS_FRAME_ASK: return on_ask(parent, message->words.id);
    case UNS_FRAME_DEADLOCK: return on_deadlock(parent, message);
    case UNS_FRAME_WHY: return on_why(parent, &message->words);
    default: return UNS_ECORRUPT;
  }
}

static bool receive(uns_parent *parent, uint8_t *to, size_t size_bytes) {
  while (size_bytes > 0) {
    size_t now = parent->input.end - parent->input.first;
    if (now > 0) {
      if (now > size_bytes) now = size_bytes;
      memcpy(to, parent->input.bytes + parent->input.first, now);
      parent->input.first += now;
      to += now;
      size_bytes -= now;
      continue;
    }
    bool large = size_bytes >= INPUT_BYTES; /* it goes where it belongs at once */
    ssize_t count = recv(parent->socket, large ? to : parent->input.bytes, large ? size_bytes : INPUT_BYTES, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = 0;
    if (count <= 0) return false;
    if (large) {
      to += count;
      size_bytes -= (size_t)count;
    } else {
      parent->input.first = 0;
      parent->input.end = (size_t)count;
    }
  }
  return true;
}

/* One frame. UNS_ECLOSED: the host is gone, or errno says what is wrong. */
static int receive_message(uns_parent *parent, uns_message *message) {
  uint8_t head[UNS_FRAME_HEAD];
  if (!receive(parent, head, sizeof head)) return UNS_ECLOSED;
  uint64_t size_bytes = uns_frame_size(head);
  if (size_bytes == 0) return UNS_ECORRUPT;
  uint8_t *bytes = uns_malloc((size_t)size_bytes);
  if (bytes == NULL) return UNS_ENOMEM;
  memcpy(bytes, head, sizeof head);
  int status = receive(parent, bytes + sizeof head, (size_t)size_bytes - sizeof head)
                   ? uns_frame_read(&parent->in, bytes, (size_t)size_bytes, message)
                   : UNS_ECLOSED;
  if (status == UNS_OK) {
    status = uns_frame_own(&message->packet);
    if (status != UNS_OK) uns_message_deinit(message);
  }
  uns_free(bytes);
  return status;
}

static void *listen_to_parent(void *argument) {
  uns_parent *parent = argument;
  for (;;) {
    uns_message message;
    int status = receive_message(parent, &message);
    if (status == UNS_OK) {
      status = handle(parent, &message);
      uns_message_deinit(&message);
    }
    if (status == UNS_OK) continue;
    if (status == UNS_ENOMEM) errno = ENOMEM;
    else if (status != UNS_ECLOSED) errno = EPROTO;
    if (!atomic_load(&parent->closing)) give_up("hear");
    return NULL;
  }
}

/* With all signals blocked but the one that says that the parent is gone. */
static int start_thread(uns_parent *parent) {
  sigset_t most, kept;
  sigfillset(&most);
  sigdelset(&most, SIGHUP);
  pthread_sigmask(SIG_SETMASK, &most, &kept);
  int status = pthread_create(&parent->thread, NULL, listen_to_parent, parent);
  pthread_sigmask(SIG_SETMASK, &kept, NULL);
  parent->has_thread = status == 0;
  return status;
}

uns_parent *uns_parent_new(int socket, uns_board *board, int supervisor_fd) {
  uns_parent *parent = uns_calloc(1, sizeof *parent);
  if (parent == NULL) goto no_memory;
  parent->socket = socket;
  parent->board = board;
  parent->supervisor_fd = supervisor_fd;
  parent->remote.settle = settle;
  parent->remote.looked_at = looked_at;
  parent->remote.drop = drop;
  uns_list_init(&parent->requests);
  uns_port_init(&parent->in, &uns_parent_ops, parent);
  uns_port_init(&parent->out, &uns_parent_ops, parent);
  if (uv_mutex_init(&parent->write_lock) != 0) goto no_write_lock;
  if (uv_mutex_init(&parent->lock) != 0) goto no_lock;
  if (uv_mutex_init(&parent->look_lock) != 0) goto no_look_lock;
  if (uv_cond_init(&parent->answered) != 0) goto no_cond;
  if (uns_parent_channels_init(&parent->channels, parent) != 0) goto no_channels;
  return parent;
no_channels:
  uv_cond_destroy(&parent->answered);
no_cond:
  uv_mutex_destroy(&parent->look_lock);
no_look_lock:
  uv_mutex_destroy(&parent->lock);
no_lock:
  uv_mutex_destroy(&parent->write_lock);
no_write_lock:
  uns_free(parent);
no_memory:
  close(socket);
  errno = ENOMEM;
  return NULL;
}

int uns_parent_set_up(uns_parent *parent, uns_executors *executors) {
  uns_message message;
  int status = receive_message(parent, &message);
  if (status != UNS_OK) return status;
  if (message.words.kind != UNS_FRAME_SETUP) status = UNS_ECORRUPT;
  executors->grace_ns = message.words.grace_ns;
  const char *directory = message.texts[0];
  if (status == 0 && directory != NULL) {
    executors->script_directory = uns_copy_text(directory);
    if (executors->script_directory == NULL) status = UNS_ENOMEM;
  }
  uns_message_deinit(&message);
  return status;
}

/* The greeting carries the eventfd that wakes `main`. */
static int send_hello(uns_parent *parent, int fd) {
  uns_message message = {.words = {.kind = UNS_FRAME_HELLO}};
  message.texts[0] = uns_frame_build_id();
  uns_frame frame;
  if (uns_frame_build(&frame, &parent->out, &message, NULL) != UNS_OK) return ENOMEM;
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int))];
  } ancillary;
  memset(&ancillary, 0, sizeof ancillary);
  uint8_t first = frame.pieces[0].bytes[0];
  struct iovec room = {&first, 1};
  struct msghdr header = {
      .msg_iov = &room, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary.room};
  struct cmsghdr *item = CMSG_FIRSTHDR(&header);
  item->cmsg_level = SOL_SOCKET;
  item->cmsg_type = SCM_RIGHTS;
  item->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(item), &fd, sizeof fd);
  ssize_t sent;
  do sent = sendmsg(parent->socket, &header, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  int status = sent == 1 ? 0 : errno;
  frame.pieces[0].bytes++;
  frame.pieces[0].size_bytes--;
  if (status == 0 && !send_pieces(parent, &frame)) status = EPIPE;
  uns_frame_done(&frame);
  return status;
}

int uns_parent_greet(uns_parent *parent, uns_runtime *main) {
  int status = start_thread(parent);
  if (status == 0) {
    uv_mutex_lock(&parent->write_lock);
    begin_to_speak(parent);
    status = send_hello(parent, main->mailbox->fd);
    end_to_speak(parent);
    uv_mutex_unlock(&parent->write_lock);
  }
  if (status == 0) return 0;
  errno = status;
  return -1;
}

void uns_parent_apologize(uns_parent *parent, const char *what, int number) {
  uns_message message = {.words = {.kind = UNS_FRAME_SORRY}};
  char text[160];
  snprintf(text, sizeof text, "%s: %s", what, strerror(number));
  message.texts[0] = text;
  snprintf(message.words.error_code, sizeof message.words.error_code, "%s",
           uv_err_name(uv_translate_sys_error(number)));
  uns_parent_send(parent, &message, NULL);
}

void uns_parent_closing(uns_parent *parent) {
  atomic_store(&parent->closing, true);
  uns_parent_set_parties(parent, NULL);
}

void uns_parent_free(uns_parent *parent) {
  if (parent == NULL) return;
  shutdown(parent->socket, SHUT_RDWR); /* the thread's read ends */
  if (parent->has_thread) pthread_join(parent->thread, NULL);
  close(parent->socket);
  for (uint32_t i = 0; i < parent->proxies.size; i++) {
    proxy *known = parent->proxies.entries[i].value;
    if (known == NULL) continue;
    if (known->early != NULL) {
      known->early->remote = NULL; /* nobody is left to be told */
      uns_shared_unref(known->early);
    }
    uns_free(known);
  }
  uns_free(parent->proxies.entries);
  for (uint32_t i = 0; i < parent->calls.size; i++) {
    uns_job *job = parent->calls.entries[i].value;
    if (job == NULL) continue;
    uns_job_fail(job, "closed", "closed: the program is ending");
    uns_job_post(job);
  }
  uns_free(parent->calls.entries);
  uns_parent_channels_deinit(&parent->channels);
  uns_port_deinit(&parent->in);
  uns_port_deinit(&parent->out);
  uv_cond_destroy(&parent->answered);
  uv_mutex_destroy(&parent->look_lock);
  uv_mutex_destroy(&parent->lock);
  uv_mutex_destroy(&parent->write_lock);
  uns_free(parent);
}
