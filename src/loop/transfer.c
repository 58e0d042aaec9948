#include "loop/transfer_inside.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>

#include "core/packet.h"

enum {
  ACTIVE_MAX = 1024, /* transfers in libcurl's hands, descriptors permitting: each costs it about 40 KB */
  ACTIVE_MIN = 4,
  DESCRIPTORS_SPARED = 64, /* left to the rest of the program */
  RESOLVING_MAX = 32,      /* transfers that look up a name: a thread and two descriptors each */
  IDLE_MS = 4000,          /* without a request for so long, connections are closed */
  RESERVE_MAX = 64 << 20,  /* believed of a Content-Length: memory asked for before the bytes are there */
  BODY_FIRST = 4096
};

static void run_waiting(uns_http *http);

/*
 * Writing to a connection that the other side has closed raises SIGPIPE (OpenSSL uses plain writes). A program that
 * has not taken care of that must not end by it: the signal is held back from this thread, and taken.
 */
static bool pipe_guarded(uns_http *http, sigset_t *before) {
  if (!http->guard_pipe) return false;
  sigset_t pipe_only, waiting;
  sigemptyset(&pipe_only);
  sigaddset(&pipe_only, SIGPIPE);
  sigpending(&waiting);
  if (sigismember(&waiting, SIGPIPE)) return false; /* somebody else's */
  return pthread_sigmask(SIG_BLOCK, &pipe_only, before) == 0;
}

static void pipe_unguard(const sigset_t *before) {
  sigset_t pipe_only;
  sigemptyset(&pipe_only);
  sigaddset(&pipe_only, SIGPIPE);
  const struct timespec at_once = {0, 0};
  while (sigtimedwait(&pipe_only, NULL, &at_once) < 0 && errno == EINTR) continue;
  pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* ---- what comes ---- */

/* Makes room for `more` bytes in a growing buffer, at least `first` in all. */
static bool reserve(char **buffer, size_t *capacity, size_t size, size_t more, size_t first) {
  if (more <= *capacity - size) return true;
  if (more > SIZE_MAX / 2 - size) return false;
  size_t wanted = *capacity < SIZE_MAX / 2 ? *capacity * 2 : size + more;
  if (wanted < size + more) wanted = size + more;
  if (wanted < first) wanted = first;
  char *grown = uns_realloc(*buffer, wanted);
  if (grown == NULL) return false;
  *buffer = grown;
  *capacity = wanted;
  return true;
}

static size_t on_header(char *line, size_t one, size_t count, void *transfer_) {
  uns_transfer *mine = transfer_;
  size_t size = one * count;
  if (size > 5 && strncasecmp(line, "HTTP/", 5) == 0) { /* a further response: after a 100, a redirect */
    mine->head_size = mine->body_size = 0;
    const char *status = memchr(line, ' ', size);
    bool see_other = status != NULL && (size_t)(line + size - status) > 3 && memcmp(status + 1, "303", 3) == 0;
    if (see_other && mine->method_is_custom) { /* is followed with GET, whatever it was */
      mine->method_is_custom = false;
      uns_curl.easy_setopt(mine->easy, CURLOPT_CUSTOMREQUEST, (char *)NULL);
    }
  }
  if (size > UNS_TRANSFER_HEAD_MAX - mine->head_size) {
    mine->head_too_big = true;
    return 0;
  }
  if (!reserve(&mine->head, &mine->head_capacity, mine->head_size, size, 1024)) {
    mine->broken = UV_ENOMEM;
    return 0;
  }
  memcpy(mine->head + mine->head_size, line, size);
  mine->head_size += size;
  return size;
}

static size_t on_body(char *bytes, size_t one, size_t count, void *transfer_) {
  uns_transfer *mine = transfer_;
  size_t size = one * count;
  if (size > mine->body_max - mine->body_size) {
    mine->too_big = true;
    return 0;
  }
  size_t first = BODY_FIRST;
  if (mine->body_capacity == 0) {
    curl_off_t announced = 0;
    uns_curl.easy_getinfo(mine->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
    if (announced > RESERVE_MAX) announced = RESERVE_MAX;
    if (announced > 0) first = (size_t)announced;
  }
  if (!reserve(&mine->body, &mine->body_capacity, mine->body_size, size, first)) {
    mine->broken = UV_ENOMEM;
    return 0;
  }
  memcpy(mine->body + mine->body_size, bytes, size);
  mine->body_size += size;
  return size;
}

/* ---- the end of a transfer ---- */

void uns_transfer_release(uns_transfer *transfer) {
  uns_http *http = transfer->http;
  if (http != NULL) {
    transfer->http = NULL;
    uns_timer_disarm(http->runtime, &transfer->timer);
    uns_list_remove(&transfer->link);
    if (transfer->resolving) http->resolving--;
    if (transfer->active) {
      sigset_t before;
      bool guarded = pipe_guarded(http, &before);
      uns_curl.multi_remove_handle(http->multi, transfer->easy);
      if (guarded) pipe_unguard(&before);
      http->active_count--;
    }
    transfer->active = transfer->resolving = false;
    http->runtime->pending--;
    http->runtime->pending_io--;
    long number = 0; /* an errno stays in its handle: it would be taken for that of the next transfer */
    uns_curl.easy_getinfo(transfer->easy, CURLINFO_OS_ERRNO, &number);
    if (number == 0 && http->spare_count < UNS_HTTP_SPARE_MAX) {
      uns_curl.easy_reset(transfer->easy);
      http->spares[http->spare_count++] = transfer->easy;
      transfer->easy = NULL;
    }
  }
  if (transfer->easy != NULL) uns_curl.easy_cleanup(transfer->easy);
  if (transfer->headers != NULL) uns_curl.slist_free_all(transfer->headers);
  uns_free(transfer->head);
  uns_free(transfer->body);
  transfer->easy = NULL;
  transfer->headers = NULL;
  transfer->head = transfer->body = NULL;
}

/* It is over: tells whoever asked. Off the lists first, so that what runs meanwhile finds it ended. */
static void over(uns_transfer *transfer, uns_transfer_end end, CURLcode result) {
  uns_list_remove(&transfer->link);
  transfer->ended(transfer, end, result);
}

static void on_deadline(uns_timer *timer, uns_runtime *runtime) {
  over(uns_container_of(timer, uns_transfer, timer), UNS_TRANSFER_LATE, CURLE_OK);
  run_waiting(runtime->http);
}

uns_transfer *uns_transfer_find(uns_runtime *runtime, bool (*matches)(const uns_transfer *, const void *),
                                const void *what) {
  uns_http *http = runtime->http;
  if (http == NULL) return NULL;
  uns_link *const lists[] = {&http->active, &http->waiting};
  for (int i = 0; i < 2; i++) {
    for (uns_link *link = lists[i]->next; link != lists[i]; link = link->next) {
      uns_transfer *transfer = uns_container_of(link, uns_transfer, link);
      if (matches(transfer, what)) return transfer;
    }
  }
  return NULL;
}

/* ---- the multi handle ---- */

uns_transfer *uns_http_transfer_of(CURL *easy) {
  char *private = NULL;
  uns_curl.easy_getinfo(easy, CURLINFO_PRIVATE, &private);
  return (uns_transfer *)(void *)private;
}

static void on_idle(uv_timer_t *timer);

/*
 * Connections to nobody in particular hold descriptors, here and there, and a server in the script's own program open:
 * after a while they are closed.
 */
static void expect_idle(uns_http *http) {
  if (http->active_count != 0 || http->multi == NULL) return;
  uv_update_time(&http->runtime->loop);
  uv_timer_start(&http->timers->idle, on_idle, IDLE_MS, 0);
}

static void close_multi(uns_http *http) {
  if (http->multi == NULL) return;
  uv_timer_stop(&http->timers->wanted);
  uv_timer_stop(&http->timers->idle);
  sigset_t before;
  bool guarded = pipe_guarded(http, &before);
  uns_curl.multi_cleanup(http->multi);
  if (guarded) pipe_unguard(&before);
  http->multi = NULL;
  while (http->spare_count > 0) uns_curl.easy_cleanup(http->spares[--http->spare_count]);
}

static void on_idle(uv_timer_t *timer) {
  uns_http *http = timer->data;
  if (http->active_count == 0) close_multi(http);
}

static void set_limit(uns_http *http, size_t limit) {
  http->limit = limit;
  /* Kept connections count too: libcurl closes the oldest idle one when it needs another beyond the limit. */
  if (http->multi != NULL) uns_curl.multi_setopt(http->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)limit);
}

static bool open_multi(uns_http *http) {
  if (http->multi != NULL) return true;
  http->multi = uns_curl.multi_init();
  if (http->multi == NULL) return false;
  uns_http_watch(http);
  uns_curl.multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)http->most);
  set_limit(http, http->limit);
  return true;
}

/* Ends those that something could not be done for. */
static void end_broken(uns_http *http) {
  http->breakage = false;
  for (uns_link *link = http->active.next; link != &http->active;) {
    uns_transfer *mine = uns_container_of(link, uns_transfer, link);
    link = link->next;
    if (mine->broken == 0) continue;
    over(mine, UNS_TRANSFER_BROKEN, CURLE_OK);
    link = http->active.next; /* whatever is left of the list */
  }
}

/* Takes a transfer that found no descriptor back to the head of the line, where another's end can help, or our own. */
static bool requeue(uns_transfer *mine) {
  uns_http *http = mine->http;
  bool alone = http->active_count == 1;
  if (!mine->starved || (alone && mine->retried)) return false;
  uns_curl.multi_remove_handle(http->multi, mine->easy);
  mine->active = mine->starved = false;
  mine->retried = alone;
  mine->socket_error = 0;
  mine->text[0] = '\0';
  uns_list_remove(&mine->link);
  uns_list_push_front(&http->waiting, &mine->link);
  http->active_count--;
  if (alone) close_multi(http);
  else set_limit(http, http->active_count); /* so many there is room for */
  return true;
}

static void take_ended(uns_http *http) {
  CURLMsg *message;
  int left;
  while (http->multi != NULL && (message = uns_curl.multi_info_read(http->multi, &left)) != NULL) {
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode result = message->data.result;
    uns_transfer *mine = uns_http_transfer_of(message->easy_handle);
    if (result == CURLE_COULDNT_CONNECT && requeue(mine)) continue;
    if (http->limit < http->most) set_limit(http, http->limit + 1);
    over(mine, UNS_TRANSFER_ANSWERED, result);
  }
  if (http->breakage) end_broken(http);
}

void uns_http_act(uns_http *http, curl_socket_t fd, int events) {
  int running;
  sigset_t before;
  bool guarded = pipe_guarded(http, &before);
  uns_curl.multi_socket_action(http->multi, fd, events, &running);
  if (guarded) pipe_unguard(&before);
  take_ended(http);
  run_waiting(http);
}

/* Hands those that wait to libcurl, as many as may be. */
static void run_waiting(uns_http *http) {
  while (!uns_list_empty(&http->waiting) && http->active_count < http->limit) {
    uns_transfer *mine = uns_container_of(http->waiting.next, uns_transfer, link);
    if (mine->resolves && http->resolving >= RESOLVING_MAX) break;
    uns_list_remove(&mine->link);
    uns_list_push_back(&http->active, &mine->link);
    CURLMcode code = open_multi(http) ? uns_curl.multi_add_handle(http->multi, mine->easy) : CURLM_OUT_OF_MEMORY;
    if (code != CURLM_OK) {
      mine->broken = code == CURLM_OUT_OF_MEMORY ? UV_ENOMEM : UV_EINVAL;
      over(mine, UNS_TRANSFER_BROKEN, CURLE_OK);
      continue;
    }
    mine->active = true;
    http->active_count++;
    mine->resolving = mine->resolves;
    if (mine->resolves) http->resolving++;
    uv_timer_stop(&http->timers->idle);
  }
  expect_idle(http);
}

static void on_timer_closed(uv_handle_t *handle) {
  uns_http_timers *timers = handle->data;
  if (--timers->open == 0) uns_free(timers);
}

/* The runtime ends: nothing is settled any more. */
static void http_close(uns_closer *closer, uns_runtime *runtime) {
  uns_http *http = uns_container_of(closer, uns_http, closer);
  uns_link *const lists[] = {&http->waiting, &http->active};
  for (int i = 0; i < 2; i++) {
    while (!uns_list_empty(lists[i])) uns_transfer_release(uns_container_of(lists[i]->next, uns_transfer, link));
  }
  close_multi(http);
  while (http->spare_count > 0) uns_curl.easy_cleanup(http->spares[--http->spare_count]);
  uns_http_forget_sockets(http);
  http->timers->wanted.data = http->timers->idle.data = http->timers;
  uv_close((uv_handle_t *)&http->timers->wanted, on_timer_closed);
  uv_close((uv_handle_t *)&http->timers->idle, on_timer_closed);
  runtime->http = NULL;
  uns_free(http->sockets);
  uns_free(http);
}

static size_t limit_of_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return ACTIVE_MAX;
  rlim_t spared = limit.rlim_cur / 4 < DESCRIPTORS_SPARED ? limit.rlim_cur / 4 : DESCRIPTORS_SPARED;
  rlim_t share = (limit.rlim_cur - spared) / 4 * 3; /* a look-up and a connection's first moments need more than one */
  return share < ACTIVE_MIN ? ACTIVE_MIN : share > ACTIVE_MAX ? ACTIVE_MAX : (size_t)share;
}

bool uns_http_prepare(uns_runtime *runtime, const char **problem) {
  if (runtime->http != NULL) return true;
  if (!uns_curl_load(problem)) return false;
  uns_http *http = uns_calloc(1, sizeof *http);
  uns_http_timers *timers = uns_calloc(1, sizeof *timers);
  if (http == NULL || timers == NULL) {
    uns_free(http);
    uns_free(timers);
    *problem = "not enough memory";
    return false;
  }
  http->runtime = runtime;
  http->timers = timers;
  timers->open = 2;
  uv_timer_init(&runtime->loop, &timers->wanted);
  uv_timer_init(&runtime->loop, &timers->idle);
  timers->wanted.data = timers->idle.data = http;
  uv_unref((uv_handle_t *)&timers->wanted);
  uv_unref((uv_handle_t *)&timers->idle);
  uns_list_init(&http->active);
  uns_list_init(&http->waiting);
  http->limit = http->most = limit_of_descriptors();
  struct sigaction action;
  http->guard_pipe = sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL;
  http->closer.close = http_close;
  uns_list_push_back(&runtime->closers, &http->closer.link);
  runtime->http = http;
  return true;
}

/* ---- a transfer ---- */

void uns_transfer_init(uns_transfer *transfer, void (*ended)(uns_transfer *, uns_transfer_end, CURLcode)) {
  memset(transfer, 0, sizeof *transfer);
  uns_list_init(&transfer->link);
  uns_timer_init(&transfer->timer, on_deadline);
  transfer->ended = ended;
}

CURLcode uns_transfer_open(uns_transfer *transfer, uns_runtime *runtime) {
  uns_http *http = runtime->http;
  CURL *easy = http->spare_count > 0 ? http->spares[--http->spare_count] : uns_curl.easy_init();
  if (easy == NULL) return CURLE_OUT_OF_MEMORY;
  transfer->easy = easy;
  CURLcode code = CURLE_OK;
#define SET(option, value) (code = code != CURLE_OK ? code : uns_curl.easy_setopt(easy, option, value))
  SET(CURLOPT_PRIVATE, (char *)(void *)transfer);
  SET(CURLOPT_ERRORBUFFER, transfer->text);
  SET(CURLOPT_PROTOCOLS_STR, "http,https");
  SET(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  SET(CURLOPT_NOSIGNAL, 1L);
  SET(CURLOPT_HEADERFUNCTION, on_header);
  SET(CURLOPT_HEADERDATA, (void *)transfer);
  SET(CURLOPT_WRITEFUNCTION, on_body);
  SET(CURLOPT_WRITEDATA, (void *)transfer);
  SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
#undef SET
  if (code == CURLE_OK) code = uns_http_make_sockets(http, transfer);
  /* A transfer that is ended while it looks up a name would else hold the loop until the look-up has ended; a libcurl
     that does not know the option does that. */
  uns_curl.easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
  return code;
}

int uns_transfer_start(uns_transfer *transfer, uns_runtime *runtime, uint64_t deadline_ns) {
  uns_http *http = runtime->http;
  if (deadline_ns != 0 && uns_timer_arm(runtime, &transfer->timer, deadline_ns) != UNS_OK) return UNS_ENOMEM;
  transfer->http = http;
  runtime->pending++;
  runtime->pending_io++;
  uns_list_push_back(&http->waiting, &transfer->link);
  run_waiting(http);
  return UNS_OK;
}

void uns_http_rest(uns_runtime *runtime) {
  if (runtime->http != NULL && runtime->http->active_count == 0) close_multi(runtime->http);
}

void uns_http_run_waiting(uns_runtime *runtime) {
  if (runtime->http != NULL) run_waiting(runtime->http);
}
