/*
 * unsync.h: a Lua host in which any function can be awaited, inside your own program.
 *
 *     #include <unsync.h>
 *
 *     unsync_host *host;
 *     if (unsync_host_new(&host, NULL) != 0) return 1;
 *     if (unsync_host_run(host, "script.lua", 0, NULL, 0) != 0) fputs(unsync_host_error(host), stderr);
 *     unsync_host_free(host);
 *
 *     cc program.c $(pkg-config --cflags --libs unsync)
 *
 * What always holds:
 *   - A host is one Lua state with its loop, its threads and its worker processes. Several may live in one process, on
 *     one thread or on several: the library has no mutable global.
 *   - A host belongs to the thread that made it. What any thread may call says so.
 *   - Worker processes are the `unsync` program, started afresh: your program is never forked.
 *   - No signal is taken and no handler installed, but the one that interrupts a pool thread's own call.
 *   - Strings passed in are copied, or used only until the call returns; strings handed out say how long they last.
 *
 * Two ways to go: `run` and `call` turn the host's loop until it is done. Or your own loop does that: `start`, then `turn`
 * whenever unsync_host_fd is readable or unsync_host_timeout_ms has passed.
 */
#ifndef UNSYNC_H
#define UNSYNC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UNSYNC_VERSION "0.1.0"
#define UNSYNC_API __attribute__((visibility("default")))

/* Of the library that runs, which may be another than this header's. Static. Any thread. */
UNSYNC_API const char *unsync_version(void);

/* --- codes: 0, where all went well, or one of these ----------------------------------------------------------------- */

enum {
  UNSYNC_AGAIN = 1,      /* unsync_host_turn: there is more to come */
  UNSYNC_ENOMEM = -1,    /* no memory */
  UNSYNC_EINVAL = -2,    /* an argument that cannot be; nothing was done */
  UNSYNC_ESCRIPT = -3,   /* an error was raised, or a task failed and nobody looked: unsync_host_error has the text */
  UNSYNC_ETIMEDOUT = -4, /* the limit has passed */
  UNSYNC_EBUSY = -5,     /* the host runs something already, or the call comes from inside its own script */
  UNSYNC_ECLOSED = -6,   /* after a time-out whose tasks did not end: the host can only be freed */
  UNSYNC_ETHREAD = -7,   /* not the thread that made the host */
  UNSYNC_ESYSTEM = -8,   /* a system call failed: errno says how */
  UNSYNC_ESTUCK = -9     /* unsync_host_free: a thread stands in foreign code; what it may touch was left to it */
};

/* What a code means, in words. Static. Any thread. */
UNSYNC_API const char *unsync_code_text(int code);

/* --- making and freeing a host -------------------------------------------------------------------------------------- */

typedef struct unsync_host unsync_host;
struct lua_State;

/*
 * All zero, but `size`, is the default:
 *     unsync_options options = {.size = sizeof options};
 */
typedef struct unsync_options {
  size_t size;         /* of this struct, as you were compiled: so it may grow */
  const char *program; /* the unsync program, for worker processes. NULL: beside the library, or in its tree's bin/. The
                          environment's UNSYNC_WORKER goes before either */
  const char *script_directory; /* whose plugins/ is looked through for native tasks; NULL: none */
  int cores;           /* how many to use; 0: all that this process may */
  int threads;         /* calls running in threads at once, as long as they do not block; 0: as many as cores */
  int threads_max;     /* the same, however many block; 0: 1024 */
  int processes;       /* worker processes; 0: as many as cores */
  int grace_ms;        /* for threads and processes to end in, when they are told to; 0: 500 */
  /*
   * A lua_CFunction, called in the script's state, and in each that a thread of this process gets: to register functions
   * of your own. Its arguments: `context` (light userdata), and whether this is a thread's (boolean). It may raise, and
   * may not wait. In threads it is called on those. Worker processes do not know it.
   */
  int (*setup)(struct lua_State *L);
  /*
   * Told, one by one, of errors that end the script, failures that nobody looked at, and a `setup` that raised. Without
   * a zero byte or a newline at its end; gone when it returns. On the host's thread, but for a `setup` in a thread: there.
   * It must not use the host. NULL: what comes while something runs is only kept for unsync_host_error, the rest
   * goes to stderr.
   */
  void (*report)(void *context, const char *text);
  void *context;       /* for both; borrowed until the host is freed */
} unsync_options;

/*
 * Makes a host with its Lua state, which has Lua's whole library and `require "unsync"`. Threads and processes are
 * started when they are first needed.
 *   options  NULL: the default
 * Returns 0 and the host, yours to free; or UNSYNC_ENOMEM, UNSYNC_EINVAL (a size or a number that cannot be), UNSYNC_ESYSTEM
 * (as out of descriptors), UNSYNC_ESCRIPT (`setup` raised: `report`, or stderr, was told), and `*host` is NULL.
 * Thread: any; the host is that one's.
 */
UNSYNC_API int unsync_host_new(unsync_host **host, const unsync_options *options);

/*
 * Ends the host: what it still does is dropped. Calls in threads are cancelled and get the grace period to end in; so
 * are its processes.
 * Finalizers of the script's objects run. NULL is allowed.
 * Returns 0; UNSYNC_ESTUCK (a thread did not end: what it may use stays in memory, the Lua state too, and the host is
 * gone all the same); UNSYNC_EBUSY or UNSYNC_ETHREAD (nothing was done).
 * Thread: the host's.
 */
UNSYNC_API int unsync_host_free(unsync_host *host);

/* --- running -------------------------------------------------------------------------------------------------------- */

/*
 * Runs a script until it and every task it started have ended.
 *   path        of the file; NULL: standard input
 *   argv        `argc` strings, the script's arg[1..argc] and its `...`; borrowed until this returns; NULL where 0
 *   timeout_ms  limit for the whole run, on the monotonic clock; 0 is none
 * Returns 0, UNSYNC_ESCRIPT (also: a file that cannot be read, a syntax error), UNSYNC_ETIMEDOUT, UNSYNC_EBUSY, UNSYNC_ECLOSED,
 * UNSYNC_ETHREAD, UNSYNC_EINVAL. Nothing to free on any of them.
 *
 * On the limit all live tasks are cancelled, and have the grace period for their clean-up. If they have ended by then, the
 * host is as good as before; if not (a call in a thread that nobody awaits cannot be cancelled), it can only be freed.
 * A script that computes without ever waiting is not interrupted: the limit shows at its next wait.
 * Thread: the host's.
 */
UNSYNC_API int unsync_host_run(unsync_host *host, const char *path, int argc, const char *const argv[],
                               uint64_t timeout_ms);

/*
 * The same for a script in memory.
 *   code  `size_bytes` of source or of a binary chunk (never one from a source you do not trust: Lua does not verify them)
 *   name  for messages and tracebacks: "@file.lua", "=name", or the code itself; NULL: "=(string)"
 */
UNSYNC_API int unsync_host_run_string(unsync_host *host, const char *code, size_t size_bytes, const char *name, int argc,
                                      const char *const argv[], uint64_t timeout_ms);

/*
 * lua_pcall, but the function may wait: it runs as a task, and the loop is turned until that has ended. Other tasks go on
 * meanwhile, and may go on after it.
 *   on the stack of unsync_host_lua: the function, `argument_count` arguments. All are popped.
 *   result_count  as for lua_pcall: this many results are pushed; -1 (LUA_MULTRET): all
 *   timeout_ms    0 is none; on the limit the task is cancelled
 * Returns 0; UNSYNC_ESCRIPT (the error is pushed; its text is in unsync_host_error too); UNSYNC_ETIMEDOUT (nothing is pushed); or
 * UNSYNC_EBUSY, UNSYNC_ECLOSED, UNSYNC_ETHREAD, UNSYNC_EINVAL, with the stack as it was. May be called while a started script goes on, but
 * not from inside.
 * Thread: the host's.
 */
UNSYNC_API int unsync_host_call(unsync_host *host, int argument_count, int result_count, uint64_t timeout_ms);

/*
 * What went wrong in the last run, start to end, or call: messages with tracebacks, one below the other. "" if nothing.
 * Valid until the next run, start or call, or the host's end. Thread: the host's.
 */
UNSYNC_API const char *unsync_host_error(const unsync_host *host);

/*
 * The script's state, its main thread: for lua.h, in callbacks of `setup` and `post` and between two turns, to set globals, to
 * register functions, to look at what a script left. A function called from here by lua_pcall may start tasks, but not
 * wait: for that there is unsync_host_call. The host owns it: never close it. Thread: the host's.
 */
UNSYNC_API struct lua_State *unsync_host_lua(unsync_host *host);

/* --- your own loop ---------------------------------------------------------------------------------------------------- */

/*
 * Starts a script, which runs until it first waits; the rest comes with the turns. Arguments as for unsync_host_run and
 * unsync_host_run_string. Returns 0 even where the script has failed already: the turns end with that.
 * Or UNSYNC_EBUSY (another goes on), UNSYNC_ECLOSED, UNSYNC_ETHREAD, UNSYNC_EINVAL, UNSYNC_ENOMEM. Thread: the host's.
 */
UNSYNC_API int unsync_host_start(unsync_host *host, const char *path, int argc, const char *const argv[]);
UNSYNC_API int unsync_host_start_string(unsync_host *host, const char *code, size_t size_bytes, const char *name,
                                        int argc, const char *const argv[]);

/*
 * Does what is ready, and never sleeps. Call it when unsync_host_fd is readable, when unsync_host_timeout_ms has passed, and
 * after you have called into the state yourself. Too often does no harm.
 * Returns UNSYNC_AGAIN while a started script, or any task, goes on. Where the script and all that it started have ended:
 * once 0 or UNSYNC_ESCRIPT, as its run would have, after that 0. Or UNSYNC_EBUSY, UNSYNC_ECLOSED, UNSYNC_ETHREAD. Thread: the host's.
 */
UNSYNC_API int unsync_host_turn(unsync_host *host);

/*
 * For poll, epoll, or another loop's watcher: readable when a turn is due. The same for the host's whole life; the host's:
 * never read from it, never close it. Any thread.
 */
UNSYNC_API int unsync_host_fd(const unsync_host *host);

/*
 * For how many milliseconds you may sleep for unsync_host_fd before the next turn: 0 not at all, -1 without end. Ask after
 * each turn. Thread: the host's.
 */
UNSYNC_API int unsync_host_timeout_ms(const unsync_host *host);

/*
 * Asks all live tasks to stop: each gets the error `cancelled` at its wait. They end in the turns that follow. Callable from
 * inside, too. Returns 0 or UNSYNC_ETHREAD. Thread: the host's.
 */
UNSYNC_API int unsync_host_cancel(unsync_host *host);

/*
 * Somebody outside of the host may yet settle what its tasks wait for: as long as it is held, nothing is a deadlock, and
 * a run does not end. Counted: one `release` for each. Thread: the host's.
 */
UNSYNC_API int unsync_host_hold(unsync_host *host);
UNSYNC_API int unsync_host_release(unsync_host *host);

/*
 * Has `function` called on the host's thread in its next turn, with the script's state: how another thread hands in what it
 * has. It may use all of lua.h, raise (`report` is told), start tasks and settle promises; it may not wait.
 * Where the host ends before, it is called once with a NULL state, in any thread, so that it can free `context`.
 * Returns 0 or UNSYNC_ENOMEM. The host must be alive: that is the caller's to know, and `hold` helps.
 * Any thread.
 */
UNSYNC_API int unsync_host_post(unsync_host *host, void (*function)(struct lua_State *L, void *context), void *context);

#ifdef __cplusplus
}
#endif

#endif
