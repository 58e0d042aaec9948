/*
 * api_inside: a host of include/unsync.h from inside, for those who make it up: api.c, api_run.c, api_drive.c.
 *
 *   - A host belongs to one thread. `post` is the way in for others: it only touches the mailbox.
 *   - `inside` is set as long as a call of ours is on the C stack: nothing that turns the loop may be called from there.
 *   - Between turns the loop is asleep, as its sources and its mailbox see it: so news makes its descriptor readable.
 * How a script runs: script.c.
 */
#ifndef UNS_API_INSIDE_H
#define UNS_API_INSIDE_H

#include "host/script.h"
#include "unsync.h"

struct unsync_host {
  unsync_options options;
  uns_executors *executors;
  uns_runtime *runtime; /* owned */
  uv_thread_t thread;   /* the host's */
  uns_step step;
  uns_script script;
  uns_run run;
  char *error; /* what went wrong, zero-terminated; owned; NULL: nothing, or no memory */
  size_t error_bytes;
  int timeout_ms; /* how long the loop may sleep, as of when it fell asleep at `slept_ns` */
  uint64_t slept_ns;
  unsigned holds;
  bool inside, collecting, asleep, over, has_ended;
  bool lost_text; /* there was no memory for an error's text */
};

/* ---- api.c ---- */

void uns_host_forget_error(unsync_host *host);
/* One more line, or several, below what is there. */
void uns_host_keep_error(unsync_host *host, const char *text);
bool uns_host_wrong_thread(const unsync_host *host);
/* Why the host cannot turn now, or 0. NULL is allowed. */
int uns_host_refusal(const unsync_host *host);
/* Around all that may turn the loop, where nothing refuses it. */
void uns_host_enter(unsync_host *host);
void uns_host_leave(unsync_host *host);

/* ---- api_run.c ---- */

/* Steps of a script; a path of NULL is standard input. What they point to is borrowed. */
uns_step uns_host_file_step(const char *path);
uns_step uns_host_string_step(const char *code, size_t size_bytes, const char *name);
/* Starts a run of the one step. It copies nothing: the texts are read before it returns, and not looked at again. 0,
   UNSYNC_EINVAL or UNSYNC_ENOMEM. */
int uns_host_begin(unsync_host *host, const uns_step *step, const char *script_name, int argc,
                   const char *const argv[]);
/* The run is over: what it comes to. */
int uns_host_ended(unsync_host *host);
/* A C function of Lua: tostring(error) -> string */
int uns_host_error_text(struct lua_State *L);

#endif
