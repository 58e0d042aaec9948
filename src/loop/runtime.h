/*
 * runtime: one Lua state and its ambient loop. The main script has one, and so has every worker.
 *
 * A turn of the loop: deliver the mail, run the tasks that were ready when the turn began, fire the timers that are
 * due, let libuv do what is due. It sleeps in the kernel only when nothing is ready.
 *   - Everything here belongs to the thread that made it, but `mailbox`.
 *   - No user code runs inside a call that wakes somebody.
 */
#ifndef UNS_RUNTIME_H
#define UNS_RUNTIME_H

#include <lua.h>
#include <signal.h>
#include <stdatomic.h>
#include <uv.h>

#include "base/base.h"
#include "base/spin.h"
#include "core/mailbox.h"

typedef struct uns_runtime uns_runtime;
typedef struct uns_task uns_task;
typedef struct uns_future uns_future;
typedef struct uns_timer uns_timer;
struct uns_job;

/* Somewhere else that news may come from without mail: the rings of child processes. Polled in each turn. */
typedef struct uns_source {
  uns_link link;
  /* Takes what is there; true if there was something. */
  bool (*poll)(struct uns_source *source, uns_runtime *runtime);
  /* The loop is about to sleep (true), or is awake again (false). While it sleeps, news must write the mailbox's
     eventfd; false: something has come already, so it must not sleep. May be NULL. */
  bool (*fall_asleep)(struct uns_source *source, bool asleep);
  bool busy;    /* something is expected: worth a short spin before sleeping, and hope for whoever waits */
  bool crowded; /* those who work at it can use all cores: a spin would only take one of them away */
  bool dozes;   /* set by fall_asleep: some news waits for the loop to wake up by itself, UNS_DOZE_NS later at the latest */
} uns_source;

/* Something to do in the next turn, outside of any task; embedded in what asks for it. Must run no user code. */
typedef struct uns_callback {
  uns_link link;
  void (*run)(struct uns_callback *callback, uns_runtime *runtime);
} uns_callback;

static inline void uns_callback_init(uns_callback *callback, void (*run)(uns_callback *, uns_runtime *)) {
  uns_list_init(&callback->link);
  callback->run = run;
}

/* One timer, embedded in what waits. */
struct uns_timer {
  uint64_t deadline_ns; /* on uns_now_ns; where `real`, on uns_clock_ns */
  void (*fire)(uns_timer *timer, uns_runtime *runtime);
  union {
    uns_link link; /* in its lane */
    size_t place;  /* in the heap */
  };
  uint32_t order; /* equal deadlines fire in the order they were armed */
  uint8_t where;  /* 0: not armed; loop/timer.c */
  bool real;      /* for the world outside, which knows no test clock: a process that must end, a limit on a whole run */
  bool on_test;   /* it is armed in the test clock's queue */
};

enum { UNS_TIMER_LANES = 8 };

/* Armed timers by deadline: lanes, each in order by itself, and a heap for what fits into none. */
typedef struct uns_timer_queue {
  uns_link lanes[UNS_TIMER_LANES];
  unsigned used; /* bit n: there is something in lane n */
  uns_timer **heap;
  size_t heap_count, heap_capacity;
  size_t count; /* in all */
} uns_timer_queue;

void uns_timer_queue_init(uns_timer_queue *queue);
void uns_timer_queue_deinit(uns_timer_queue *queue);
/* The nearest deadline, UINT64_MAX: none. */
uint64_t uns_timer_queue_next_ns(const uns_timer_queue *queue);
/* A state among those of its process: loop/party.h. */
typedef struct uns_party {
  uns_link link;
  struct uns_parties *parties; /* borrowed; NULL: it is alone */
  bool quiet;                  /* it sleeps, and nothing but mail will wake it; guarded by their lock */
  atomic_bool at_work;         /* it is the script's, or runs a call */
  _Atomic(const void *) call;  /* that one, to be compared by other threads; or NULL */
} uns_party;

/* Something bound to the runtime that must end before its loop does: luv's nested loop, the HTTP client. */
typedef struct uns_closer {
  uns_link link;
  void (*close)(struct uns_closer *closer, uns_runtime *runtime);
} uns_closer;

enum {
  UNS_SITE_LISTS = 64,
  UNS_POLL_NS = 100000, /* between two looks at libuv while tasks are ready: a look is a system call */
  UNS_DOZE_NS = 1000000 /* the longest sleep during which not all news wakes the loop: libuv's shortest */
};

struct uns_runtime {
  lua_State *L; /* the main thread of the state; borrowed or owned by whoever made it */
  uv_loop_t loop;
  uns_mailbox *mailbox; /* one reference */
  struct uns_executors *executors; /* shared by the states of a host; borrowed */
  struct uns_channel_remote *channel_remote; /* in a worker process: the way to the host's channels; borrowed; else NULL */
  uns_party party;                 /* among them: loop/party.h */

  /* tasks */
  uns_task *current;  /* the task that runs now; NULL in the loop itself and in callbacks */
  struct uns_task_frame *frame; /* of the task that was resumed last and runs still, others below; or NULL */
  lua_State *running; /* the Lua thread that we resumed last; another one was resumed by code that knows no tasks */
  int nested_starts;  /* eager starts on the C stack now */
  int budget;         /* settled awaits left before the running task must let others run */
  uns_link ready;     /* tasks to resume, by task->timer.link */
  uns_link tasks;     /* all live tasks, in the order in which they first waited, by task->live_link */
  bool tasks_mixed;   /* that is not the order in which they were started: loop/deadlock.c puts it right at need */
  uns_link idle;      /* recycled tasks with their coroutines */
  size_t idle_count, live_count;
  uint64_t root_id;   /* of the task that is the call which runs; 0: none does */
  uns_task *main;     /* stands for the state's main thread: in stock lua5.4 and other embedders */

  /* news */
  uns_link callbacks;
  uns_link sources;
  uns_link closers;    /* called once by uns_runtime_free, the youngest first, while the loop still works */
  uv_poll_t mail_poll; /* on mailbox->fd; unreferenced */
  uns_timer_queue timers;
  uint32_t timer_order;
  size_t limit_timers; /* armed timers that are no hope for anybody: a limit on the whole run */
  uv_timer_t uv_timer; /* for the nearest deadline; unreferenced */
  struct uns_test_clock *test_clock; /* loop/test_clock.h; NULL: there has never been one */
  uint8_t inline_kinds; /* bits, by uns_kind: calls of these run on this loop, for tests (bind/inline.h) */
  void (*note_call)(uns_runtime *runtime, lua_State *L); /* the future of a call lies on top: for tests; may be NULL */
  uint64_t shuffle;    /* loop/shuffle.c: state of the dice by which ready tasks are ordered; 0: as they came */

  uint64_t now_ns;     /* uns_now_ns when this turn began */
  _Atomic uint64_t turn_ns; /* the same on uns_clock_ns; the watchdog looks whether there are turns (relaxed) */
  _Atomic uint64_t due_hint_ns; /* no timer is due before, as far as can be told from outside; likewise */
  _Atomic uint64_t nested_due_ns; /* the nearest timer of luv's, 0: none known; for the watchdog (relaxed) */
  uns_link *batch;     /* the tasks that this round has yet to resume; NULL: none are being resumed */
  /* Something may become due while a task runs: called once. exec/watchdog.h; NULL: nobody wants to know. */
  void (*company)(uns_runtime *runtime);
  /* The loop was asleep and is awake: called if it is not NULL. Set by the watchdog's thread. */
  void (*_Atomic awake)(uns_runtime *runtime);
  uint64_t polled_ns;  /* likewise, of the last turn that looked at libuv */
  const char *interned; /* the last name that was */
  int pins_ref;         /* the table of what is pinned, in the registry */
  int last_pin;         /* those up to here are in use, or among the free ones */
  int *free_pins;
  size_t free_pin_count, pin_capacity;
  int future_class_ref; /* the metatable of futures, in the registry */
  int unaccounted_bytes; /* of tasks, which the collector has yet to be told of: loop/task.c */
  uint64_t last_task_id;
  size_t pending;      /* jobs and messages under way that will post here: hope for whoever waits */
  size_t asked;        /* of these, what other states of ours are to answer: calls, and futures from elsewhere */
  size_t pending_io;   /* of these, what the loop itself waits for, as HTTP: no reason to spin for mail */
  const char *callback_of; /* whose callback runs, outside of any task, so nothing can wait: "luv"; else NULL */
  uns_link failures;   /* failures nobody has looked at, oldest first (loop/failure.c) */
  size_t kept_failures; /* of these, those whose futures are gone */
  uns_link holding;       /* functions whose limit holds calls back (bind/send.c) */
  uns_closer held_closer; /* for these calls */
  uns_link permits;       /* of io calls whose function has a limit, those that run (bind/limit.c) */
  uns_link permits_apart; /* those in line, or with their place lent to another */
  size_t limited_count;   /* of these, in line */
  /* Lets those begin that others, who have begun, wait for; where all is `hopeless`, any. True: somebody is ready. */
  bool (*lend_permits)(uns_runtime *runtime, bool hopeless);
  void (*drop_permits)(uns_runtime *runtime); /* before the tasks end, which hold their futures */
  struct uns_last_site {
    const char *text;
    int line;
    char source[LUA_IDSIZE];
  } last_site; /* what uns_runtime_site found last */
  size_t told, untold; /* loop/future.c: settled futures whose cells are told, one after the other, while `telling` */
  struct uns_group *root; /* the scope of the call that this worker runs, borrowed; NULL: none */
  /* Puts a text that reads better in the place of an error, its traceback, what it is of and where that was started, as
     uns_failure_tell has them, on top of L. False: it cannot, and they lie there as they were. NULL: nobody can. */
  bool (*explain)(uns_runtime *runtime, lua_State *L);
  void (*report)(uns_runtime *runtime, const char *text); /* told of errors nobody handles; NULL: stderr */
  bool (*busy)(uns_runtime *runtime); /* more hope, asked when the loop is quiet: luv's handles; may be NULL */
  bool (*before_sleep)(uns_runtime *runtime); /* runs nested loops; true: do not sleep; may be NULL */
  /* Ends the work behind a stoppable future (HTTP's) and pushes that future on `L`; may be NULL, as it may find nothing. */
  bool (*stop)(uns_runtime *runtime, uns_future *future);
  struct uns_luv *luv;   /* bind/luv.c's, or NULL: never required */
  struct uns_http *http; /* bind/http.c's, or NULL: never used */
  void (*lend)(uns_runtime *runtime, bool waiting); /* a worker about to sleep in a wait, and awake again; may be NULL */
  void (*inherit_hook)(lua_State *from, lua_State *to); /* debug.sethook follows into tasks; may be NULL */
  void (*cancel_job)(uns_runtime *runtime, struct uns_job *job); /* exec/executors.h; NULL: none is ever sent */
  struct uns_site *sites[UNS_SITE_LISTS]; /* where tasks were started, newest first, by line: loop/wait.c */
  size_t site_count;
  uns_link idle_jobs; /* whose calls have ended, for the next ones: bind/send.c's, by job->link */
  size_t idle_job_count;
  uns_link idle_scopes; /* loop/cancel.c's */
  uns_link unwanted;    /* groups that are being cancelled: bind/combine.c's */
  int idle_scope_count;
  struct uns_group *idle_group; /* the last one that ended, for the next: loop/group.c's; NULL: none */
  void (*exit)(uns_runtime *runtime, lua_State *L, int code, bool close); /* os.exit; does not return; NULL: as in stock Lua */
  void (*caught)(uns_runtime *runtime, lua_State *L); /* uns_cancel_caught: an interrupt arms again; may be NULL */
  uint64_t grace_ns;   /* a cancelled task that goes on for longer is interrupted */
  size_t shields;      /* scopes entered that keep cancellation out */
  size_t unwinding;    /* tasks in which `cancelled` was raised, and has not been caught yet */
  struct uns_job *job; /* the call that this worker runs now, or NULL */
  void *owner;         /* whoever made the runtime: the host's main, a worker */
  struct uns_recorder *recorder; /* core/recorder.h: told of what tasks do; NULL: nobody wants to know. Borrowed */
  uint32_t track;      /* the recorder's, of this thread */
  int unobserved;      /* how many of those were reported */
  unsigned barriers;   /* frames under way that let a wait through, but no coroutine.yield of the script's (bind/stdlib.h) */
  unsigned stride;     /* tasks that a turn resumes between two looks at the clock: loop/task.c */
  volatile sig_atomic_t end_turn; /* no further round in this turn: somebody up the C stack, or a signal, has news */
  volatile sig_atomic_t look_wanted; /* a signal has come: `look` is called in the next turn */
  void (*look)(struct uns_runtime *runtime, lua_State *L); /* of whoever sets that */
  bool telling;
  bool parking;       /* set by a wait right before it yields: this yield is for the scheduler, not for a consumer */
  bool job_told;       /* its tasks have been cancelled */
  int rested_kib;      /* a worker's: what Lua held when it was last collected because it was idle; 0: never */
  bool is_worker;      /* not the main state: process-wide things are not its own */
  bool in_uv; /* inside uv_run: what makes a task ready now must keep libuv from sleeping */
  bool closing;
  bool in_state; /* this struct lies in a userdata: nobody is there to free it after lua_close */
  struct { /* loop/package_path.c's: registry references, and the addresses of the strings that were there last */
    int table, keys[2], seen_refs[2];
    const void *seen[2];
  } package_path;
  char *placement; /* rules of where functions run (core/placement.h); owned, NULL: none */
  void (*follow_placement)(uns_runtime *runtime, lua_State *L, const char *rules); /* takes over others; may raise */
  struct uns_search_path *search_path; /* of the last call sent away: likely that of the next; one reference, or NULL */
  uns_spin spin;       /* before sleeping, where news is expected */
};

/*
 * Makes the loop of `L`, the state's main thread. NULL with errno set. Raises nothing.
 *   in_state  the state is somebody else's, who closes it: the runtime's memory is the state's, and must be `free`d, as all
 *             but that memory is, before lua_close has come to what is older; such finalizers may still call our functions
 */
uns_runtime *uns_runtime_new(lua_State *L, struct uns_executors *executors, bool in_state);
/* Before lua_close: forgets all tasks; those still alive never run again. Finalizers may still use futures. */
void uns_runtime_close(uns_runtime *runtime);
/* After lua_close (or where the state was never used, or `in_state`): closes every uv handle and the mailbox. NULL is
   allowed. */
void uns_runtime_free(uns_runtime *runtime);
/* The runtime of a state, or NULL. From any of its Lua threads; a registry look-up. */
uns_runtime *uns_runtime_of(lua_State *L);

/*
 * One turn. With `wait` it sleeps until something happens, if nothing was ready. Returns false if nothing was done
 * and nothing can ever happen (no ready task, timer, live handle, mail or message under way).
 */
bool uns_runtime_turn(uns_runtime *runtime, bool wait);
/* False if nothing is ready and nothing can ever happen: what a turn that waits would return. */
bool uns_runtime_hopeful(uns_runtime *runtime);

/*
 * For a loop that is turned from outside, without waits: before its thread sleeps elsewhere. From here to `awake`, news
 * makes uv_backend_fd of the loop readable. May run callbacks of nested loops. Returns for how many milliseconds it may
 * sleep: 0 if a turn is due now (then there is nothing to undo), -1 without end.
 */
int uns_runtime_fall_asleep(uns_runtime *runtime);
void uns_runtime_awake(uns_runtime *runtime);

/* When this turn began, on uns_clock_ns; its own thread. */
static inline uint64_t uns_runtime_turn_ns(const uns_runtime *runtime) {
  return atomic_load_explicit(&runtime->turn_ns, memory_order_relaxed);
}

/* To whoever waits for the loop to do something again. */
static inline void uns_runtime_tell_awake(uns_runtime *runtime) {
  void (*told)(uns_runtime *) = atomic_load_explicit(&runtime->awake, memory_order_relaxed);
  if (told != NULL) told(runtime);
}

/* A call or a second task was started, or a handle: see `company`. */
static inline void uns_runtime_has_company(uns_runtime *runtime) {
  if (runtime->company != NULL) runtime->company(runtime);
}

/*
 * There is something to do in the next turn. libuv runs timers before it sleeps, so one of its callbacks may find work
 * when the time to sleep is already settled: then the sleep is called off.
 */
static inline void uns_runtime_stir(uns_runtime *runtime) {
  if (runtime->in_uv) uv_stop(&runtime->loop);
}

/* Tells what went wrong, a text in lines, to whoever wants to know, else to stderr. */
void uns_runtime_report(uns_runtime *runtime, const char *text);

/* A question to another state is under way, and has been answered. */
static inline void uns_runtime_ask(uns_runtime *runtime) {
  runtime->pending++;
  runtime->asked++;
}
static inline void uns_runtime_answered(uns_runtime *runtime) {
  runtime->pending--;
  runtime->asked--;
}

/* Runs `callback` in the next turn, once, however often this is called before. */
void uns_runtime_call_soon(uns_runtime *runtime, uns_callback *callback);

/* "file:line" of what runs on `L`, our own code left out, for as long as the state lives. NULL: there is none, or no memory. */
const char *uns_runtime_site(uns_runtime *runtime, lua_State *L);

/* A copy of `name` that lives as long as the state: names of functions are few. Raises without memory. */
const char *uns_runtime_intern(uns_runtime *runtime, lua_State *L, const char *name);

/* Anchors the value on top of L's stack (popped) until unpinned; a small number. */
int uns_runtime_pin(uns_runtime *runtime, lua_State *L);
/* The same for those who must not raise: 0, and the value is lost, where there is no memory. */
int uns_runtime_try_pin(lua_State *L);
/* Pushes what `pin` anchors. */
void uns_runtime_push_pin(uns_runtime *runtime, lua_State *L, int pin);
void uns_runtime_unpin(uns_runtime *runtime, int pin);
/* Pushes the table of all that is pinned, by pin. For looking only. */
void uns_runtime_push_pins(uns_runtime *runtime, lua_State *L);

/* loop/wait.c: forgets where tasks were started. */
void uns_sites_deinit(uns_runtime *runtime);
/* loop/cancel.c: frees the scopes kept for the next ones. */
void uns_cancel_scopes_deinit(uns_runtime *runtime);
/* loop/task.c: forgets all tasks, live and idle, when the runtime ends. */
void uns_tasks_deinit(uns_runtime *runtime);

/* What the time is to the script of this state: that of the test clock, where there is one. */
uint64_t uns_test_clock_now_ns(const struct uns_test_clock *clock);
static inline uint64_t uns_now_ns(const uns_runtime *runtime) {
  return __builtin_expect(runtime->test_clock == NULL, 1) ? uns_clock_ns() : uns_test_clock_now_ns(runtime->test_clock);
}

/* Timers. `arm` re-arms. 0 or UNS_ENOMEM. A timer never fires before its deadline. */
void uns_timer_init(uns_timer *timer, void (*fire)(uns_timer *, uns_runtime *));
/* The same for one whose deadlines are on uns_clock_ns, whatever a test clock says. */
void uns_timer_init_real(uns_timer *timer, void (*fire)(uns_timer *, uns_runtime *));
int uns_timer_arm(uns_runtime *runtime, uns_timer *timer, uint64_t deadline_ns);
void uns_timer_disarm(uns_runtime *runtime, uns_timer *timer);
static inline bool uns_timer_armed(const uns_timer *timer) { return timer->where != 0; }
/* loop/timer.c, for the turn: fires what was due when it began, and says if that was anything. */
void uns_timers_run(uns_runtime *runtime, bool *fired);
/* The same without firing any: 0 if one is due. */
uint64_t uns_timers_left(const uns_runtime *runtime);

/* loop/shuffle.c: orders the tasks of `batch`, a list of ready ones, by the dice of runtime->shuffle. */
void uns_shuffle(uns_runtime *runtime, uns_link *batch);

#endif
