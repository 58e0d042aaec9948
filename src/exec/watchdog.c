#include "exec/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/lent.h"
#include "core/recorder.h"
#include "exec/kernel.h"
#include "loop/task.h"

static const uint64_t STALL_NS = 200000000; /* held for so long, while something is due */
static const uint64_t LOOK_NS = 50000000;   /* between two looks, at most */
static const uint64_t LOOK_MIN_NS = 2000000;
static const uint64_t DOZE_NS = 1000000000;     /* all loops have slept for so long: no more looks until one wakes up */
static const uint64_t DOZE_MAX_NS = 5000000000; /* though a wake-up may be missed: it tells us without a lock */
static const uint64_t REPEAT_NS = 10000000000;  /* the same place is not told again before that */
enum {
  ANSWER_MS = 2000, /* the copy takes a millisecond */
  TEXT_BYTES = 8192,
  PLACES = 8,     /* that are remembered */
  LEVELS_MAX = 24 /* of a stack */
};

/* One loop. Its fields are guarded by the watchdog's lock. */
typedef struct watched {
  uns_link link;
  uns_closer closer;             /* takes it out when the state ends */
  struct uns_watchdog *watchdog; /* NULL: that has ended */
  uns_runtime *runtime;
  pid_t thread_id;
  clockid_t clock;      /* of the thread: the time it has spent on a processor */
  uint64_t turn_ns;     /* the turn that was seen last */
  uint64_t base_ns;     /* `clock` when that was */
  uint64_t last_ns;     /* `clock` at the last look */
  uint64_t blocked_ns;  /* in this turn */
  uint64_t reported_ns; /* when this turn was reported, or 0 */
  uint64_t ask_ns;      /* held for so long, it is looked at again */
  uint64_t idle_ns;     /* how long it has been seen asleep, one look after the other */
  struct {
    uint32_t hash;            /* of a place that was told */
    uint64_t told_ns, untold; /* when, and how often not again */
  } places[PLACES];
  uint32_t stalls;
} watched;

struct uns_watchdog {
  uns_executors *executors;
  uv_mutex_t lock; /* guards what follows */
  uv_cond_t wake;
  uns_link loops;
  uint64_t stall_ns, look_ns;
  pthread_t thread;
  bool stop, dozes;
};

/* A torn word is only a guess. */
#define UNCHECKED __attribute__((no_sanitize("thread"), noinline))

/* In the copy nobody else is: what ThreadSanitizer remembers of others is of the past. */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define WITH_TSAN
#endif
#elif defined(__SANITIZE_THREAD__)
#define WITH_TSAN
#endif
#ifdef WITH_TSAN
void AnnotateIgnoreReadsBegin(const char *file, int line);
#define TRUST_READS() AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
#else
#define TRUST_READS() ((void)0)
#endif

/* ---- in the copy: no locks, no memory, nothing that another thread could have held ---- */

typedef struct {
  size_t used;
  char bytes[TEXT_BYTES];
} text;

static void add(text *to, const char *more) {
  for (; *more != '\0' && to->used < sizeof to->bytes - 1; more++) to->bytes[to->used++] = *more;
}

static void add_number(text *to, uint64_t number) {
  char digits[24];
  size_t at = sizeof digits - 1;
  digits[at] = '\0';
  do digits[--at] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  add(to, digits + at);
}

/* The frames of one Lua thread. */
static void add_frames(text *to, lua_State *L) {
  lua_Debug frame;
  for (int level = 0; level < LEVELS_MAX && lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "nSl", &frame);
    if (*frame.what == 'C' && frame.name == NULL) continue; /* one of ours, at the bottom */
    add(to, "\n\t");
    if (frame.currentline > 0) {
      add(to, frame.short_src);
      add(to, ":");
      add_number(to, (uint64_t)frame.currentline);
    } else {
      add(to, "[C]");
    }
    if (frame.name != NULL) {
      add(to, ": in ");
      add(to, *frame.namewhat != '\0' ? frame.namewhat : "function");
      add(to, " '");
      add(to, frame.name);
      add(to, "'");
    } else if (*frame.what == 'm') {
      add(to, ": in main chunk");
    } else {
      add(to, ": in function <");
      add(to, frame.short_src);
      add(to, ":");
      add_number(to, (uint64_t)frame.linedefined);
      add(to, ">");
    }
  }
}

/* Strings that come home are no news to anybody. */
static bool mail_is_due(const uns_runtime *runtime) {
  const uns_mail *mail = atomic_load(&runtime->mailbox->head);
  for (; mail != NULL; mail = mail->next) {
    if (!uns_lent_is_mail(mail)) return true;
  }
  return false;
}

/* A deadline of luv's that has passed. */
static bool nested_is_due(uns_runtime *runtime, uint64_t now) {
  uint64_t due_ns = atomic_load_explicit(&runtime->nested_due_ns, memory_order_relaxed);
  return due_ns != 0 && due_ns <= now;
}

/* Adds what is due; false: nothing is. */
static bool add_due(text *to, uns_runtime *runtime, uint64_t now, bool descriptor) {
  const uns_link *batch = runtime->batch;
  const char *due[4];
  size_t count = 0;
  if (runtime->ready.next != &runtime->ready || (batch != NULL && batch->next != batch))
    due[count++] = "a task is ready";
  if (uns_timer_queue_next_ns(&runtime->timers) <= now || nested_is_due(runtime, now))
    due[count++] = "a timer has expired";
  if (mail_is_due(runtime)) due[count++] = "a message has come";
  if (descriptor) due[count++] = "a descriptor is ready";
  for (size_t i = 0; i < count; i++) {
    add(to, i == 0 ? " while " : i + 1 == count ? " and " : ", ");
    add(to, due[i]);
  }
  return count > 0;
}

static void add_task(text *to, const uns_task *task) {
  const char *name = task->future != NULL ? task->future->name : NULL;
  if (task->is_main) {
    add(to, "the main thread");
  } else {
    add(to, "task ");
    add(to, name != NULL ? name : "without a name");
  }
}

/* Who holds the loop, and where. */
static void add_holder(text *to, uns_runtime *runtime) {
  uns_task *task = runtime->current;
  if (task == NULL) {
    add(to, ". It is held by ");
    add(to, runtime->callback_of != NULL ? "a callback of " : "itself");
    if (runtime->callback_of != NULL) add(to, runtime->callback_of);
    add(to, ":");
    add_frames(to, runtime->L);
    return;
  }
  add(to, ". It is held by ");
  add_task(to, task);
  add(to, ":");
  lua_State *L = runtime->running;
  if (L != NULL && L != task->co) {
    add_frames(to, L);
    add(to, "\n\t(a coroutine, resumed in:)");
  }
  add_frames(to, task->co);
  for (const uns_task_frame *frame = runtime->frame; frame != NULL && frame->outer != NULL; frame = frame->below) {
    if (task->is_main) break; /* it has no frame */
    add(to, "\n\t(started by ");
    add_task(to, frame->outer);
    add(to, ")");
  }
}

/* Writes what there is to say, or nothing. `always`: that nothing is due is no reason. */
static _Noreturn void answer(uns_runtime *runtime, int fd, bool always, bool descriptor) {
  static text told; /* the copy's own */
  struct rlimit none = {0, 0};
  TRUST_READS();
  setrlimit(RLIMIT_CORE, &none);
  for (int number = SIGILL; number <= SIGSEGV; number++) signal(number, SIG_DFL);
  if (add_due(&told, runtime, uns_clock_ns(), descriptor) || always) {
    add_holder(&told, runtime);
    for (size_t done = 0; done < told.used;) {
      ssize_t count = write(fd, told.bytes + done, told.used - done);
      if (count <= 0) break;
      done += (size_t)count;
    }
  }
  syscall(SYS_exit_group, 0);
  for (;;) continue;
}

/* ---- asking ---- */

/* Reads all that the copy writes; false: it said nothing. */
static bool read_answer(int fd, char *into, size_t size) {
  size_t have = 0;
  struct pollfd from = {.fd = fd, .events = POLLIN};
  while (have < size - 1) {
    int ready = poll(&from, 1, ANSWER_MS);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) break;
    ssize_t count = read(fd, into + have, size - 1 - have);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    have += (size_t)count;
  }
  into[have] = '\0';
  return have > 0;
}

typedef enum { NOTHING_DUE, TOLD, NOT_TOLD } asked;

/* Makes a copy of this process, of this thread alone, and lets it look. */
static asked ask(uns_runtime *runtime, bool always, bool descriptor, char *into, size_t size) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return NOT_TOLD;
  /* No signal tells its end, and nobody who waits for any child hears of it; no handler of the C library's forks runs. */
  pid_t pid = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
  if (pid == 0) answer(runtime, ends[1], always, descriptor);
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return NOT_TOLD;
  }
  bool told = read_answer(ends[0], into, size);
  close(ends[0]);
  kill(pid, SIGKILL); /* it has ended, or is stuck */
  int status = 0;
  while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR) continue;
  if (told) return TOLD;
  return WIFEXITED(status) ? NOTHING_DUE : NOT_TOLD;
}

/* Events that the loop has not looked at, but those of its mailbox's own descriptor. */
static bool descriptor_is_due(uns_runtime *runtime) {
  struct epoll_event events[16];
  int count = epoll_wait(uv_backend_fd(&runtime->loop), events, sizeof events / sizeof *events, 0);
  for (int i = 0; i < count; i++) {
    if (events[i].data.fd != runtime->mailbox->fd) return true;
  }
  return false;
}

/* A guess from outside, so that the copy is not made in vain. */
UNCHECKED static bool seems_due(uns_runtime *runtime, uint64_t now) {
  uns_link *batch = __atomic_load_n(&runtime->batch, __ATOMIC_RELAXED); /* on its thread's stack, which is there */
  return __atomic_load_n(&runtime->ready.next, __ATOMIC_RELAXED) != &runtime->ready ||
         (batch != NULL && __atomic_load_n(&batch->next, __ATOMIC_RELAXED) != batch) ||
         atomic_load_explicit(&runtime->due_hint_ns, memory_order_relaxed) <= now || nested_is_due(runtime, now) ||
         uns_mailbox_has_mail(runtime->mailbox);
}

static bool in_worker(const uns_runtime *runtime) { return runtime->is_worker || runtime->executors->is_child; }

/* A worker between two calls holds nothing. */
UNCHECKED static bool at_work(uns_runtime *runtime) {
  return !in_worker(runtime) || __atomic_load_n(&runtime->job, __ATOMIC_RELAXED) != NULL;
}

/* ---- telling ---- */

/* Names the place by the innermost line of Lua: what it calls may be another C function each time. */
static uint32_t hash_of_place(const char *what) {
  static const char in_c[] = "\n\t[C]";
  const char *line = strchr(what, '\n');
  while (line != NULL && strncmp(line, in_c, sizeof in_c - 1) == 0) line = strchr(line + 1, '\n');
  if (line == NULL) line = what;
  uint32_t hash = 2166136261u;
  for (line++; *line != '\0' && *line != '\n'; line++) hash = (hash ^ (unsigned char)*line) * 16777619u;
  return hash;
}

/* Is it to be told? Then `*untold` is how often it was not since the last time. */
static bool note_place(watched *loop, const char *what, uint64_t *untold) {
  uint32_t hash = hash_of_place(what);
  uint64_t now = uns_clock_ns();
  size_t at = 0;
  for (size_t i = 0; i < PLACES; i++) { /* this one, else the one told longest ago */
    if (loop->places[i].told_ns != 0 && loop->places[i].hash == hash) {
      at = i;
      break;
    }
    if (loop->places[i].told_ns < loop->places[at].told_ns) at = i;
  }
  bool known = loop->places[at].told_ns != 0 && loop->places[at].hash == hash;
  if (known && now - loop->places[at].told_ns < REPEAT_NS) {
    loop->places[at].untold++;
    return false;
  }
  *untold = known ? loop->places[at].untold : 0;
  loop->places[at].hash = hash;
  loop->places[at].told_ns = now;
  loop->places[at].untold = 0;
  return true;
}

static void tell(watched *loop, const char *what, uint64_t held_ns) {
  char line[TEXT_BYTES + 256], again[64] = "";
  uint64_t untold;
  if (!note_place(loop, what, &untold)) return;
  if (untold > 0) {
    snprintf(again, sizeof again, " (again: %llu times since it was told)", (unsigned long long)untold);
  }
  int size = snprintf(line, sizeof line, "unsync: the event loop has been held for %llu.%02llu s%s%s%s\n",
                      (unsigned long long)(held_ns / 1000000000), (unsigned long long)(held_ns / 10000000 % 100),
                      in_worker(loop->runtime) ? " in a worker" : "", again, what);
  for (int done = 0; done < size;) { /* in one piece, and past stdio, whose lock its thread may hold */
    ssize_t count = write(STDERR_FILENO, line + done, (size_t)(size - done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += (int)count;
  }
}

/* The track of async events for stalls of this loop. */
static uint64_t stall_id(const watched *loop) { return (uint64_t)loop->thread_id << 20 | loop->stalls; }

static void trace_begin(watched *loop, const char *what, uint64_t held_ns) {
  const uns_recorder *recorder = loop->runtime->executors->recorder;
  loop->stalls++;
  if (recorder == NULL || recorder->trace == NULL) return;
  uns_trace_async_begin(recorder->trace, uns_clock_ns() - held_ns, "stall", "loop held", stall_id(loop));
  uns_trace_note(recorder->trace, "stall", "loop held", stall_id(loop), what);
}

static void trace_end(const watched *loop) {
  const uns_recorder *recorder = loop->runtime->executors->recorder;
  if (recorder == NULL || recorder->trace == NULL) return;
  uns_trace_async_end(recorder->trace, 0, "stall", "loop held", stall_id(loop));
}

/* ---- looking ---- */

static uint64_t clock_of(const watched *loop) {
  struct timespec spent;
  if (clock_gettime(loop->clock, &spent) != 0) return loop->last_ns;
  return (uint64_t)spent.tv_sec * 1000000000 + (uint64_t)spent.tv_nsec;
}

/* It has been held for long: told, if something is due. */
static void suspect(struct uns_watchdog *watchdog, watched *loop, uint64_t held_ns) {
  char what[TEXT_BYTES];
  uns_runtime *runtime = loop->runtime;
  bool always = watchdog->executors->stall_always;
  bool descriptor = descriptor_is_due(runtime);
  if (!always && !descriptor && !seems_due(runtime, uns_clock_ns())) return;
  switch (ask(runtime, always, descriptor, what, sizeof what)) {
    case NOTHING_DUE: loop->ask_ns = held_ns * 2; return;
    case NOT_TOLD: snprintf(what, sizeof what, ". Its stack could not be read"); break;
    case TOLD: break;
  }
  if (atomic_load_explicit(&runtime->turn_ns, memory_order_relaxed) != loop->turn_ns) return; /* it goes on: too late */
  loop->reported_ns = uns_clock_ns();
  tell(loop, what, held_ns);
  trace_begin(loop, what, held_ns);
}

static void begin_turn(watched *loop, uint64_t turn_ns, uint64_t spent_ns) {
  if (loop->reported_ns != 0) trace_end(loop);
  loop->turn_ns = turn_ns;
  loop->base_ns = spent_ns;
  loop->blocked_ns = 0;
  loop->reported_ns = 0;
  loop->ask_ns = 0;
}

static void look(struct uns_watchdog *watchdog, watched *loop) {
  uns_runtime *runtime = loop->runtime;
  uint64_t turn_ns = atomic_load_explicit(&runtime->turn_ns, memory_order_relaxed), spent_ns = clock_of(loop);
  bool computes = spent_ns - loop->last_ns >= watchdog->look_ns / 4;
  bool asleep = atomic_load_explicit(&runtime->mailbox->asleep, memory_order_relaxed) != 0 || !at_work(runtime);
  loop->last_ns = spent_ns;
  loop->idle_ns = asleep && !computes ? loop->idle_ns + watchdog->look_ns : 0;
  if (turn_ns != loop->turn_ns || (asleep && !computes)) { /* it turns; or sleeps, as it should with nothing due */
    begin_turn(loop, turn_ns, spent_ns);
    return;
  }
  /* In C, in a system call or waiting for a lock: that counts as well, but not that others have the processor. */
  if (!computes && !uns_kernel_on_cpu(loop->thread_id)) loop->blocked_ns += watchdog->look_ns;
  uint64_t held_ns = spent_ns - loop->base_ns + loop->blocked_ns;
  if (loop->reported_ns == 0 && held_ns >= watchdog->stall_ns && held_ns >= loop->ask_ns)
    suspect(watchdog, loop, held_ns);
}

/* A loop wakes up while we doze: on its thread, after a sleep in the kernel. */
static void on_awake(uns_runtime *runtime) {
  struct uns_watchdog *watchdog = runtime->executors->watchdog;
  uv_mutex_lock(&watchdog->lock);
  watchdog->dozes = false;
  uv_cond_signal(&watchdog->wake);
  uv_mutex_unlock(&watchdog->lock);
}

static void set_awake(struct uns_watchdog *watchdog, void (*told)(uns_runtime *)) {
  for (uns_link *link = watchdog->loops.next; link != &watchdog->loops; link = link->next) {
    atomic_store(&uns_container_of(link, watched, link)->runtime->awake, told);
  }
}

static void *watch(void *argument) {
  struct uns_watchdog *watchdog = argument;
  uv_mutex_lock(&watchdog->lock);
  while (!watchdog->stop) {
    uint64_t idle_ns = UINT64_MAX; /* of the one that has slept least */
    for (uns_link *link = watchdog->loops.next; link != &watchdog->loops; link = link->next) {
      watched *loop = uns_container_of(link, watched, link);
      look(watchdog, loop);
      if (loop->idle_ns < idle_ns) idle_ns = loop->idle_ns;
    }
    if (watchdog->stop) break;
    if (idle_ns < DOZE_NS) {
      uv_cond_timedwait(&watchdog->wake, &watchdog->lock, watchdog->look_ns);
      continue;
    }
    watchdog->dozes = true;
    set_awake(watchdog, on_awake);
    while (watchdog->dozes && !watchdog->stop) {
      if (uv_cond_timedwait(&watchdog->wake, &watchdog->lock, DOZE_MAX_NS) != 0) watchdog->dozes = false;
    }
    set_awake(watchdog, NULL);
  }
  uv_mutex_unlock(&watchdog->lock);
  return NULL;
}

/* ---- beginning and end ---- */

static struct uns_watchdog *watchdog_new(uns_executors *executors) {
  struct uns_watchdog *watchdog = uns_calloc(1, sizeof *watchdog);
  if (watchdog == NULL) return NULL;
  watchdog->executors = executors;
  watchdog->stall_ns = executors->stall_ns;
  watchdog->look_ns = executors->stall_ns / 4;
  if (watchdog->look_ns > LOOK_NS) watchdog->look_ns = LOOK_NS;
  if (watchdog->look_ns < LOOK_MIN_NS) watchdog->look_ns = LOOK_MIN_NS;
  uns_list_init(&watchdog->loops);
  if (uv_mutex_init(&watchdog->lock) != 0) goto no_lock;
  if (uv_cond_init(&watchdog->wake) != 0) goto no_cond;
  sigset_t all, kept;
  sigfillset(&all); /* signals are for the main thread */
  pthread_sigmask(SIG_SETMASK, &all, &kept);
  int status = pthread_create(&watchdog->thread, NULL, watch, watchdog);
  pthread_sigmask(SIG_SETMASK, &kept, NULL);
  if (status == 0) return watchdog;
  uv_cond_destroy(&watchdog->wake);
no_cond:
  uv_mutex_destroy(&watchdog->lock);
no_lock:
  uns_free(watchdog);
  return NULL;
}

void uns_watchdog_stop(struct uns_watchdog *watchdog) {
  if (watchdog == NULL) return;
  uv_mutex_lock(&watchdog->lock);
  bool stopped = watchdog->stop;
  watchdog->stop = true;
  uv_cond_signal(&watchdog->wake);
  uv_mutex_unlock(&watchdog->lock);
  if (!stopped) pthread_join(watchdog->thread, NULL);
}

void uns_watchdog_free(struct uns_watchdog *watchdog) {
  if (watchdog == NULL) return;
  uns_watchdog_stop(watchdog);
  for (uns_link *link; (link = uns_list_pop_front(&watchdog->loops)) != NULL;) {
    watched *loop = uns_container_of(link, watched, link);
    loop->watchdog = NULL;
    atomic_store(&loop->runtime->awake, NULL);
  }
  uv_cond_destroy(&watchdog->wake);
  uv_mutex_destroy(&watchdog->lock);
  uns_free(watchdog);
}

/* The state ends, on its thread. */
static void on_close(uns_closer *closer, uns_runtime *runtime) {
  watched *loop = uns_container_of(closer, watched, closer);
  struct uns_watchdog *watchdog = loop->watchdog;
  (void)runtime;
  if (watchdog != NULL) {
    uv_mutex_lock(&watchdog->lock);
    uns_list_remove(&loop->link);
    uv_mutex_unlock(&watchdog->lock);
  }
  uns_free(loop);
}

/* From now on something may become due while a task runs. Without memory, or a thread, nobody watches. */
static void begin(uns_runtime *runtime) {
  uns_executors *executors = runtime->executors;
  runtime->company = NULL;
  watched *loop = uns_calloc(1, sizeof *loop);
  if (loop == NULL) return;
  uv_mutex_lock(&executors->lock);
  if (executors->watchdog == NULL && !executors->closing) executors->watchdog = watchdog_new(executors);
  struct uns_watchdog *watchdog = executors->watchdog;
  uv_mutex_unlock(&executors->lock);
  if (watchdog == NULL || pthread_getcpuclockid(pthread_self(), &loop->clock) != 0) {
    uns_free(loop);
    return;
  }
  loop->watchdog = watchdog;
  loop->runtime = runtime;
  loop->thread_id = gettid();
  loop->closer.close = on_close;
  uns_list_push_back(&runtime->closers, &loop->closer.link);
  loop->last_ns = loop->base_ns = clock_of(loop);
  loop->turn_ns = atomic_load_explicit(&runtime->turn_ns, memory_order_relaxed);
  uv_mutex_lock(&watchdog->lock);
  uns_list_push_back(&watchdog->loops, &loop->link);
  watchdog->dozes = false;
  uv_cond_signal(&watchdog->wake);
  uv_mutex_unlock(&watchdog->lock);
}

bool uns_watchdog_read_environment(uns_executors *executors) {
  const char *said = getenv("UNSYNC_STALL");
  executors->stall_ns = STALL_NS;
  executors->stall_always = false;
  if (said == NULL || *said == '\0') return true;
  char *end;
  double seconds = strtod(said, &end);
  if (*end != '\0' || !(seconds >= 0)) return false;
  executors->stall_ns = seconds > 1e9 ? (uint64_t)1e18 : (uint64_t)(seconds * 1e9);
  executors->stall_always = executors->stall_ns > 0;
  return true;
}

void uns_watchdog_offer(uns_runtime *runtime) {
  if (runtime->executors->stall_ns == 0) return;
  runtime->company = begin;
  if (runtime->executors->stall_always) begin(runtime);
}
