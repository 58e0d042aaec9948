/*
 * transfer_sockets: the descriptors and the time that libcurl waits for, on the loop of a runtime.
 *
 *   - It says what it waits for; uv handles of ours wait, and tell it. It is not entered from its own callbacks.
 *   - Sockets are ours from their making, so each has one handle, for as long as it is open; what libcurl watches
 *     besides goes when it stops watching it.
 * What is transferred: transfer.c.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/transfer_inside.h"

static void on_socket_closed(uv_handle_t *handle) { uns_free(uns_container_of(handle, uns_http_socket, poll)); }

static void on_socket(uv_poll_t *poll, int status, int events) {
  uns_http_socket *socket = poll->data;
  int what = 0;
  if (status < 0) { /* libuv has stopped it; libcurl finds out itself what is wrong, by reading and writing */
    what = CURL_CSELECT_IN | CURL_CSELECT_OUT;
    uv_poll_start(poll, socket->events, on_socket);
  }
  if (events & UV_READABLE) what |= CURL_CSELECT_IN;
  if (events & UV_WRITABLE) what |= CURL_CSELECT_OUT;
  uns_http_act(socket->http, socket->fd, what);
}

static uns_http_socket *socket_of(uns_http *http, curl_socket_t fd) {
  return fd >= 0 && (size_t)fd < http->socket_capacity ? http->sockets[fd] : NULL;
}

/* Enters `fd`; NULL with a libuv code in `status`. */
static uns_http_socket *socket_new(uns_http *http, curl_socket_t fd, bool ours, int *status) {
  *status = UV_ENOMEM;
  if ((size_t)fd >= http->socket_capacity) {
    size_t capacity = (size_t)fd * 2 + 16;
    uns_http_socket **sockets = uns_realloc(http->sockets, capacity * sizeof *sockets);
    if (sockets == NULL) return NULL;
    memset(sockets + http->socket_capacity, 0, (capacity - http->socket_capacity) * sizeof *sockets);
    http->sockets = sockets;
    http->socket_capacity = capacity;
  }
  uns_http_socket *socket = uns_calloc(1, sizeof *socket);
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

static void socket_forget(uns_http *http, uns_http_socket *socket) {
  http->sockets[socket->fd] = NULL;
  uv_close((uv_handle_t *)&socket->poll, on_socket_closed);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *http_, void *unused) {
  (void)unused;
  uns_http *http = http_;
  uns_http_socket *socket = socket_of(http, fd);
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
    uns_transfer *mine = uns_http_transfer_of(easy);
    if (mine != NULL) mine->broken = status;
    http->breakage = true;
  }
  return 0;
}

static void on_time(uv_timer_t *timer) {
  uns_http_act(timer->data, CURL_SOCKET_TIMEOUT, 0);
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

static void note_address(uns_transfer *mine, const struct curl_sockaddr *to) {
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
static void resolved(uns_transfer *mine) {
  if (!mine->resolving) return;
  mine->resolving = false;
  mine->http->resolving--;
}

static curl_socket_t open_socket(void *transfer_, curlsocktype purpose, struct curl_sockaddr *to) {
  (void)purpose;
  uns_transfer *mine = transfer_;
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
  uns_http_socket *socket = socket_of(http_, fd);
  if (socket != NULL) socket_forget(http_, socket);
  return close(fd);
}

/* The connection stands, perhaps an old one. */
static int before_request(void *transfer_, char *remote, char *local, int remote_port, int local_port) {
  (void)local;
  (void)local_port;
  uns_transfer *mine = transfer_;
  resolved(mine);
  bool v6 = strchr(remote, ':') != NULL;
  snprintf(mine->address, sizeof mine->address, v6 ? "[%.48s]:%d" : "%.48s:%d", remote, remote_port);
  return CURL_PREREQFUNC_OK;
}

/* ---- for transfer.c ---- */

void uns_http_watch(uns_http *http) {
  uns_curl.multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
  uns_curl.multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
  uns_curl.multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, watch_time);
  uns_curl.multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
}

CURLcode uns_http_make_sockets(uns_http *http, uns_transfer *transfer) {
  CURL *easy = transfer->easy;
  CURLcode code = CURLE_OK;
#define SET(option, value) (code = code != CURLE_OK ? code : uns_curl.easy_setopt(easy, option, value))
  SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
  SET(CURLOPT_OPENSOCKETDATA, (void *)transfer);
  SET(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  SET(CURLOPT_CLOSESOCKETDATA, (void *)http);
  SET(CURLOPT_PREREQFUNCTION, before_request);
  SET(CURLOPT_PREREQDATA, (void *)transfer);
#undef SET
  return code;
}

void uns_http_forget_sockets(uns_http *http) {
  for (size_t fd = 0; fd < http->socket_capacity; fd++) {
    if (http->sockets[fd] != NULL) socket_forget(http, http->sockets[fd]);
  }
}
