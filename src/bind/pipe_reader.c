#include "bind/pipe_reader.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum {
  CHUNK_BYTES = 65536, /* as much as the kernel keeps in a pipe */
  CHUNKS_MAX = 16,     /* before others have their turn */
  NUMERAL_MAX = 200    /* the longest that Lua reads */
};

struct uns_pipe_reader {
  int fd;
  bool ended;  /* nothing comes after what lies here; for `error`, if that is not 0 */
  int error;   /* errno */
  char *bytes; /* owned: what came, from `start` to `end` */
  size_t start, end, capacity;
  uns_runtime *runtime; /* NULL once it has ended */
  uns_closer closer;    /* in runtime->closers */
  uns_task *task;       /* waits for more, or NULL */
  bool has_poll, closed;
  uv_poll_t poll;
};

static void reader_free(uns_pipe_reader *reader) {
  uns_free(reader->bytes);
  uns_free(reader);
}

static void on_poll_closed(uv_handle_t *handle) {
  uns_pipe_reader *reader = handle->data;
  reader->has_poll = false;
  if (reader->closed) reader_free(reader);
}

/* ---- what comes ---- */

/* Room for another chunk; false: no memory. */
static bool make_room(uns_pipe_reader *reader) {
  if (reader->start == reader->end) reader->start = reader->end = 0;
  if (reader->capacity - reader->end >= CHUNK_BYTES) return true;
  if (reader->start >= reader->capacity / 2 && reader->start >= CHUNK_BYTES) {
    memmove(reader->bytes, reader->bytes + reader->start, reader->end - reader->start);
    reader->end -= reader->start;
    reader->start = 0;
    return true;
  }
  size_t capacity = reader->capacity * 2 + CHUNK_BYTES;
  char *bytes = uns_realloc(reader->bytes, capacity);
  if (bytes == NULL) return false;
  reader->bytes = bytes;
  reader->capacity = capacity;
  return true;
}

static void end_with(uns_pipe_reader *reader, int error) {
  reader->ended = true;
  reader->error = error;
}

static void on_readable(uv_poll_t *poll, int status, int events) {
  (void)events;
  uns_pipe_reader *reader = poll->data;
  bool any = false;
  for (int i = 0; i < CHUNKS_MAX && !reader->ended; i++) {
    if (!make_room(reader)) {
      end_with(reader, ENOMEM);
      break;
    }
    ssize_t got = read(reader->fd, reader->bytes + reader->end, CHUNK_BYTES);
    if (got > 0) reader->end += (size_t)got;
    any = any || got > 0;
    if (got == 0) end_with(reader, 0);
    if (got >= 0) continue;
    if (errno != EAGAIN && errno != EINTR) end_with(reader, errno);
    else if (status != 0 && !any) end_with(reader, EIO); /* the loop cannot look at it */
    break;
  }
  if (!any && !reader->ended) return;
  uv_poll_stop(poll);
  if (reader->task != NULL) uns_task_wake(reader->runtime, reader->task);
}

/* ---- the stream ---- */

static ssize_t stream_read(void *cookie, char *into, size_t size) {
  uns_pipe_reader *reader = cookie;
  size_t here = reader->end - reader->start;
  if (here > 0) {
    if (size > here) size = here;
    memcpy(into, reader->bytes + reader->start, size);
    reader->start += size;
    return (ssize_t)size;
  }
  if (reader->ended) {
    errno = reader->error;
    return reader->error != 0 ? -1 : 0;
  }
  for (;;) {
    ssize_t got = read(reader->fd, into, size);
    if (got == 0) end_with(reader, 0);
    if (got >= 0) return got;
    struct pollfd wanted = {.fd = reader->fd, .events = POLLIN};
    if (errno == EAGAIN) poll(&wanted, 1, -1);
    else if (errno != EINTR) return -1;
  }
}

static int stream_seek(void *cookie, off64_t *offset, int whence) {
  (void)cookie, (void)offset, (void)whence;
  errno = ESPIPE;
  return -1;
}

static void stop(uns_pipe_reader *reader) {
  uns_list_remove(&reader->closer.link);
  if (reader->task != NULL && !reader->runtime->closing) uns_task_wake(reader->runtime, reader->task);
  reader->task = NULL;
  reader->runtime = NULL;
  if (reader->has_poll) uv_close((uv_handle_t *)&reader->poll, on_poll_closed);
}

static void on_runtime_end(uns_closer *closer, uns_runtime *runtime) {
  uns_pipe_reader *reader = uns_container_of(closer, uns_pipe_reader, closer);
  (void)runtime;
  stop(reader);
}

static int stream_close(void *cookie) {
  uns_pipe_reader *reader = cookie;
  reader->closed = true;
  if (reader->runtime != NULL) stop(reader);
  int status = close(reader->fd);             /* at once: the command may wait for that, and we for the command */
  if (!reader->has_poll) reader_free(reader); /* else when the loop lets go of it */
  return status;
}

FILE *uns_pipe_reader_open(uns_runtime *runtime, int fd, uns_pipe_reader **reader) {
  uns_pipe_reader *made = uns_calloc(1, sizeof *made);
  if (made == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  made->fd = fd;
  FILE *file = fopencookie(made, "r",
                           (cookie_io_functions_t){.read = stream_read, .seek = stream_seek, .close = stream_close});
  if (file == NULL) {
    uns_free(made);
    return NULL;
  }
  made->runtime = runtime;
  made->closer.close = on_runtime_end;
  uns_list_push_back(&runtime->closers, &made->closer.link);
  *reader = made;
  return file;
}

/* ---- how much is wanted ---- */

/* What can be read without waiting, in two pieces. */
typedef struct {
  const char *piece[2];
  size_t size[2];
} supply;

/* The byte at `at`, or -1. */
static int byte_at(const supply *all, size_t at) {
  if (at < all->size[0]) return (unsigned char)all->piece[0][at];
  at -= all->size[0];
  return at < all->size[1] ? (unsigned char)all->piece[1][at] : -1;
}

/* Moves `at` behind the end of the line that it is in; false: that has not come. */
static bool pass_line(const supply *all, size_t *at) {
  size_t base = 0;
  for (int i = 0; i < 2; base += all->size[i++]) {
    size_t from = *at > base ? *at - base : 0;
    if (from >= all->size[i]) continue;
    const char *found = memchr(all->piece[i] + from, '\n', all->size[i] - from);
    if (found == NULL) continue;
    *at = base + (size_t)(found - all->piece[i]) + 1;
    return true;
  }
  return false;
}

/* The same for a numeral, which has come when it is known what follows it. */
static bool pass_numeral(const supply *all, size_t *at) {
  int byte;
  while ((byte = byte_at(all, *at)) >= 0 && strchr(" \t\n\v\f\r", byte) != NULL && byte != 0) (*at)++;
  for (int i = 0; i < NUMERAL_MAX; i++, (*at)++) {
    byte = byte_at(all, *at);
    if (byte < 0) return false;
    if (byte == 0 || strchr("0123456789abcdefABCDEFxXpP+-.", byte) == NULL) break;
  }
  return true;
}

bool uns_pipe_reader_has(const uns_pipe_reader *reader, const FILE *file, lua_State *L, int first) {
  if (reader->ended) return true;
  supply all = {{file->_IO_read_ptr, reader->bytes + reader->start},
                {(size_t)(file->_IO_read_end - file->_IO_read_ptr), reader->end - reader->start}};
  size_t total = all.size[0] + all.size[1], at = 0;
  int last = lua_gettop(L);
  if (first > last) return pass_line(&all, &at);
  for (int i = first; i <= last; i++) {
    if (lua_type(L, i) == LUA_TNUMBER) {
      lua_Integer count = lua_tointeger(L, i);
      size_t wanted = count > 0 ? (size_t)count : 1; /* 0: whether there is anything */
      if (total - at < wanted) return false;
      if (count > 0) at += wanted;
      continue;
    }
    const char *format = lua_tostring(L, i);
    if (format == NULL) return true; /* nobody will get that far */
    if (*format == '*') format++;
    switch (*format) {
      case 'n':
        if (!pass_numeral(&all, &at)) return false;
        break;
      case 'l':
      case 'L':
        if (!pass_line(&all, &at)) return false;
        break;
      case 'a': return false; /* all there will be */
      default: return true;
    }
  }
  return true;
}

/* ---- waiting ---- */

static bool watch(uns_pipe_reader *reader) {
  if (!reader->has_poll) {
    if (uv_poll_init(&reader->runtime->loop, &reader->poll, reader->fd) != 0) return false;
    reader->poll.data = reader;
    reader->has_poll = true;
  }
  return uv_poll_start(&reader->poll, UV_READABLE, on_readable) == 0;
}

bool uns_pipe_reader_can_wait(uns_pipe_reader *reader, lua_State *L) {
  uns_runtime *runtime = reader->runtime;
  if (runtime == NULL || reader->task != NULL || !uns_stdlib_can_wait(runtime, L)) return false;
  uns_task_check_can_wait(runtime, L);
  return watch(reader);
}

int uns_pipe_reader_wait(uns_pipe_reader *reader, lua_State *L, lua_KFunction k) {
  reader->task = reader->runtime->current;
  reader->task->waits_for = UNS_WAITS_PIPE;
  return uns_task_park(reader->runtime, L, 0, k);
}

void uns_pipe_reader_check_wait(uns_pipe_reader *reader) {
  reader->task = NULL;
  if (reader->has_poll) uv_poll_stop(&reader->poll);
}
