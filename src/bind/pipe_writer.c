#include "bind/pipe_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum {
  CHUNKS_MAX = 16,   /* before others have their turn */
  KEPT_BYTES = 65536 /* a buffer that is not larger is kept for the next time */
};

struct uns_pipe_writer {
  int fd;
  int error;       /* errno: nothing goes out any more */
  bool takes;      /* all that it is given: see `begin` */
  bool broken_off; /* the last wait was */
  char *bytes;     /* owned: what has not gone out, from `start` to `end` */
  size_t start, end, capacity;
  uns_runtime *runtime; /* NULL once it has ended */
  uns_closer closer;    /* in runtime->closers */
  uns_link waiters;     /* uns_waiter.link */
  bool has_poll, closed;
  uv_poll_t poll;
};

static bool is_behind(const uns_pipe_writer *writer) { return writer->end > writer->start; }

static bool has_loop(const uns_pipe_writer *writer) { return writer->runtime != NULL && !writer->runtime->closing; }

static void give_up(uns_pipe_writer *writer, int error) {
  writer->error = error;
  writer->start = writer->end = 0;
}

/* ---- its end ---- */

static void writer_free(uns_pipe_writer *writer) {
  uns_free(writer->bytes);
  uns_free(writer);
}

static void on_poll_closed(uv_handle_t *handle) {
  uns_pipe_writer *writer = handle->data;
  writer->has_poll = false;
  if (writer->closed) writer_free(writer);
}

static void tell_waiters(uns_pipe_writer *writer) {
  uns_waiter *waiter;
  while ((waiter = uns_waiter_first(&writer->waiters)) != NULL)
    uns_waiter_tell(waiter, writer->runtime, UNS_TOLD_GIVEN);
}

/* The loop has no more to do with it. */
static void leave_loop(uns_pipe_writer *writer) {
  if (writer->runtime == NULL) return;
  uns_list_remove(&writer->closer.link);
  if (!writer->runtime->closing) tell_waiters(writer);
  writer->runtime = NULL;
  if (writer->has_poll) uv_close((uv_handle_t *)&writer->poll, on_poll_closed);
}

/* The stream is closed, and nothing is left to go out. */
static int end(uns_pipe_writer *writer) {
  leave_loop(writer);
  int status = close(writer->fd);
  if (!writer->has_poll) writer_free(writer); /* else when the loop lets go of it */
  return status;
}

static void on_runtime_end(uns_closer *closer, uns_runtime *runtime) {
  (void)runtime;
  uns_pipe_writer *writer = uns_container_of(closer, uns_pipe_writer, closer);
  if (!writer->closed) leave_loop(writer);
  else end(writer); /* it was left to the loop, which ends before it could */
}

/* ---- what goes out ---- */

/* As much as there is room for, of what is kept. */
static void write_kept(uns_pipe_writer *writer) {
  for (int i = 0; i < CHUNKS_MAX && is_behind(writer); i++) {
    ssize_t gone = write(writer->fd, writer->bytes + writer->start, writer->end - writer->start);
    if (gone >= 0) {
      writer->start += (size_t)gone;
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) give_up(writer, errno);
    break;
  }
  if (is_behind(writer)) return;
  writer->start = writer->end = 0;
  if (writer->capacity <= KEPT_BYTES) return;
  uns_free(writer->bytes);
  writer->bytes = NULL;
  writer->capacity = 0;
}

static void on_writable(uv_poll_t *poll, int status, int events) {
  (void)events;
  uns_pipe_writer *writer = poll->data;
  write_kept(writer);
  if (status != 0 && is_behind(writer)) give_up(writer, EIO); /* the loop cannot look at it */
  if (is_behind(writer)) return;
  uv_poll_stop(poll);
  tell_waiters(writer);
  if (writer->closed) end(writer);
}

/* The loop writes what is kept. False: it cannot. */
static bool watch(uns_pipe_writer *writer) {
  if (!writer->has_poll) {
    if (uv_poll_init(&writer->runtime->loop, &writer->poll, writer->fd) != 0) return false;
    writer->poll.data = writer;
    writer->has_poll = true;
  }
  return uv_is_active((uv_handle_t *)&writer->poll) || uv_poll_start(&writer->poll, UV_WRITABLE, on_writable) == 0;
}

/* Blocks until all that is kept has gone out. */
static void flush_kept(uns_pipe_writer *writer) {
  for (;;) {
    write_kept(writer);
    if (!is_behind(writer)) return;
    struct pollfd wanted = {.fd = writer->fd, .events = POLLOUT};
    poll(&wanted, 1, -1);
  }
}

/* Keeps `size` bytes behind what is kept already; false: no memory, or no loop to write them. */
static bool keep(uns_pipe_writer *writer, const char *from, size_t size) {
  if (writer->start > 0 && writer->end + size > writer->capacity) {
    memmove(writer->bytes, writer->bytes + writer->start, writer->end - writer->start);
    writer->end -= writer->start;
    writer->start = 0;
  }
  if (writer->end + size > writer->capacity) {
    size_t capacity = writer->end + size + writer->capacity / 2;
    char *bytes = uns_realloc(writer->bytes, capacity);
    if (bytes == NULL) return false;
    writer->bytes = bytes;
    writer->capacity = capacity;
  }
  if (!watch(writer)) return false;
  memcpy(writer->bytes + writer->end, from, size);
  writer->end += size;
  return true;
}

/* ---- the stream ---- */

static ssize_t stream_write(void *cookie, const char *from, size_t size) {
  uns_pipe_writer *writer = cookie;
  size_t gone = 0;
  while (gone < size && writer->error == 0) {
    if (is_behind(writer)) { /* which comes first; the loop has it in hand, or we wait */
      if (has_loop(writer) && keep(writer, from + gone, size - gone)) return (ssize_t)size;
      flush_kept(writer);
      continue;
    }
    ssize_t now = write(writer->fd, from + gone, size - gone);
    if (now >= 0) {
      gone += (size_t)now;
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return (ssize_t)gone;
    if (writer->takes && keep(writer, from + gone, size - gone)) return (ssize_t)size;
    struct pollfd wanted = {.fd = writer->fd, .events = POLLOUT};
    poll(&wanted, 1, -1);
  }
  if (gone < size) errno = writer->error;
  return (ssize_t)gone;
}

static int stream_seek(void *cookie, off64_t *offset, int whence) {
  (void)cookie, (void)offset, (void)whence;
  errno = ESPIPE;
  return -1;
}

static int stream_close(void *cookie) {
  uns_pipe_writer *writer = cookie;
  writer->closed = true;
  if (is_behind(writer) && writer->takes && has_loop(writer)) return 0; /* the loop will */
  flush_kept(writer);
  return end(writer);
}

FILE *uns_pipe_writer_open(uns_runtime *runtime, int fd, uns_pipe_writer **writer) {
  uns_pipe_writer *made = uns_calloc(1, sizeof *made);
  if (made == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  made->fd = fd;
  int flags = fcntl(fd, F_GETFL);
  FILE *file = NULL;
  if (flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0)
    file = fopencookie(made, "w",
                       (cookie_io_functions_t){.write = stream_write, .seek = stream_seek, .close = stream_close});
  if (file == NULL) {
    uns_free(made);
    return NULL;
  }
  uns_list_init(&made->waiters);
  made->runtime = runtime;
  made->closer.close = on_runtime_end;
  uns_list_push_back(&runtime->closers, &made->closer.link);
  *writer = made;
  return file;
}

/* ---- waiting ---- */

/* Nobody waits for what is kept any more, unless others do. */
static void break_off(uns_pipe_writer *writer) {
  writer->broken_off = true;
  if (!is_behind(writer) || !uns_list_empty(&writer->waiters)) return;
  writer->start = writer->end = 0;
  if (writer->has_poll) uv_poll_stop(&writer->poll);
}

void uns_pipe_writer_begin(uns_pipe_writer *writer, lua_State *L) {
  writer->broken_off = false;
  writer->takes = writer->runtime != NULL && uns_stdlib_can_wait(writer->runtime, L);
}

bool uns_pipe_writer_is_behind(uns_pipe_writer *writer) {
  bool behind = writer->takes && is_behind(writer);
  writer->takes = false;
  return behind;
}

int uns_pipe_writer_wait(uns_pipe_writer *writer, lua_State *L, lua_KContext context, lua_KFunction k) {
  uns_runtime *runtime = writer->runtime;
  if (uns_cancel_reaching(runtime->current) != NULL) break_off(writer); /* the wait is refused */
  uns_task *task = uns_task_check_can_wait(runtime, L);
  task->extra->waiter.told = UNS_TOLD_NONE;
  task->waits_for = UNS_WAITS_PIPE_ROOM;
  uns_list_push_back(&writer->waiters, &task->extra->waiter.link);
  return uns_task_park(runtime, L, context, k);
}

void uns_pipe_writer_check_wait(uns_pipe_writer *writer, const uns_runtime *runtime) {
  if (writer != NULL && uns_task_is_interrupted(runtime->current)) break_off(writer);
}

int uns_pipe_writer_error(const uns_pipe_writer *writer) { return writer->error; }

bool uns_pipe_writer_leave(uns_pipe_writer *writer) {
  writer->takes = has_loop(writer);
  if (writer->broken_off) give_up(writer, EPIPE);
  return writer->broken_off;
}
