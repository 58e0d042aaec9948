#include "host/input.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

static volatile sig_atomic_t stirred, interrupted;
static bool readable; /* main thread */

static void on_readable(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  readable = true;
  uv_poll_stop(poll);
  uns_runtime_stir(poll->data);
}

static void on_closed(uv_handle_t *handle) { uns_free(handle); }

/*
 * libuv makes what it polls non-blocking, and stdin is shared: with stdout, with whoever started us. So it polls an epoll
 * descriptor with stdin in it. -1 where stdin is nothing to wait for: a plain file.
 */
static int open_epoll(void) {
  int fd = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) == 0) return fd;
  close(fd);
  return -1;
}

static uv_poll_t *start_poll(uns_runtime *runtime, int fd) {
  uv_poll_t *poll = uns_malloc(sizeof *poll);
  if (poll == NULL) return NULL;
  if (uv_poll_init(&runtime->loop, poll, fd) != 0) {
    uns_free(poll);
    return NULL;
  }
  poll->data = runtime;
  if (uv_poll_start(poll, UV_READABLE, on_readable) == 0) return poll;
  uv_close((uv_handle_t *)poll, on_closed);
  return NULL;
}

bool uns_input_wait(const uns_turner *turner) {
  readable = false;
  int fd = open_epoll();
  if (fd < 0) return true; /* reading waits itself */
  bool going = true;
  uv_poll_t *poll = start_poll(turner->runtime, fd);
  if (poll != NULL) {
    while (going && !readable && !stirred && !interrupted) going = turner->turn(turner->context);
    stirred = 0;
    uv_close((uv_handle_t *)poll, on_closed); /* stdin is the line's own while it runs */
  }
  close(fd);
  return going;
}

void uns_input_stir(void) { stirred = 1; }

void uns_input_interrupt(void) { interrupted = 1; }

bool uns_input_take_interrupt(void) {
  bool came = interrupted != 0;
  interrupted = 0;
  return came;
}

bool uns_input_buffered(void) {
#ifdef __GLIBC__
  if (ftrylockfile(stdin) != 0) return false;
  bool some = stdin->_IO_read_ptr < stdin->_IO_read_end;
  funlockfile(stdin);
  return some;
#else
  return false;
#endif
}

bool uns_input_ready(bool stdio) {
  if (stdio && uns_input_buffered()) return true;
  struct pollfd look = {.fd = STDIN_FILENO, .events = POLLIN};
  return poll(&look, 1, 0) > 0;
}
