/*
 * http: HTTP and HTTPS requests by libcurl, on the ambient loop, any number at once.
 *
 * One multi handle for each runtime, made at its first request. libcurl says which sockets and what time it waits for;
 * uv handles of ours wait for them and tell it; it says which transfers have ended; each settles a future.
 *   - Everything belongs to the runtime's thread, but `curl`, which is written once and then only read.
 *   - libcurl is not linked but loaded by the first request: linking it costs every start 3 ms and 5 MiB.
 *   - A request is a userdata, pinned while it is under way, which holds its future and its body. What has been opened
 *     for it is given back by `release`, in whatever state it is; Lua's collector calls that for one half made.
 *   - At most `limit` transfers are in libcurl's hands, so that a thousand at once fit into the limit of descriptors;
 *     the rest wait here, in order. Where there are none left all the same, the transfer waits for another's end.
 *   - libcurl must not be entered from its own callbacks: they only note what they see.
 * Arguments are checked and defaults set in lua/unsync/http.lua.
 */
#include "bind/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <lauxlib.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/error.h"
#include "core/packet.h"

#define REQUEST_TYPE "unsync.HttpRequest"
#define HEADERS_TYPE "unsync.HttpHeaders"
#define LIBRARY "libcurl.so.4"

enum {
  ACTIVE_MAX = 1024,      /* transfers in libcurl's hands, descriptors permitting: each costs it about 40 KB */
  ACTIVE_MIN = 4,
  DESCRIPTORS_SPARED = 64, /* left to the rest of the program */
  RESOLVING_MAX = 32,     /* transfers that look up a name: a thread and two descriptors each */
  SPARE_MAX = 64,         /* easy handles kept for the next requests: about 6 KB each */
  IDLE_MS = 30000,        /* without a request for so long, connections are closed */
  RESERVE_MAX = 64 << 20, /* believed of a Content-Length: memory asked for before the bytes are there */
  BODY_FIRST = 4096
};

/* ---- the library ---- */

typedef struct {
  CURLcode (*global_init)(long flags);
  CURL *(*easy_init)(void);
  void (*easy_cleanup)(CURL *easy);
  void (*easy_reset)(CURL *easy);
  CURLcode (*easy_setopt)(CURL *easy, CURLoption option, ...);
  CURLcode (*easy_getinfo)(CURL *easy, CURLINFO info, ...);
  const char *(*easy_strerror)(CURLcode code);
  CURLM *(*multi_init)(void);
  CURLMcode (*multi_cleanup)(CURLM *multi);
  CURLMcode (*multi_setopt)(CURLM *multi, CURLMoption option, ...);
  CURLMcode (*multi_add_handle)(CURLM *multi, CURL *easy);
  CURLMcode (*multi_remove_handle)(CURLM *multi, CURL *easy);
  CURLMcode (*multi_socket_action)(CURLM *multi, curl_socket_t fd, int events, int *running);
  CURLMsg *(*multi_info_read)(CURLM *multi, int *left);
  const char *(*multi_strerror)(CURLMcode code);
  struct curl_slist *(*slist_append)(struct curl_slist *list, const char *text);
  void (*slist_free_all)(struct curl_slist *list);
  CURLU *(*url)(void);
  void (*url_cleanup)(CURLU *parsed);
  CURLUcode (*url_set)(CURLU *parsed, CURLUPart part, const char *text, unsigned flags);
  CURLUcode (*url_get)(const CURLU *parsed, CURLUPart part, char **text, unsigned flags);
  const char *(*url_strerror)(CURLUcode code);
  void (*free)(void *text);
} curl_api;

#define SYMBOL(field) {"curl_" #field, offsetof(curl_api, field)}
static const struct {
  const char *name;
  size_t offset;
} symbols[] = {
    SYMBOL(global_init),     SYMBOL(easy_init),           SYMBOL(easy_cleanup),     SYMBOL(easy_reset),
    SYMBOL(easy_setopt),     SYMBOL(easy_getinfo),        SYMBOL(easy_strerror),    SYMBOL(multi_init),
    SYMBOL(multi_cleanup),   SYMBOL(multi_setopt),        SYMBOL(multi_add_handle), SYMBOL(multi_remove_handle),
    SYMBOL(multi_socket_action), SYMBOL(multi_info_read), SYMBOL(multi_strerror),   SYMBOL(slist_append),
    SYMBOL(slist_free_all),  SYMBOL(url),                 SYMBOL(url_cleanup),      SYMBOL(url_set),
    SYMBOL(url_get),         SYMBOL(url_strerror),        SYMBOL(free),
};

/* Of the process: written by `load` under the once, then read-only. */
static curl_api curl;
static uv_once_t load_once = UV_ONCE_INIT;
static bool loaded;
static char load_problem[256];

static void load(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    snprintf(load_problem, sizeof load_problem, "%s", dlerror());
    return;
  }
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *symbol = dlsym(library, symbols[i].name);
    if (symbol == NULL) {
      snprintf(load_problem, sizeof load_problem, "%s is too old: it has no %s", LIBRARY, symbols[i].name);
      return;
    }
    memcpy((char *)&curl + symbols[i].offset, &symbol, sizeof symbol);
  }
  /* OpenSSL would tear itself down at exit, under threads that may still be in it: it shall leave that to the kernel. */
  int (*init_crypto)(uint64_t options, const void *settings);
  void *symbol = dlsym(library, "OPENSSL_init_crypto");
  memcpy(&init_crypto, &symbol, sizeof symbol);
  if (init_crypto != NULL) init_crypto(UINT64_C(0x00080000) /* OPENSSL_INIT_NO_ATEXIT */, NULL);
  CURLcode code = curl.global_init(CURL_GLOBAL_DEFAULT);
  loaded = code == CURLE_OK;
  if (!loaded) snprintf(load_problem, sizeof load_problem, "%s: %s", LIBRARY, curl.easy_strerror(code));
}

/* ---- what there is in a runtime ---- */

typedef struct uns_http uns_http;

/* Freed by their closing. */
typedef struct {
  uv_timer_t wanted; /* what libcurl waits for */
  uv_timer_t idle;   /* what we close its connections after */
  int open;
} http_timers;

/* A socket that libcurl uses. Freed by its uv handle's closing. */
typedef struct {
  uv_poll_t poll;
  uns_http *http;
  curl_socket_t fd;
  int events; /* that libcurl waits for */
  bool ours; /* libcurl tells us when it closes it; else it goes when libcurl stops watching it */
} http_socket;

struct uns_http {
  uns_closer closer;
  uns_runtime *runtime;
  CURLM *multi;          /* NULL: closed for having been idle */
  http_timers *timers;   /* owned */
  http_socket **sockets; /* by descriptor; owned */
  size_t socket_capacity;
  uns_link active, waiting; /* requests, in order */
  size_t active_count;
  size_t limit, most;    /* how many may be active: now, where descriptors were short; and ever */
  size_t resolving;      /* active ones that may be looking up a name */
  bool doomed;           /* some active ones are */
  bool guard_pipe;       /* SIGPIPE would end the program */
  CURL *spares[SPARE_MAX];
  size_t spare_count;
};

/* User values: 1 the future, 2 the body that is sent, or nil. */
typedef struct {
  uns_link link;
  uns_http *http;          /* NULL: not under way */
  int pin;                 /* of the userdata itself, while under way */
  const uns_future *future;
  CURL *easy;              /* owned */
  struct curl_slist *headers; /* owned */
  char *method, *url;      /* owned; the URL without user and password */
  uns_timer timer;         /* the whole's deadline */
  double timeout_s;
  bool active;             /* in the multi */
  bool resolves;           /* a name must be looked up for it */
  bool resolving;          /* counted in http->resolving */
  bool method_is_custom;   /* until a redirect says GET */
  bool starved;            /* no descriptor was left for it */
  bool retried;            /* with all kept connections closed */
  bool too_big;
  int socket_error;        /* a libuv code: why there is no socket; libcurl may find another way; 0 */
  int doom;                /* a libuv code: what we could not do for libcurl, and so it cannot go on; 0 */
  char *head, *body;       /* owned: what came */
  size_t head_size, head_capacity, body_size, body_capacity, body_max;
  char address[80];        /* last tried, "127.0.0.1:80"; "" before */
  char text[CURL_ERROR_SIZE]; /* libcurl's words for what went wrong */
} request;

static void run_waiting(uns_http *http);
static void act(uns_http *http, curl_socket_t fd, int events);

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

/* ---- sockets and time, as libcurl wants them ---- */

static void on_socket_closed(uv_handle_t *handle) { uns_free(uns_container_of(handle, http_socket, poll)); }

static void on_socket(uv_poll_t *poll, int status, int events) {
  http_socket *socket = poll->data;
  int what = 0;
  if (status < 0) { /* libuv has stopped it; libcurl finds out itself what is wrong, by reading and writing */
    what = CURL_CSELECT_IN | CURL_CSELECT_OUT;
    uv_poll_start(poll, socket->events, on_socket);
  }
  if (events & UV_READABLE) what |= CURL_CSELECT_IN;
  if (events & UV_WRITABLE) what |= CURL_CSELECT_OUT;
  act(socket->http, socket->fd, what);
}

static http_socket *socket_of(uns_http *http, curl_socket_t fd) {
  return fd >= 0 && (size_t)fd < http->socket_capacity ? http->sockets[fd] : NULL;
}

/* Enters `fd`; NULL with a libuv code in `status`. */
static http_socket *socket_new(uns_http *http, curl_socket_t fd, bool ours, int *status) {
  *status = UV_ENOMEM;
  if ((size_t)fd >= http->socket_capacity) {
    size_t capacity = (size_t)fd * 2 + 16;
    http_socket **sockets = uns_realloc(http->sockets, capacity * sizeof *sockets);
    if (sockets == NULL) return NULL;
    memset(sockets + http->socket_capacity, 0, (capacity - http->socket_capacity) * sizeof *sockets);
    http->sockets = sockets;
    http->socket_capacity = capacity;
  }
  http_socket *socket = uns_calloc(1, sizeof *socket);
  if (socket == NULL) return NULL;
  *status = uv_poll_init_socket(&http->runtime->loop, &socket->poll, fd);
  if (*status != 0) {
    uns_free(socket);
    return NULL;
  }
  uv_unref((uv_handle_t *)&socket->poll); /* hope for whoever waits is runtime->pending */
  socket->poll.data = socket;
  socket->http = http;
  socket->fd = fd;
  socket->ours = ours;
  http->sockets[fd] = socket;
  return socket;
}

static void socket_forget(uns_http *http, http_socket *socket) {
  http->sockets[socket->fd] = NULL;
  uv_close((uv_handle_t *)&socket->poll, on_socket_closed);
}

static request *request_of(CURL *easy) {
  char *private = NULL;
  curl.easy_getinfo(easy, CURLINFO_PRIVATE, &private);
  return (request *)(void *)private;
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *http_, void *unused) {
  (void)unused;
  uns_http *http = http_;
  http_socket *socket = socket_of(http, fd);
  if (what == CURL_POLL_REMOVE) {
    if (socket == NULL) return 0;
    if (socket->ours) uv_poll_stop(&socket->poll);
    else socket_forget(http, socket);
    return 0;
  }
  int status = 0, events = 0;
  if (what & CURL_POLL_IN) events |= UV_READABLE;
  if (what & CURL_POLL_OUT) events |= UV_WRITABLE;
  if (socket == NULL) socket = socket_new(http, fd, false, &status);
  if (socket != NULL) {
    socket->events = events;
    status = uv_poll_start(&socket->poll, events, on_socket);
  }
  if (status != 0) { /* an error returned here would end every transfer: only this one must not hang */
    request *mine = request_of(easy);
    if (mine != NULL) mine->doom = status;
    http->doomed = true;
  }
  return 0;
}

static void on_time(uv_timer_t *timer) {
  act(timer->data, CURL_SOCKET_TIMEOUT, 0);
  uv_stop(timer->loop); /* timers come before the poll: it must not sleep on what has just been settled */
}

static int watch_time(CURLM *multi, long timeout_ms, void *http_) {
  (void)multi;
  uns_http *http = http_;
  if (timeout_ms < 0) {
    uv_timer_stop(&http->timers->wanted);
  } else {
    if (timeout_ms > 0) uv_update_time(&http->runtime->loop);
    uv_timer_start(&http->timers->wanted, on_time, (uint64_t)timeout_ms, 0);
  }
  return 0;
}

static void note_address(request *mine, const struct curl_sockaddr *to) {
  char host[INET6_ADDRSTRLEN] = "";
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } name;
  size_t size = to->addrlen < sizeof name ? to->addrlen : sizeof name;
  memcpy(&name, &to->addr, size);
  if (to->family == AF_INET) {
    inet_ntop(AF_INET, &name.v4.sin_addr, host, sizeof host);
    snprintf(mine->address, sizeof mine->address, "%s:%u", host, (unsigned)ntohs(name.v4.sin_port));
  } else if (to->family == AF_INET6) {
    inet_ntop(AF_INET6, &name.v6.sin6_addr, host, sizeof host);
    snprintf(mine->address, sizeof mine->address, "[%s]:%u", host, (unsigned)ntohs(name.v6.sin6_port));
  }
}

/* It needs no more looking up: others may. */
static void resolved(request *mine) {
  if (!mine->resolving) return;
  mine->resolving = false;
  mine->http->resolving--;
}

static curl_socket_t open_socket(void *request_, curlsocktype purpose, struct curl_sockaddr *to) {
  (void)purpose;
  request *mine = request_;
  resolved(mine);
  note_address(mine, to);
  int fd = socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
  if (fd < 0) {
    mine->starved |= errno == EMFILE || errno == ENFILE;
    mine->socket_error = uv_translate_sys_error(errno);
    return CURL_SOCKET_BAD;
  }
  int status;
  if (socket_new(mine->http, fd, true, &status) == NULL) {
    mine->socket_error = status;
    close(fd);
    return CURL_SOCKET_BAD;
  }
  return fd;
}

static int close_socket(void *http_, curl_socket_t fd) {
  http_socket *socket = socket_of(http_, fd);
  if (socket != NULL) socket_forget(http_, socket);
  return close(fd);
}

/* The connection stands, perhaps an old one. */
static int before_request(void *request_, char *remote, char *local, int remote_port, int local_port) {
  (void)local;
  (void)local_port;
  request *mine = request_;
  resolved(mine);
  bool v6 = strchr(remote, ':') != NULL;
  snprintf(mine->address, sizeof mine->address, v6 ? "[%.48s]:%d" : "%.48s:%d", remote, remote_port);
  return CURL_PREREQFUNC_OK;
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

static size_t on_header(char *line, size_t one, size_t count, void *request_) {
  request *mine = request_;
  size_t size = one * count;
  if (size > 5 && strncasecmp(line, "HTTP/", 5) == 0) { /* a further response: after a 100, a redirect */
    mine->head_size = mine->body_size = 0;
    const char *status = memchr(line, ' ', size);
    bool see_other = status != NULL && (size_t)(line + size - status) > 3 && memcmp(status + 1, "303", 3) == 0;
    if (see_other && mine->method_is_custom) { /* is followed with GET, whatever it was */
      mine->method_is_custom = false;
      curl.easy_setopt(mine->easy, CURLOPT_CUSTOMREQUEST, (char *)NULL);
    }
  }
  if (!reserve(&mine->head, &mine->head_capacity, mine->head_size, size, 1024)) {
    mine->doom = UV_ENOMEM;
    return 0;
  }
  memcpy(mine->head + mine->head_size, line, size);
  mine->head_size += size;
  return size;
}

static size_t on_body(char *bytes, size_t one, size_t count, void *request_) {
  request *mine = request_;
  size_t size = one * count;
  if (size > mine->body_max - mine->body_size) {
    mine->too_big = true;
    return 0;
  }
  size_t first = BODY_FIRST;
  if (mine->body_capacity == 0) {
    curl_off_t announced = 0;
    curl.easy_getinfo(mine->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
    if (announced > RESERVE_MAX) announced = RESERVE_MAX;
    if (announced > 0) first = (size_t)announced;
  }
  if (!reserve(&mine->body, &mine->body_capacity, mine->body_size, size, first)) {
    mine->doom = UV_ENOMEM;
    return 0;
  }
  memcpy(mine->body + mine->body_size, bytes, size);
  mine->body_size += size;
  return size;
}

/* ---- the end of a request ---- */

/* Gives back what the request has, and leaves the multi. In any state; settles nothing. */
static void release(request *mine) {
  uns_http *http = mine->http;
  if (http != NULL) {
    mine->http = NULL;
    uns_timer_disarm(http->runtime, &mine->timer);
    uns_list_remove(&mine->link);
    if (mine->resolving) http->resolving--;
    if (mine->active) {
      sigset_t before;
      bool guarded = pipe_guarded(http, &before);
      curl.multi_remove_handle(http->multi, mine->easy);
      if (guarded) pipe_unguard(&before);
      http->active_count--;
    }
    mine->active = mine->resolving = false;
    http->runtime->pending--;
    http->runtime->pending_io--;
    if (mine->easy != NULL && http->spare_count < SPARE_MAX) {
      curl.easy_reset(mine->easy);
      http->spares[http->spare_count++] = mine->easy;
      mine->easy = NULL;
    }
  }
  if (mine->easy != NULL) curl.easy_cleanup(mine->easy);
  if (mine->headers != NULL) curl.slist_free_all(mine->headers);
  uns_free(mine->method);
  uns_free(mine->url);
  uns_free(mine->head);
  uns_free(mine->body);
  mine->easy = NULL;
  mine->headers = NULL;
  mine->method = mine->url = mine->head = mine->body = NULL;
}

static int request_gc(lua_State *L) {
  release(lua_touserdata(L, 1));
  return 0;
}

/* What a script is told of a transfer that failed. */
static const char *code_of(const request *mine, CURLcode result) {
  long number = 0;
  curl.easy_getinfo(mine->easy, CURLINFO_OS_ERRNO, &number);
  switch (result) {
    case CURLE_OPERATION_TIMEDOUT: return number == ETIMEDOUT ? "ETIMEDOUT" : "timeout";
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY: return "ENOTFOUND";
    case CURLE_OUT_OF_MEMORY: return "ENOMEM";
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_USE_SSL_FAILED: return "tls";
    case CURLE_TOO_MANY_REDIRECTS: return "redirects";
    case CURLE_GOT_NOTHING: /* closed before or within the answer */
    case CURLE_PARTIAL_FILE: return "EOF";
    case CURLE_UNSUPPORTED_PROTOCOL: {
      long redirects = 0; /* the first URL has been checked, so only a redirect can name another scheme */
      curl.easy_getinfo(mine->easy, CURLINFO_REDIRECT_COUNT, &redirects);
      return mine->head_size == 0 && redirects == 0 ? "EPROTO" : "EPROTONOSUPPORT";
    }
    case CURLE_URL_MALFORMAT: return "EINVAL";
    case CURLE_COULDNT_CONNECT:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      if (mine->socket_error != 0) return uv_err_name(mine->socket_error);
      if (number > 0) return uv_err_name(uv_translate_sys_error((int)number));
      return result == CURLE_COULDNT_CONNECT ? "ECONNREFUSED" : "ECONNRESET";
    default: return "EPROTO";
  }
}

/* How a transfer ended, for the protected functions below. */
typedef struct {
  request *mine;
  CURLcode result;
  bool timed_out;   /* by its own timer */
  const char *url;  /* the last one asked, without user and password; NULL: the first */
} ending;

static void push_error(lua_State *L, const ending *end) {
  const request *mine = end->mine;
  const char *url = end->url != NULL ? end->url : mine->url;
  if (end->timed_out) {
    lua_pushfstring(L, "timeout: no complete answer within %f s", mine->timeout_s);
    uns_error_push(L, "timeout", "%s %s: %s", mine->method, url, lua_tostring(L, -1));
  } else if (mine->too_big) {
    lua_pushfstring(L, "the body has more than %I bytes (max_body)", (LUAI_UACINT)mine->body_max);
    uns_error_push(L, "limit", "%s %s: %s", mine->method, url, lua_tostring(L, -1));
  } else if (mine->doom != 0) {
    lua_pushnil(L);
    uns_error_push(L, uv_err_name(mine->doom), "%s %s: %s", mine->method, url, uv_strerror(mine->doom));
  } else {
    const char *text = mine->text[0] != '\0' ? mine->text : curl.easy_strerror(end->result);
    const char *code = code_of(mine, end->result);
    if (end->result == CURLE_COULDNT_CONNECT && mine->socket_error != 0) text = uv_strerror(mine->socket_error);
    lua_pushnil(L);
    uns_error_push(L, code, "%s %s: %s: %s", mine->method, url, code, text);
  }
  lua_remove(L, -2);
  lua_pushstring(L, url);
  lua_setfield(L, -2, "url");
  lua_pushstring(L, mine->method);
  lua_setfield(L, -2, "method");
  if (mine->address[0] != '\0') {
    lua_pushstring(L, mine->address);
    lua_setfield(L, -2, "address");
  }
}

/* Pushes `text` in lower case, as far as ASCII goes. */
static void push_lower(lua_State *L, const char *text, size_t size) {
  luaL_Buffer buffer;
  char *lower = luaL_buffinitsize(L, &buffer, size);
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)text[i];
    lower[i] = (char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  }
  luaL_pushresultsize(&buffer, size);
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Enters one header line into the list at `list` and the table at `lookup`. */
static void add_header(lua_State *L, int list, int lookup, const char *line, size_t size) {
  const char *colon = memchr(line, ':', size);
  if (colon == NULL || colon == line) return;
  const char *end = line + size, *value = colon + 1;
  while (end > value && is_blank(end[-1])) end--;
  while (value < end && is_blank(*value)) value++;
  lua_createtable(L, 2, 0);
  lua_pushlstring(L, line, (size_t)(colon - line));
  lua_rawseti(L, -2, 1);
  lua_pushlstring(L, value, (size_t)(end - value));
  lua_rawseti(L, -2, 2);
  lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
  push_lower(L, line, (size_t)(colon - line));
  lua_pushvalue(L, -1);
  if (lua_rawget(L, lookup) == LUA_TSTRING) {
    lua_pushliteral(L, ", ");
    lua_pushlstring(L, value, (size_t)(end - value));
    lua_concat(L, 3);
  } else {
    lua_pop(L, 1);
    lua_pushlstring(L, value, (size_t)(end - value));
  }
  lua_rawset(L, lookup);
}

/* Reads the head that came: the headers as they came at `list`, by name at `lookup`; pushes the reason or nil. */
static void push_head(lua_State *L, const request *mine, int list, int lookup) {
  const char *at = mine->head, *end = mine->head + mine->head_size;
  bool first = true;
  lua_pushnil(L);
  while (at < end) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    size_t size = newline != NULL ? (size_t)(newline - at) : (size_t)(end - at);
    if (first) {
      const char *last = at + size;
      while (last > at && is_blank(last[-1])) last--;
      const char *space = memchr(at, ' ', (size_t)(last - at));
      const char *reason = space != NULL ? memchr(space + 1, ' ', (size_t)(last - space - 1)) : NULL;
      if (reason != NULL && reason + 1 < last) {
        lua_pop(L, 1);
        lua_pushlstring(L, reason + 1, (size_t)(last - reason - 1));
      }
    } else {
      add_header(L, list, lookup, at, size);
    }
    first = false;
    at += size + 1;
  }
}

static void push_response(lua_State *L, const ending *end) {
  const request *mine = end->mine;
  long status = 0, redirects = 0;
  curl_off_t elapsed_us = 0;
  curl.easy_getinfo(mine->easy, CURLINFO_RESPONSE_CODE, &status);
  curl.easy_getinfo(mine->easy, CURLINFO_REDIRECT_COUNT, &redirects);
  curl.easy_getinfo(mine->easy, CURLINFO_TOTAL_TIME_T, &elapsed_us);
  lua_createtable(L, 0, 8);
  int response = lua_gettop(L);
  lua_pushinteger(L, status);
  lua_setfield(L, response, "status");
  lua_pushlstring(L, mine->body != NULL ? mine->body : "", mine->body_size);
  lua_setfield(L, response, "body");
  lua_pushstring(L, end->url != NULL ? end->url : mine->url);
  lua_setfield(L, response, "url");
  lua_pushinteger(L, redirects);
  lua_setfield(L, response, "redirects");
  lua_pushnumber(L, (double)elapsed_us / 1e6);
  lua_setfield(L, response, "elapsed");
  lua_newtable(L);
  lua_newtable(L);
  luaL_setmetatable(L, HEADERS_TYPE);
  push_head(L, mine, response + 1, response + 2);
  lua_setfield(L, response, "reason");
  lua_setfield(L, response, "headers");
  lua_setfield(L, response, "header_list");
}

/* Protected: settles the future of the request at 1 by how it ended, the light userdata at 2. */
static int settle(lua_State *L) {
  const ending *end = lua_touserdata(L, 2);
  uns_runtime *runtime = end->mine->http->runtime;
  luaL_checkstack(L, 20, NULL);
  lua_getiuservalue(L, 1, 1);
  if (end->result == CURLE_OK && !end->timed_out && end->mine->doom == 0) {
    push_response(L, end);
    uns_future_resolve(runtime, L, 3, 1);
  } else {
    push_error(L, end);
    lua_pushnil(L);
    uns_future_fail(runtime, L, 3, UNS_FUTURE_FAILED);
  }
  return 0;
}

/* Protected: fails the future of the request at 1 with the error at 2. */
static int settle_with_error(lua_State *L) {
  request *mine = lua_touserdata(L, 1);
  lua_getiuservalue(L, 1, 1);
  lua_insert(L, 2);
  lua_pushnil(L);
  uns_future_fail(mine->http->runtime, L, 2, UNS_FUTURE_FAILED);
  return 0;
}

/* `url` without user and password, for messages; owned by libcurl (curl.free); NULL without memory. */
static char *shown_url(const char *url, CURLU *parsed) {
  char *shown = NULL;
  CURLU *own = parsed == NULL ? curl.url() : NULL;
  if (own != NULL && curl.url_set(own, CURLUPART_URL, url, 0) == CURLUE_OK) parsed = own;
  if (parsed != NULL) {
    curl.url_set(parsed, CURLUPART_USER, NULL, 0);
    curl.url_set(parsed, CURLUPART_PASSWORD, NULL, 0);
    if (curl.url_get(parsed, CURLUPART_URL, &shown, 0) != CURLUE_OK) shown = NULL;
  }
  if (own != NULL) curl.url_cleanup(own);
  return shown;
}

/* The request is over: settles its future and lets go of it. The userdata may be collected afterwards. */
static void finish(request *mine, CURLcode result, bool timed_out) {
  uns_runtime *runtime = mine->http->runtime;
  lua_State *L = runtime->L;
  uns_list_remove(&mine->link); /* a finalizer that runs meanwhile finds it ended */
  char *effective = NULL, *shown = NULL;
  curl.easy_getinfo(mine->easy, CURLINFO_EFFECTIVE_URL, &effective);
  if (effective != NULL && strchr(effective, '@') != NULL) shown = shown_url(effective, NULL);
  ending end = {mine, result, timed_out, shown != NULL ? shown : effective};
  if (shown == NULL && effective != NULL && strchr(effective, '@') != NULL) end.url = NULL;
  if (effective != NULL && *effective == '\0') end.url = NULL;
  int top = lua_gettop(L);
  if (lua_checkstack(L, 8)) {
    uns_runtime_push_pin(runtime, L, mine->pin);
    lua_pushcfunction(L, settle);
    lua_pushvalue(L, -2);
    lua_pushlightuserdata(L, &end);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) { /* no memory for the answer: that is told instead */
      lua_pushcfunction(L, settle_with_error);
      lua_pushvalue(L, top + 1);
      lua_pushvalue(L, top + 2);
      lua_pcall(L, 2, 0, 0); /* where even that fails, whoever waits gets `deadlock` */
    }
  }
  if (shown != NULL) curl.free(shown);
  int pin = mine->pin;
  release(mine);
  lua_settop(L, top);
  uns_runtime_unpin(runtime, pin);
}

static void on_timeout(uns_timer *timer, uns_runtime *runtime) {
  (void)runtime;
  request *mine = uns_container_of(timer, request, timer);
  uns_http *http = mine->http;
  finish(mine, CURLE_OK, true);
  run_waiting(http);
}

bool uns_http_cancel(uns_runtime *runtime, const uns_future *future) {
  uns_http *http = runtime->http;
  if (http == NULL) return false;
  uns_link *const lists[] = {&http->active, &http->waiting};
  for (int i = 0; i < 2; i++) {
    for (uns_link *link = lists[i]->next; link != lists[i]; link = link->next) {
      request *mine = uns_container_of(link, request, link);
      if (mine->future != future) continue;
      int pin = mine->pin;
      release(mine);
      uns_runtime_unpin(runtime, pin);
      run_waiting(http);
      return true;
    }
  }
  return false;
}

/* ---- the multi handle ---- */

static void on_idle(uv_timer_t *timer);

/* Connections to nobody in particular hold descriptors, here and there: after a while they are closed. */
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
  curl.multi_cleanup(http->multi);
  if (guarded) pipe_unguard(&before);
  http->multi = NULL;
  while (http->spare_count > 0) curl.easy_cleanup(http->spares[--http->spare_count]);
}

static void on_idle(uv_timer_t *timer) {
  uns_http *http = timer->data;
  if (http->active_count == 0) close_multi(http);
}

static void set_limit(uns_http *http, size_t limit) {
  http->limit = limit;
  /* Kept connections count too: libcurl closes the oldest idle one when it needs another beyond the limit. */
  if (http->multi != NULL) curl.multi_setopt(http->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)limit);
}

static bool open_multi(uns_http *http) {
  if (http->multi != NULL) return true;
  http->multi = curl.multi_init();
  if (http->multi == NULL) return false;
  curl.multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
  curl.multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
  curl.multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, watch_time);
  curl.multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
  curl.multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)http->most);
  set_limit(http, http->limit);
  return true;
}

/* Fails those that something could not be done for. */
static void end_doomed(uns_http *http) {
  http->doomed = false;
  for (uns_link *link = http->active.next; link != &http->active;) {
    request *mine = uns_container_of(link, request, link);
    link = link->next;
    if (mine->doom == 0) continue;
    finish(mine, CURLE_OK, false);
    link = http->active.next; /* whatever is left of the list */
  }
}

/* Takes a transfer that found no descriptor back to the head of the line, where another's end can help, or our own. */
static bool requeue(request *mine) {
  uns_http *http = mine->http;
  bool alone = http->active_count == 1;
  if (!mine->starved || (alone && mine->retried)) return false;
  curl.multi_remove_handle(http->multi, mine->easy);
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
  while (http->multi != NULL && (message = curl.multi_info_read(http->multi, &left)) != NULL) {
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode result = message->data.result;
    request *mine = request_of(message->easy_handle);
    if (result == CURLE_COULDNT_CONNECT && requeue(mine)) continue;
    if (http->limit < http->most) set_limit(http, http->limit + 1);
    finish(mine, result, false);
  }
  if (http->doomed) end_doomed(http);
}

/* Something has happened: lets libcurl go on, and settles what has ended. */
static void act(uns_http *http, curl_socket_t fd, int events) {
  int running;
  sigset_t before;
  bool guarded = pipe_guarded(http, &before);
  curl.multi_socket_action(http->multi, fd, events, &running);
  if (guarded) pipe_unguard(&before);
  take_ended(http);
  run_waiting(http);
}

/* Hands those that wait to libcurl, as many as may be. */
static void run_waiting(uns_http *http) {
  while (!uns_list_empty(&http->waiting) && http->active_count < http->limit) {
    request *mine = uns_container_of(http->waiting.next, request, link);
    if (mine->resolves && http->resolving >= RESOLVING_MAX) break;
    uns_list_remove(&mine->link);
    uns_list_push_back(&http->active, &mine->link);
    CURLMcode code = open_multi(http) ? curl.multi_add_handle(http->multi, mine->easy) : CURLM_OUT_OF_MEMORY;
    if (code != CURLM_OK) {
      mine->doom = code == CURLM_OUT_OF_MEMORY ? UV_ENOMEM : UV_EINVAL;
      finish(mine, CURLE_OK, false);
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
  http_timers *timers = handle->data;
  if (--timers->open == 0) uns_free(timers);
}

/* The runtime ends: nothing is settled any more. */
static void http_close(uns_closer *closer, uns_runtime *runtime) {
  uns_http *http = uns_container_of(closer, uns_http, closer);
  uns_link *const lists[] = {&http->waiting, &http->active};
  for (int i = 0; i < 2; i++) {
    while (!uns_list_empty(lists[i])) release(uns_container_of(lists[i]->next, request, link));
  }
  close_multi(http);
  while (http->spare_count > 0) curl.easy_cleanup(http->spares[--http->spare_count]);
  for (size_t fd = 0; fd < http->socket_capacity; fd++) {
    if (http->sockets[fd] != NULL) socket_forget(http, http->sockets[fd]);
  }
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

/* The runtime's client, made at its first use. Raises. */
static uns_http *http_of(lua_State *L, uns_runtime *runtime) {
  if (runtime->http != NULL) return runtime->http;
  uv_once(&load_once, load);
  if (!loaded) {
    luaL_error(L, "unsync.http needs libcurl: %s", load_problem);
    return NULL;
  }
  uns_http *http = uns_calloc(1, sizeof *http);
  http_timers *timers = uns_calloc(1, sizeof *timers);
  if (http == NULL || timers == NULL) {
    uns_free(http);
    uns_free(timers);
    luaL_error(L, "not enough memory");
    return NULL;
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
  return http;
}

/* ---- a request ---- */

static char *copy(const char *text) {
  size_t size = strlen(text) + 1;
  char *own = uns_malloc(size);
  return own != NULL ? memcpy(own, text, size) : NULL;
}

/* A name that must be looked up: neither an address nor one that means this machine. */
static bool needs_lookup(const char *host) {
  unsigned char address[sizeof(struct in6_addr)];
  size_t size = strlen(host);
  if (host[0] == '[' || inet_pton(AF_INET, host, address) == 1) return false;
  if (strcasecmp(host, "localhost") == 0) return false;
  return !(size > 10 && strcasecmp(host + size - 10, ".localhost") == 0);
}

/* Looks at the URL. NULL if it is one we can ask; else what is wrong with it, static. */
static const char *read_url(request *mine, const char *url) {
  CURLU *parsed = curl.url();
  char *scheme = NULL, *host = NULL, *shown = NULL;
  if (parsed == NULL) return "not enough memory";
  const char *problem = NULL;
  CURLUcode code = curl.url_set(parsed, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME);
  if (code == CURLUE_OK) code = curl.url_get(parsed, CURLUPART_SCHEME, &scheme, 0);
  if (code != CURLUE_OK) {
    problem = code == CURLUE_BAD_SCHEME ? "an absolute URL expected, as http://host/path" : curl.url_strerror(code);
  } else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0) {
    problem = "http or https expected";
  } else if ((code = curl.url_get(parsed, CURLUPART_HOST, &host, 0)) != CURLUE_OK) {
    problem = curl.url_strerror(code);
  } else {
    mine->resolves = needs_lookup(host);
    shown = strchr(url, '@') != NULL ? shown_url(url, parsed) : NULL;
    mine->url = copy(shown != NULL ? shown : url);
    if (mine->url == NULL) problem = "not enough memory";
  }
  curl.free(scheme);
  curl.free(host);
  curl.free(shown);
  curl.url_cleanup(parsed);
  return problem;
}

static lua_Number number_field(lua_State *L, int table, const char *name, lua_Number absent) {
  lua_Number number = lua_getfield(L, table, name) == LUA_TNIL ? absent : luaL_checknumber(L, -1);
  lua_pop(L, 1);
  return number;
}

/* The text stays valid as long as the table holds it. */
static const char *string_field(lua_State *L, int table, const char *name) {
  const char *text = lua_getfield(L, table, name) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  lua_pop(L, 1);
  return text;
}

static bool flag_field(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

static long milliseconds(lua_Number seconds) {
  lua_Number ms = ceil(seconds * 1000);
  return ms < 1 ? 1 : ms > 2147483647.0 ? 2147483647L : (long)ms;
}

/* Sets options until one fails. */
#define SET(option, value) (code = code != CURLE_OK ? code : curl.easy_setopt(easy, option, value))

/* Method, and body if there is one: `size` bytes which the request's userdata holds. */
static CURLcode set_method(request *mine, const char *body, size_t size) {
  CURL *easy = mine->easy;
  CURLcode code = CURLE_OK;
  const char *method = mine->method;
  bool post = strcmp(method, "POST") == 0;
  if (body != NULL || post) {
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size);
    SET(CURLOPT_POSTFIELDS, body != NULL ? body : "");
    /* Only a POST becomes a GET where it is sent elsewhere by a 301 or 302. */
    if (!post) SET(CURLOPT_POSTREDIR, (long)(CURL_REDIR_POST_301 | CURL_REDIR_POST_302));
  } else if (strcmp(method, "HEAD") == 0) {
    SET(CURLOPT_NOBODY, 1L);
  } else {
    SET(CURLOPT_HTTPGET, 1L);
  }
  bool natural = post || (body == NULL && (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0));
  if (!natural) {
    SET(CURLOPT_CUSTOMREQUEST, method);
    mine->method_is_custom = true;
  }
  return code;
}

/* Gives the easy handle of the request all that the table at `table` says. */
static CURLcode set_options(lua_State *L, int table, request *mine, uns_http *http) {
  CURL *easy = mine->easy;
  CURLcode code = CURLE_OK;
  SET(CURLOPT_PRIVATE, (char *)(void *)mine);
  SET(CURLOPT_ERRORBUFFER, mine->text);
  SET(CURLOPT_URL, string_field(L, table, "url"));
  SET(CURLOPT_PROTOCOLS_STR, "http,https");
  SET(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  SET(CURLOPT_NOSIGNAL, 1L);
  /* Else a transfer that is ended while it looks up a name would hold the loop until the look-up has ended. */
  SET(CURLOPT_QUICK_EXIT, 1L);
  SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
  SET(CURLOPT_OPENSOCKETDATA, (void *)mine);
  SET(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  SET(CURLOPT_CLOSESOCKETDATA, (void *)http);
  SET(CURLOPT_PREREQFUNCTION, before_request);
  SET(CURLOPT_PREREQDATA, (void *)mine);
  SET(CURLOPT_HEADERFUNCTION, on_header);
  SET(CURLOPT_HEADERDATA, (void *)mine);
  SET(CURLOPT_WRITEFUNCTION, on_body);
  SET(CURLOPT_WRITEDATA, (void *)mine);
  SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  SET(CURLOPT_SSL_VERIFYPEER, flag_field(L, table, "verify") ? 1L : 0L);
  SET(CURLOPT_SSL_VERIFYHOST, flag_field(L, table, "verify") ? 2L : 0L);
  const char *text = string_field(L, table, "ca_file");
  if (text != NULL) SET(CURLOPT_CAINFO, text);
  text = string_field(L, table, "proxy");
  if (text != NULL) SET(CURLOPT_PROXY, text);
  if (flag_field(L, table, "compressed")) SET(CURLOPT_ACCEPT_ENCODING, "");
  long redirects = (long)number_field(L, table, "max_redirects", 0);
  SET(CURLOPT_FOLLOWLOCATION, redirects > 0 ? 1L : 0L);
  SET(CURLOPT_MAXREDIRS, redirects);
  lua_Number seconds = number_field(L, table, "connect_timeout", 0);
  if (seconds > 0) SET(CURLOPT_CONNECTTIMEOUT_MS, milliseconds(seconds));
  SET(CURLOPT_HTTPHEADER, mine->headers);
  size_t size = 0;
  const char *body = NULL;
  if (lua_getfield(L, table, "body") == LUA_TSTRING) body = lua_tolstring(L, -1, &size);
  lua_pop(L, 1);
  return code != CURLE_OK ? code : set_method(mine, body, size);
}

/* The lines of the list `headers` in the table at `table`; false without memory. */
static bool copy_headers(lua_State *L, int table, request *mine) {
  lua_getfield(L, table, "headers");
  lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, -1, i);
    struct curl_slist *longer = curl.slist_append(mine->headers, luaL_checkstring(L, -1));
    lua_pop(L, 1);
    if (longer == NULL) return false;
    mine->headers = longer;
  }
  lua_pop(L, 1);
  return true;
}

/*
 * request(table) -> Future, or nil and what is wrong with the URL. The fields, all checked by our caller: url, method,
 * headers (a list of lines), body, timeout, connect_timeout, max_redirects, verify, ca_file, proxy, compressed,
 * max_body.
 */
static int http_request(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, lua_upvalueindex(1));
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  if (runtime->closing) return luaL_error(L, "the event loop is ending");
  uns_http *http = http_of(L, runtime);
  request *mine = lua_newuserdatauv(L, sizeof *mine, 2);
  memset(mine, 0, sizeof *mine); /* from here on collectable */
  uns_list_init(&mine->link);
  uns_timer_init(&mine->timer, on_timeout);
  luaL_setmetatable(L, REQUEST_TYPE);

  const char *url = string_field(L, 1, "url"), *method = string_field(L, 1, "method");
  if (url == NULL || method == NULL) return luaL_error(L, "url and method expected");
  const char *problem = read_url(mine, url);
  if (problem != NULL) {
    luaL_pushfail(L);
    lua_pushstring(L, problem);
    return 2;
  }
  lua_Number max_body = number_field(L, 1, "max_body", HUGE_VAL);
  mine->body_max = max_body < (lua_Number)(SIZE_MAX / 4) ? (size_t)max_body : SIZE_MAX / 4;
  mine->timeout_s = number_field(L, 1, "timeout", 0);
  mine->method = copy(method);
  mine->easy = http->spare_count > 0 ? http->spares[--http->spare_count] : curl.easy_init();
  if (mine->method == NULL || mine->easy == NULL || !copy_headers(L, 1, mine)) return luaL_error(L, "not enough memory");
  CURLcode code = set_options(L, 1, mine, http);
  if (code != CURLE_OK) return luaL_error(L, "unsync.http: %s", curl.easy_strerror(code));

  mine->future = uns_future_push(runtime, L, UNS_KIND_PROMISE, "http");
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, 2, 1);
  lua_getfield(L, 1, "body");
  lua_setiuservalue(L, 2, 2);
  lua_pushvalue(L, 2);
  mine->pin = uns_runtime_pin(runtime, L);
  if (mine->timeout_s > 0) {
    uint64_t wait_ns = mine->timeout_s < 1e9 ? (uint64_t)ceil(mine->timeout_s * 1e9) : UINT64_C(1000000000000000000);
    if (uns_timer_arm(runtime, &mine->timer, uns_clock_ns() + wait_ns) != UNS_OK) {
      uns_runtime_unpin(runtime, mine->pin);
      return luaL_error(L, "not enough memory");
    }
  }
  mine->http = http; /* under way: nothing below raises, and from here on `release` counts down */
  runtime->pending++;
  runtime->pending_io++;
  uns_list_push_back(&http->waiting, &mine->link);
  run_waiting(http);
  return 1;
}

int uns_open_http(lua_State *L) {
  static const luaL_Reg functions[] = {{"request", http_request}, {NULL, NULL}};
  uns_runtime *runtime = uns_runtime_of(L);
  if (runtime == NULL) return luaL_error(L, "unsync.http: this state has no event loop");
  if (luaL_newmetatable(L, REQUEST_TYPE)) {
    lua_pushcfunction(L, request_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, runtime);
  luaL_setfuncs(L, functions, 1);
  luaL_newmetatable(L, HEADERS_TYPE); /* its lookup is set in lua/unsync/http.lua */
  lua_setfield(L, -2, "Headers");
  return 1;
}
