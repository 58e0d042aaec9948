#include "exec/silence.h"

#include <limits.h>
#include <string.h>

#include "exec/worker_process.h"
#include "loop/test_clock.h"

static const uint64_t AGAIN_NS = 5000000; /* after something came in between, which may have woken nobody */

struct uns_silence {
  uns_executors *executors; /* borrowed, as what follows */
  uns_supervisor *supervisor;
  uns_process_pool *pool; /* NULL: there is none; the supervisor's */
  uns_sweep sweep;
  uns_mail open_mail;
  atomic_bool wanted; /* somebody is to look */
  /* the supervisor's */
  uint64_t round;
  uint32_t asked;      /* whose answers are not there yet */
  bool busy;           /* one of them goes on */
  bool again;          /* one of them had no memory to answer */
  unsigned long woken; /* when they were asked */
  uint64_t traffic;    /* the same, answers not counted */
};

/* ---- children ---- */

/* The next child from `*i` on that has a call; NULL: no more. */
static uns_child *next_busy(const uns_silence *silence, uint32_t *i) {
  uns_process_pool *pool = silence->pool;
  uint32_t count = pool != NULL ? atomic_load_explicit(&pool->count, memory_order_relaxed) : 0;
  while (*i < count) {
    uns_child *child = pool->children[(*i)++];
    uv_mutex_lock(&child->lock);
    bool busy = child->in_flight > 0;
    uv_mutex_unlock(&child->lock);
    if (busy) return child;
  }
  return NULL;
}

/* What has come from children and gone to them, over their sockets, answers not counted. */
static uint64_t traffic(const uns_silence *silence) {
  uns_process_pool *pool = silence->pool;
  uint32_t count = pool != NULL ? atomic_load_explicit(&pool->count, memory_order_relaxed) : 0;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < count; i++) sum += pool->children[i]->service.sent + pool->children[i]->service.received;
  return sum;
}

/* Nothing lies in its rings that the other side has not read, and it is not being stopped. */
static bool rings_empty(uns_child *child) {
  uv_mutex_lock(&child->read_lock);
  bool empty = child->readable && !uns_ring_has_news(&child->wire.to_host);
  uv_mutex_unlock(&child->read_lock);
  uv_mutex_lock(&child->lock);
  empty = empty && child->state == UNS_CHILD_LIVE && child->in_flight == 1 && !child->writing &&
          child->unsent_count == 0 && atomic_load(&child->jobs[child->order[0]]->cancel) == 0;
  uv_mutex_unlock(&child->lock);
  return empty;
}

/* ---- whether it is quiet ---- */

/* Children take what channels have lent them without a word: whoever waits for that room is told now. */
static void settle_channels(const uns_silence *silence) {
  const uns_process_pool *pool = silence->pool;
  uint32_t count = pool != NULL ? atomic_load_explicit(&pool->count, memory_order_relaxed) : 0;
  for (uint32_t i = 0; i < count; i++) uns_channels_sweep(pool->children[i]);
}

/* Makes the states of this process stand still. False: they do not, or one is about to be stopped. */
static bool freeze(const uns_silence *silence) {
  uns_parties *parties = &silence->executors->parties;
  settle_channels(silence);
  if (uns_mailbox_has_mail(uns_supervisor_mailbox(silence->supervisor))) return false;
  if (!uns_parties_freeze(parties)) return false;
  bool still = true;
  for (uns_runtime *runtime = uns_parties_next(parties, NULL); runtime != NULL;
       runtime = uns_parties_next(parties, runtime))
    still = still && (runtime->job == NULL || atomic_load(&runtime->job->cancel) == 0);
  uint32_t i = 0;
  for (uns_child *child; still && (child = next_busy(silence, &i)) != NULL;) still = rings_empty(child);
  if (!still) uns_parties_thaw(parties);
  return still;
}

static void look_again(void *argument) { uns_silence_look(argument); }

/* Nobody is alive, but it was not quite quiet: news that has woken nobody, a call that is being stopped. */
static void look_later(uns_silence *silence) {
  if (atomic_load(&silence->executors->parties.alive.count) == 0)
    uns_supervisor_after(silence->supervisor, AGAIN_NS, look_again, silence);
}

static void decide(uns_silence *silence);

/* Asks all children that have a call. */
static void ask(uns_silence *silence) {
  silence->round++;
  silence->asked = 0;
  silence->busy = silence->again = false;
  uns_message message = {.words = {.kind = UNS_FRAME_ASK, .id = silence->round}};
  uint32_t i = 0;
  for (uns_child *child; (child = next_busy(silence, &i)) != NULL;) {
    uns_packet_clear(&child->report);
    child->asked = uns_service_send(child, &message, NULL) == UNS_OK ? silence->round : 0;
    if (child->asked != 0) silence->asked++;
    else silence->busy = true;
  }
  silence->traffic = traffic(silence);
  if (silence->asked == 0) look_later(silence); /* no memory for it, or they are just dying */
}

void uns_silence_look(uns_silence *silence) {
  atomic_store(&silence->wanted, false);
  if (silence->asked > 0) { /* the answers come first */
    atomic_store(&silence->wanted, true);
    return;
  }
  if (uns_mailbox_has_mail(uns_supervisor_mailbox(silence->supervisor))) {
    uns_silence_want(&silence->executors->parties.alive);
    return;
  }
  if (!freeze(silence)) {
    look_later(silence);
    return;
  }
  uint32_t i = 0;
  if (next_busy(silence, &i) == NULL) {
    decide(silence);
    uns_parties_thaw(&silence->executors->parties);
    return;
  }
  silence->woken = atomic_load(&silence->executors->parties.alive.woken);
  uns_parties_thaw(&silence->executors->parties);
  ask(silence);
}

/* Does the report hold what it says? */
static bool check_report(const uns_packet *packet) {
  uns_quiet_report report;
  if (packet->size_bytes < sizeof report) return false;
  memcpy(&report, packet->bytes, sizeof report);
  return report.edge_count <= UNS_QUIET_EDGES_MAX && report.text_bytes <= INT_MAX && /* it is a precision of printf's */
         packet->size_bytes == sizeof report + report.edge_count * sizeof(uns_quiet_edge) + report.text_bytes;
}

bool uns_silence_answer(uns_silence *silence, uns_child *child, const uns_message *message) {
  if (silence == NULL || child->asked == 0) return message == NULL;
  if (message != NULL) {
    if (message->words.id != child->asked) return false;
    silence->traffic++;
    if (!message->words.first) {
      silence->busy = true;
      silence->again |= message->words.count > 0;
    } else {
      if (!check_report(&message->packet)) return false;
      uint8_t *copy = uns_packet_grow(&child->report, message->packet.size_bytes);
      if (copy != NULL) memcpy(copy, message->packet.bytes, message->packet.size_bytes);
      else silence->busy = true;
    }
  } else {
    silence->busy = true;
  }
  child->asked = 0;
  if (--silence->asked > 0) return true;
  if (!silence->busy) { /* else it will say when it has become quiet */
    bool still = freeze(silence);
    /* The count went up with each that has woken up, and children only do where something is sent to them. */
    bool same = still && traffic(silence) == silence->traffic &&
                atomic_load(&silence->executors->parties.alive.woken) == silence->woken;
    if (same) decide(silence);
    if (still) uns_parties_thaw(&silence->executors->parties);
    if (!same) look_later(silence);
  } else if (silence->again) {
    look_later(silence);
  }
  if (atomic_load(&silence->wanted)) uns_silence_look(silence);
  return true;
}

/* ---- who is told ---- */

/* A part of a chain, in one process. */
typedef struct segment {
  uns_child *child; /* NULL: this process */
  uns_task *task;   /* here: where it begins */
  uns_quiet_edge edge;
} segment;

enum { SEGMENTS_MAX = 64 };

static uns_quiet_report report_of(const uns_child *child) {
  uns_quiet_report report = {.edge_count = 0};
  if (child->report.size_bytes > 0) memcpy(&report, child->report.bytes, sizeof report);
  return report;
}

static bool find_edge(uns_child *child, uns_quiet_from kind, uint64_t from, segment *found) {
  uns_quiet_report report = report_of(child);
  for (uint32_t i = 0; i < report.edge_count; i++) {
    memcpy(&found->edge, child->report.bytes + sizeof report + i * sizeof found->edge, sizeof found->edge);
    if (found->edge.from_kind != kind || found->edge.from != from) continue;
    found->child = child;
    found->task = NULL;
    return true;
  }
  return false;
}

/* The text that `child` says of `who`, made sure of. */
static void add_text(uns_text *text, const uns_child *child, const uns_quiet_who *who) {
  uns_quiet_report report = report_of(child);
  if (who->text_at > report.text_bytes || who->text_bytes > report.text_bytes - who->text_at) return;
  const char *texts = (const char *)child->report.bytes + sizeof report + report.edge_count * sizeof(uns_quiet_edge);
  uns_text_add(text, "%.*s", (int)who->text_bytes, texts + who->text_at);
}

static bool continue_at_task(uns_task *task, segment *next) {
  *next = (segment){.task = task};
  return task != NULL && task->state == UNS_TASK_PARKED;
}

/* Where a call goes on that this process has sent to a child, or to a thread. */
static bool continue_at_job(const uns_silence *silence, const uns_job *job, segment *next) {
  if (job->runtime != NULL) return continue_at_task(uns_chain_root(job->runtime), next);
  uint32_t i = 0;
  for (uns_child *child; (child = next_busy(silence, &i)) != NULL;) {
    uv_mutex_lock(&child->lock);
    bool runs = child->in_flight > 0 && child->jobs[child->order[0]] == job;
    uv_mutex_unlock(&child->lock);
    if (runs) return find_edge(child, UNS_QUIET_ROOT, 0, next);
  }
  return false;
}

/* Where a cell of this process leads to, which may stand for a child's. */
static bool continue_at_cell(const uns_silence *silence, const uns_cell *cell, segment *next) {
  if (cell->task != NULL) return continue_at_task(cell->task, next);
  if (cell->job != NULL) return continue_at_job(silence, cell->job, next);
  uint32_t i = 0;
  for (uns_child *child; (child = next_busy(silence, &i)) != NULL;) {
    uint64_t id = uns_exports_made_there(child, cell);
    if (id != 0) return find_edge(child, UNS_QUIET_CELL, id, next);
  }
  return false;
}

/* The segment behind `at`, which is no cycle of its own. */
static bool go_on(const uns_silence *silence, const segment *at, segment *next) {
  if (at->child == NULL) {
    uns_chain_link end;
    uns_chain_follow(at->task, true, &end);
    if (end.kind == UNS_BEHIND_JOB) return continue_at_job(silence, end.job, next);
    if (end.kind == UNS_BEHIND_CELL) return continue_at_cell(silence, end.cell, next);
    return false;
  }
  if (at->edge.to_kind == UNS_BEHIND_CELL) {
    uns_cell *cell = uns_exports_find(at->child, at->edge.to);
    bool found = cell != NULL && continue_at_cell(silence, cell, next);
    uns_shared_unref(cell);
    return found;
  }
  const uns_job *job = at->edge.to_kind == UNS_BEHIND_JOB ? uns_service_nested(at->child, at->edge.to) : NULL;
  return job != NULL && continue_at_job(silence, job, next);
}

static bool same_place(const segment *a, const segment *b) {
  return a->child == b->child && a->task == b->task &&
         (a->child == NULL || (a->edge.from_kind == b->edge.from_kind && a->edge.from == b->edge.from));
}

typedef struct {
  uns_child *child; /* NULL: this process */
  uns_task *task;
  uns_quiet_who who;
  uint64_t since_ns;
  size_t segment; /* where it lies */
  bool cycle;
} victim;

static victim here(uns_task *task) { return (victim){.task = task, .since_ns = task != NULL ? uns_task_since_ns(task) : 0}; }

static victim there(uns_child *child, const uns_quiet_who *who) {
  return (victim){.child = who->task != 0 ? child : NULL, .who = *who, .since_ns = who->since_ns};
}

static bool is_somebody(const victim *one) { return one->child != NULL || one->task != NULL; }

static void prefer_younger(victim *best, victim other) {
  if (!is_somebody(&other)) return;
  if (!is_somebody(best) || other.since_ns > best->since_ns) *best = other;
}

static victim youngest_in(const segment *part) {
  if (part->child != NULL) return there(part->child, &part->edge.youngest);
  return here(uns_chain_youngest(part->task));
}

static void add_segment(uns_text *text, const segment *part) {
  if (part->child != NULL) add_text(text, part->child, &part->edge.youngest);
  else uns_deadlock_add_chain(text, part->task, true);
}

/* Follows the chain from `first` through all processes. The youngest in the cycle it comes into, and the text of that. */
static victim find_cycle(const uns_silence *silence, segment first, uns_text *text) {
  segment parts[SEGMENTS_MAX];
  size_t count = 0;
  victim nobody = {.child = NULL};
  for (segment at = first; count < SEGMENTS_MAX;) {
    for (size_t i = 0; i < count; i++) {
      if (!same_place(&parts[i], &at)) continue;
      victim best = nobody;
      for (size_t j = i; j < count; j++) {
        victim other = youngest_in(&parts[j]);
        other.segment = j;
        prefer_younger(&best, other);
      }
      for (size_t j = 0; j < count - i; j++) {
        size_t place = best.segment + j < count ? best.segment + j : best.segment + j - count + i;
        add_segment(text, &parts[place]);
        uns_text_add(text, j + 1 < count - i ? "\n\t" : ": a cycle");
      }
      return best;
    }
    parts[count++] = at;
    uns_chain_link end;
    uns_task *in_cycle = at.child == NULL ? uns_chain_follow(at.task, true, &end) : NULL;
    if (in_cycle != NULL) {
      uns_deadlock_add_chain(text, in_cycle, true);
      return here(in_cycle);
    }
    if (at.child != NULL && at.edge.to_kind == UNS_BEHIND_TASK) {
      add_segment(text, &at);
      return there(at.child, &at.edge.youngest);
    }
    segment next;
    if (!go_on(silence, &at, &next)) return nobody;
    at = next;
  }
  return nobody;
}

static victim find_victim(const uns_silence *silence, uns_text *text) {
  uns_parties *parties = &silence->executors->parties;
  uns_child *child;
  victim best = here(uns_deadlock_find_cause(parties));
  for (uint32_t i = 0; (child = next_busy(silence, &i)) != NULL;) {
    uns_quiet_report report = report_of(child);
    prefer_younger(&best, there(child, &report.cause));
  }
  if (!is_somebody(&best)) {
    segment first = {.task = uns_deadlock_find_youngest(parties)};
    uint32_t i = 0;
    bool any = first.task != NULL;
    while (!any && (child = next_busy(silence, &i)) != NULL) any = find_edge(child, UNS_QUIET_ROOT, 0, &first);
    if (any) best = find_cycle(silence, first, text);
    if (is_somebody(&best)) {
      best.cycle = true;
      return best;
    }
    /* It ends in something that does not wait by itself: a place under a limit. */
    best = here(uns_deadlock_find_youngest(parties));
    for (i = 0; (child = next_busy(silence, &i)) != NULL;) {
      uns_quiet_report report = report_of(child);
      prefer_younger(&best, there(child, &report.youngest));
    }
  }
  if (best.child != NULL) add_text(text, best.child, &best.who);
  else if (best.task != NULL) uns_deadlock_add_chain(text, best.task, true);
  return best;
}

/* The state of this process whose test clock all others hold up, though none of them goes on; or NULL. */
static uns_runtime *find_held_up(const uns_silence *silence) {
  uns_parties *parties = &silence->executors->parties;
  uns_runtime *runtime = uns_parties_next(parties, NULL);
  while (runtime != NULL && (runtime->test_clock == NULL || !uns_test_clock_held_up(runtime->test_clock)))
    runtime = uns_parties_next(parties, runtime);
  return runtime;
}

/* All is quiet, and the states of this process stand still. */
static void decide(uns_silence *silence) {
  uns_runtime *held_up = find_held_up(silence);
  if (held_up != NULL) { /* it is time that goes on, and nobody waits for ever */
    if (uns_test_clock_tell_jump(held_up) == UNS_ENOMEM) look_later(silence);
    return;
  }
  uns_text text = {0};
  victim best = find_victim(silence, &text);
  int status = UNS_OK;
  const char *message = text.lost || text.bytes == NULL ? "?" : text.bytes;
  if (best.child != NULL) {
    uns_message told = {.words = {.kind = UNS_FRAME_DEADLOCK,
                                  .id = best.who.task,
                                  .count = best.who.wait,
                                  .first = best.cycle,
                                  .request = best.who.runtime}};
    told.texts[0] = message;
    status = uns_service_send(best.child, &told, NULL);
  } else if (best.task != NULL) {
    status = uns_deadlock_tell(uns_runtime_of(best.task->co), best.task->id, best.task->wait, best.cycle, message);
  }
  uns_free(text.bytes);
  if (status == UNS_ENOMEM) look_later(silence);
}

/* ---- beginning and end ---- */

/* Nobody is alive any more. */
void uns_silence_want(uns_alive *alive) {
  uns_silence *silence = atomic_load(&alive->owner);
  if (silence == NULL) return;
  if (!atomic_exchange(&silence->wanted, true)) uns_mailbox_wake(uns_supervisor_mailbox(silence->supervisor));
}

/* A child has become quiet in all its threads: it counts that. */
static bool children_changed(const uns_silence *silence) {
  bool changed = false;
  uint32_t i = 0;
  for (uns_child *child; (child = next_busy(silence, &i)) != NULL;) {
    uint32_t said = atomic_load(&child->wire.board->silences);
    changed |= said != child->silences;
    child->silences = said;
  }
  return changed;
}

static void sweep(uns_sweep *swept) {
  uns_silence *silence = uns_container_of(swept, uns_silence, sweep);
  bool changed = children_changed(silence) && atomic_load(&silence->executors->parties.alive.count) == 0;
  if (changed || atomic_load(&silence->wanted)) uns_silence_look(silence);
}

static void on_open(uns_mail *mail, void *receiver) {
  uns_silence *silence = uns_container_of(mail, uns_silence, open_mail);
  if (receiver == NULL) return;
  uns_supervisor_add_sweep(receiver, &silence->sweep);
  uns_silence_look(silence);
}

uns_silence *uns_silence_new(uns_executors *executors, uns_supervisor *supervisor) {
  uns_silence *silence = uns_calloc(1, sizeof *silence);
  if (silence == NULL) return NULL;
  silence->executors = executors;
  silence->sweep.sweep = sweep;
  uns_list_init(&silence->sweep.link);
  silence->supervisor = supervisor;
  silence->open_mail.deliver = on_open;
  atomic_store(&executors->parties.alive.owner, silence);
  uns_mailbox_post(uns_supervisor_mailbox(supervisor), &silence->open_mail);
  return silence;
}

void uns_silence_set_pool(uns_silence *silence, uns_process_pool *pool) {
  if (silence != NULL) silence->pool = pool;
}

uns_process_pool *uns_silence_pool(const uns_silence *silence) { return silence != NULL ? silence->pool : NULL; }

void uns_silence_free(uns_silence *silence) { uns_free(silence); }
