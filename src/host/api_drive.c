/*
 * api_drive: a host of include/unsync.h whose turns are somebody else's: the program's own loop drives it, waits at its
 * descriptor, and posts to it from any thread.
 *
 * The host itself: api.c. What is run: api_run.c.
 */
#include <lauxlib.h>

#include "host/api_inside.h"
#include "loop/task.h"

/* ---- turns ---- */

static int start_for_turns(unsync_host *host, const uns_step *step, const char *script_name, int argc,
                           const char *const argv[]) {
  int status = uns_host_refusal(host);
  if (status == 0 && (host->run.going || host->has_ended)) status = UNSYNC_EBUSY;
  if (status != 0) return status;
  uns_host_enter(host);
  status = uns_host_begin(host, step, script_name, argc, argv);
  if (status == 0) host->has_ended = !host->run.going; /* a turn is to tell how */
  uns_host_leave(host);
  return status;
}

int unsync_host_start(unsync_host *host, const char *path, int argc, const char *const argv[]) {
  uns_step step = uns_host_file_step(path);
  return start_for_turns(host, &step, path != NULL ? path : "-", argc, argv);
}

int unsync_host_start_string(unsync_host *host, const char *code, size_t size_bytes, const char *name, int argc,
                             const char *const argv[]) {
  if (code == NULL && size_bytes > 0) return UNSYNC_EINVAL;
  uns_step step = uns_host_string_step(code, size_bytes, name);
  return start_for_turns(host, &step, step.name, argc, argv);
}

/* A turn where no script is on its way: what the last one left, or was started from outside. */
static int turn_rest(unsync_host *host) {
  uns_runtime_turn(host->runtime, false);
  if (uns_runtime_hopeful(host->runtime) || uns_task_raise_deadlock(host->runtime)) return UNSYNC_AGAIN;
  return 0;
}

int unsync_host_turn(unsync_host *host) {
  int status = uns_host_refusal(host);
  if (status != 0) return status;
  uns_host_enter(host);
  if (host->run.going) {
    status = uns_script_turn(&host->run, false) ? UNSYNC_AGAIN : uns_host_ended(host);
  } else if (host->has_ended) {
    host->has_ended = false;
    status = uns_host_ended(host);
  } else {
    status = turn_rest(host);
  }
  uns_host_leave(host);
  return status;
}

int unsync_host_fd(const unsync_host *host) { return uv_backend_fd(&host->runtime->loop); }

int unsync_host_timeout_ms(const unsync_host *host) {
  if (!host->asleep || host->has_ended) return 0;
  if (host->timeout_ms < 0) return -1;
  uint64_t passed_ms = (uns_clock_ns() - host->slept_ns) / 1000000;
  return passed_ms < (uint64_t)host->timeout_ms ? host->timeout_ms - (int)passed_ms : 0;
}

int unsync_host_cancel(unsync_host *host) {
  if (host == NULL) return UNSYNC_EINVAL;
  if (uns_host_wrong_thread(host)) return UNSYNC_ETHREAD;
  if (host->run.going) uns_script_cancel(&host->run);
  return 0;
}

/* It is awaited like a request of the loop's own: not worth a spin. */
int unsync_host_hold(unsync_host *host) {
  if (host == NULL) return UNSYNC_EINVAL;
  if (uns_host_wrong_thread(host)) return UNSYNC_ETHREAD;
  host->runtime->pending++;
  host->runtime->pending_io++;
  host->holds++;
  return 0;
}

int unsync_host_release(unsync_host *host) {
  if (host == NULL || host->holds == 0) return UNSYNC_EINVAL;
  if (uns_host_wrong_thread(host)) return UNSYNC_ETHREAD;
  host->runtime->pending--;
  host->runtime->pending_io--;
  host->holds--;
  return 0;
}

typedef struct {
  uns_mail mail;
  void (*function)(lua_State *L, void *context);
  void *context;
} post;

/* call(function and context, in a post on the caller's stack) */
static int call_posted(lua_State *L) {
  const post *posted = lua_touserdata(L, 1);
  lua_settop(L, 0);
  posted->function(L, posted->context);
  return 0;
}

static void on_post(uns_mail *mail, void *receiver) {
  post posted = *uns_container_of(mail, post, mail);
  uns_free(uns_container_of(mail, post, mail));
  uns_runtime *runtime = receiver;
  if (runtime == NULL) {
    posted.function(NULL, posted.context);
    return;
  }
  lua_State *L = runtime->L;
  if (!lua_checkstack(L, LUA_MINSTACK)) {
    uns_runtime_report(runtime, "not enough memory for what was posted");
    posted.function(NULL, posted.context);
    return;
  }
  const char *outer = runtime->callback_of;
  runtime->callback_of = "the embedding program";
  int top = lua_gettop(L);
  lua_pushcfunction(L, call_posted);
  lua_pushlightuserdata(L, &posted);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pushcfunction(L, uns_host_error_text);
    lua_insert(L, -2);
    bool fine = lua_pcall(L, 1, 1, 0) == LUA_OK;
    uns_runtime_report(runtime, fine ? lua_tostring(L, -1) : "(an error object whose tostring failed)");
  }
  lua_settop(L, top);
  runtime->callback_of = outer;
}

int unsync_host_post(unsync_host *host, void (*function)(struct lua_State *L, void *context), void *context) {
  if (host == NULL || function == NULL) return UNSYNC_EINVAL;
  post *posted = uns_malloc(sizeof *posted);
  if (posted == NULL) return UNSYNC_ENOMEM;
  *posted = (post){.mail = {.deliver = on_post}, .function = function, .context = context};
  uns_mailbox_post(host->runtime->mailbox, &posted->mail);
  return 0;
}
