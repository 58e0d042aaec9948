/*
 * api: include/unsync.h over the runtime: a host inside somebody else's program, its making and its end.
 *
 * What it runs and calls: api_run.c. Where that program's own loop drives it: api_drive.c. The program unsync does the
 * same with less: cli.c.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host/api_inside.h"
#include "host/program.h"
#include "host/state.h"

const char *unsync_version(void) { return UNSYNC_VERSION; }

const char *unsync_code_text(int code) {
  switch (code) {
    case 0: return "no error";
    case UNSYNC_AGAIN: return "there is more to come";
    case UNSYNC_ENOMEM: return "not enough memory";
    case UNSYNC_EINVAL: return "invalid argument";
    case UNSYNC_ESCRIPT: return "an error in the script";
    case UNSYNC_ETIMEDOUT: return "timeout";
    case UNSYNC_EBUSY: return "the host is busy";
    case UNSYNC_ECLOSED: return "the host has timed out and can only be freed";
    case UNSYNC_ETHREAD: return "not the host's thread";
    case UNSYNC_ESYSTEM: return "a system call failed";
    case UNSYNC_ESTUCK: return "a thread stands in foreign code";
    default: return "unknown code";
  }
}

/* ---- errors ---- */

void uns_host_forget_error(unsync_host *host) {
  uns_free(host->error);
  host->error = NULL;
  host->error_bytes = 0;
  host->lost_text = false;
}

void uns_host_keep_error(unsync_host *host, const char *text) {
  size_t size = strlen(text), gap = host->error_bytes > 0 ? 1 : 0;
  char *grown = uns_realloc(host->error, host->error_bytes + gap + size + 1);
  if (grown == NULL) {
    host->lost_text = true;
    return;
  }
  if (gap > 0) grown[host->error_bytes] = '\n';
  memcpy(grown + host->error_bytes + gap, text, size + 1);
  host->error = grown;
  host->error_bytes += gap + size;
}

const char *unsync_host_error(const unsync_host *host) {
  if (host->error != NULL) return host->error;
  return host->lost_text ? "an error, for whose text there was not enough memory" : "";
}

static void tell_stderr(const char *text) {
  fflush(stdout);
  fprintf(stderr, "unsync: %s\n", text);
}

/* The runtime's `report`. */
static void on_report(uns_runtime *runtime, const char *text) {
  unsync_host *host = runtime->owner;
  if (host->collecting) uns_host_keep_error(host, text);
  if (host->options.report != NULL) host->options.report(host->options.context, text);
  else if (!host->collecting) tell_stderr(text);
}

/* ---- states ---- */

/* Calls `setup`, if there is one. False after telling its error. */
static bool set_up(unsync_host *host, uns_runtime *runtime, bool is_thread) {
  if (host->options.setup == NULL) return true;
  lua_State *L = runtime->L;
  int top = lua_gettop(L);
  lua_pushcfunction(L, host->options.setup);
  lua_pushlightuserdata(L, host->options.context);
  lua_pushboolean(L, is_thread);
  bool fine = lua_pcall(L, 2, 0, 0) == LUA_OK;
  if (!fine) {
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error that is no string";
    lua_pushfstring(L, "the setup of a Lua state failed: %s", text);
    if (host->options.report != NULL) host->options.report(host->options.context, lua_tostring(L, -1));
    else tell_stderr(lua_tostring(L, -1));
    if (is_thread) uns_executors_state_problem(lua_tostring(L, -1));
  }
  lua_settop(L, top);
  return fine;
}

/* A thread's state. On that thread. */
static uns_runtime *new_state(uns_executors *executors) {
  uns_runtime *runtime = uns_state_new(executors);
  if (runtime == NULL || set_up(executors->owner, runtime, true)) return runtime;
  uns_state_free(runtime);
  errno = ECANCELED;
  return NULL;
}

/* ---- making and freeing ---- */

/* False if the caller was compiled against something that this library does not know. */
static bool read_options(unsync_options *read, const unsync_options *given) {
  memset(read, 0, sizeof *read);
  if (given == NULL) return true;
  if (given->size < sizeof given->size) return false;
  const char *bytes = (const char *)given;
  for (size_t i = sizeof *read; i < given->size; i++) {
    if (bytes[i] != 0) return false; /* an option from the future */
  }
  memcpy(read, given, given->size < sizeof *read ? given->size : sizeof *read);
  return read->cores >= 0 && read->threads >= 0 && read->threads_max >= 0 && read->processes >= 0 &&
         read->grace_ms >= 0;
}

static uns_executors *make_executors(unsync_host *host) {
  const unsync_options *options = &host->options;
  uns_executors *executors = uns_executors_new();
  if (executors == NULL) return NULL;
  executors->owner = host;
  executors->new_state = new_state;
  executors->free_state = uns_state_free;
  executors->program = uns_program_find(options->program);
  if (options->script_directory != NULL) executors->script_directory = uns_program_absolute(options->script_directory);
  if (options->cores > 0) executors->cores = options->cores;
  executors->thread_target = (uint32_t)(options->threads > 0 ? options->threads : executors->cores);
  executors->process_target = (uint32_t)(options->processes > 0 ? options->processes : executors->cores);
  if (options->threads_max > 0) executors->thread_max = (uint32_t)options->threads_max;
  if (options->grace_ms > 0) executors->grace_ns = (uint64_t)options->grace_ms * 1000000;
  /* Strings of the caller's are not looked at any more. */
  bool fine = options->script_directory == NULL || executors->script_directory != NULL;
  host->options.program = host->options.script_directory = NULL;
  if (fine) return executors;
  uns_executors_free(executors);
  return NULL;
}

int unsync_host_new(unsync_host **made, const unsync_options *options) {
  if (made == NULL) return UNSYNC_EINVAL;
  *made = NULL;
  int status = UNSYNC_ENOMEM;
  unsync_host *host = uns_calloc(1, sizeof *host);
  if (host == NULL) return UNSYNC_ENOMEM;
  if (!read_options(&host->options, options)) {
    status = UNSYNC_EINVAL;
    goto no_executors;
  }
  host->thread = uv_thread_self();
  host->executors = make_executors(host);
  if (host->executors == NULL) goto no_executors;
  host->runtime = uns_state_new(host->executors);
  if (host->runtime == NULL) {
    status = errno == ENOMEM ? UNSYNC_ENOMEM : UNSYNC_ESYSTEM;
    goto no_runtime;
  }
  host->runtime->owner = host;
  host->runtime->report = on_report;
  host->executors->main_runtime = host->runtime;
  if (!set_up(host, host->runtime, false)) {
    status = UNSYNC_ESCRIPT;
    goto no_setup;
  }
  *made = host;
  return 0;
no_setup:
  if (!uns_executors_free(host->executors)) return UNSYNC_ESCRIPT; /* `setup` has left a thread stuck: so is the rest */
  uns_state_free(host->runtime);
  uns_free(host);
  return status;
no_runtime : {
  int saved = errno;
  uns_executors_free(host->executors);
  errno = saved;
}
no_executors:
  uns_free(host);
  return status;
}

bool uns_host_wrong_thread(const unsync_host *host) {
  uv_thread_t self = uv_thread_self();
  return !uv_thread_equal(&self, &host->thread);
}

int uns_host_refusal(const unsync_host *host) {
  if (host == NULL) return UNSYNC_EINVAL;
  if (uns_host_wrong_thread(host)) return UNSYNC_ETHREAD;
  if (host->inside) return UNSYNC_EBUSY;
  return host->over ? UNSYNC_ECLOSED : 0;
}

static void wake_up(unsync_host *host) {
  if (!host->asleep) return;
  host->asleep = false;
  uns_runtime_awake(host->runtime);
}

void uns_host_enter(unsync_host *host) {
  host->inside = true;
  wake_up(host);
}

/* Out again: whatever happens from now on must be seen at the descriptor. */
void uns_host_leave(unsync_host *host) {
  host->timeout_ms = uns_runtime_fall_asleep(host->runtime);
  host->asleep = host->timeout_ms != 0;
  host->slept_ns = uns_clock_ns();
  host->inside = false;
}

int unsync_host_free(unsync_host *host) {
  if (host == NULL) return 0;
  int status = uns_host_refusal(host);
  if (status != 0 && status != UNSYNC_ECLOSED) return status;
  host->inside = true; /* finalizers */
  host->collecting = false;
  wake_up(host);
  uns_host_forget_error(host);
  /* A thread that is stuck may still use all that it knows: the executors, the host behind them, their states. */
  if (!uns_executors_free(host->executors)) return UNSYNC_ESTUCK;
  uns_state_free(host->runtime);
  uns_free(host);
  return 0;
}
