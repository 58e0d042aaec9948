/*
 * executors: everything that runs calls outside the script's own loop, for one host: the thread pool, the
 * worker processes, the supervisor, the plugins. Made on first need; ended in one place.
 */
#ifndef UNS_EXECUTORS_H
#define UNS_EXECUTORS_H

#include "exec/dispatch.h"
#include "loop/party.h"
#include "loop/runtime.h"

typedef struct uns_executors {
  uns_parties parties; /* the states of this process */
  uv_mutex_t lock; /* guards the making of what follows */
  struct uns_pool *pool;             /* exec/pool.h; NULL until the first thread call */
  struct uns_supervisor *supervisor; /* exec/supervisor.h; NULL until the first need */
  struct uns_silence *silence;       /* exec/silence.h; comes with it */
  struct uns_process_pool *processes; /* exec/process.h; NULL until the first cpu call; in a child: its link home */
  struct uns_registry *plugins;      /* exec/registry.h; NULL until the first */
  int cores;                 /* that this process may use */
  uint32_t thread_target;    /* running threads at first: `cores` */
  uint32_t thread_max;       /* ever: documented in docs/lua.md */
  uint32_t process_target;   /* worker processes: `cores` */
  uint64_t grace_ns;
  char *program;             /* the unsync program to start children from; owned */
  char *script_directory;    /* the script's own, for its plugins/; owned, or NULL: none. Children get the same */
  /* Makes a worker's Lua state with all libraries (host/state.c); NULL with errno set. The lua_State is owned by the
     runtime's user: uns_runtime_free, then lua_close. */
  uns_runtime *(*new_state)(struct uns_executors *executors);
  void (*free_state)(uns_runtime *runtime);
  uns_runtime *main_runtime; /* of the script's own state */
  /* A script has begun or ceased to watch signals through luv, which took their handlers, and left none behind: the program's own
     come back. Any thread; NULL: it has none. Set before any state is made. */
  void (*signals_changed)(void);
  void *owner; /* whoever made them: new_state may want to know */
  struct uns_recorder *recorder; /* core/recorder.h; NULL: nobody wants to know. Borrowed; set before the first call */
  struct uns_watchdog *watchdog; /* exec/watchdog.h; NULL until a loop has company */
  uint64_t stall_ns;  /* a loop that is held for so long is reported; 0: none is */
  bool stall_always;  /* though nothing may be due */
  bool closing;  /* nothing is made any more; guarded by `lock` */
  bool is_child; /* this process is a worker process */
  struct uns_channel_remote *channel_remote; /* in a worker process: the way to the host's channels; else NULL */
} uns_executors;

uns_executors *uns_executors_new(void);
/*
 * Ends all workers in order: nothing more is taken, what runs is told to stop, threads joined, children gone.
 * False if some thread could not be ended: it is stuck in foreign code. Then nothing that it may touch was freed and the
 * process must end without closing Lua states.
 */
bool uns_executors_free(uns_executors *executors);
/* The supervisor, made at first need; NULL with errno set. Any thread. */
struct uns_supervisor *uns_executors_supervisor(uns_executors *executors);

/* For a `new_state` about to return NULL: why, where errno cannot say it. Copied. */
void uns_executors_state_problem(const char *text);
/* Fails `job` because new_state has just returned NULL, on this thread, with what it said, else with errno. */
void uns_executors_fail_for_state(uns_job *job);

/*
 * Looks up the task that `function` names (native). False with a text, to be freed with uns_free (NULL: no memory).
 * Any thread; may load a file.
 */
bool uns_executors_find_native(uns_executors *executors, uns_function *function, char **error);

/*
 * Asks a job under way to stop. A queued one never runs and goes home cancelled; one that runs sees its flag. Home's
 * thread; the job may be gone afterwards.
 */
void uns_executors_cancel(uns_runtime *runtime, uns_job *job);

/* The one door: gives `job` to the executor its function names. Any thread. */
void uns_executors_submit(uns_executors *executors, uns_job *job);

/* exec/runner.c: runs `job` here and now in `runtime`, until all that it started has ended; fills in its outcome. */
void uns_runner_run(uns_runtime *runtime, uns_job *job);
/* A worker has been idle for UNS_REST_AFTER_MS: what its calls have left behind is collected, if that may be much. */
void uns_runner_rest(uns_runtime *runtime);
enum { UNS_REST_AFTER_MS = 50 }; /* several times what a large collection takes */

#endif
