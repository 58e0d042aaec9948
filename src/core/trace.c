#include "core/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

enum {
  BUFFER_BYTES = 65536,
  NAME_MAX_BYTES = 160,  /* of a name or category, before it is escaped, which makes it six times as long at most */
  TEXT_MAX_BYTES = 4096, /* of a note's text */
  EVENT_MAX_BYTES = 2 * 6 * NAME_MAX_BYTES + 6 * TEXT_MAX_BYTES + 256
};

static const char head[] = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", tail[] = "\n]}\n";

typedef struct {
  pid_t pid, tid;
  uint32_t depth; /* of the spans that have begun and not ended */
  uint64_t last_ns;
} track;

struct uns_trace {
  uv_mutex_t lock; /* guards all that follows */
  int fd;          /* owned; -1: closed, or given up */
  bool seekable;   /* a file that the closing brackets can be written over in */
  bool first;      /* no event has been written yet */
  off_t offset;    /* of the closing brackets */
  uint64_t start_ns;
  track *tracks; /* by number - 1; owned */
  uint32_t track_count, track_capacity;
  pid_t pid; /* ours, for what belongs to no track */
  void (*failed)(const char *path, int number);
  char *path;
  size_t used;
  char buffer[BUFFER_BYTES];
};

/* ---- the file; the lock held, as in all that is static here ---- */

/* Writes all of it, at `offset` where the file can do that. 0 or an errno. */
static int write_all(uns_trace *trace, const char *bytes, size_t size, off_t offset) {
  while (size > 0) {
    ssize_t count = trace->seekable ? pwrite(trace->fd, bytes, size, offset) : write(trace->fd, bytes, size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    bytes += count;
    size -= (size_t)count;
    offset += count;
  }
  return 0;
}

/* It cannot be written any more: what there is stays a whole document, and the program goes on without. */
static void give_up(uns_trace *trace, int number) {
  if (trace->seekable && ftruncate(trace->fd, trace->offset) == 0) {
    write_all(trace, tail, sizeof tail - 1, trace->offset);
  }
  close(trace->fd);
  trace->fd = -1;
  trace->failed(trace->path, number);
}

static void flush(uns_trace *trace) {
  if (trace->fd < 0) {
    trace->used = 0;
    return;
  }
  size_t size = trace->used;
  if (trace->seekable) { /* there is room behind it */
    memcpy(trace->buffer + size, tail, sizeof tail - 1);
    size += sizeof tail - 1;
  }
  int status = write_all(trace, trace->buffer, size, trace->offset);
  if (status != 0) give_up(trace, status);
  trace->offset += (off_t)trace->used;
  trace->used = 0;
}

/* ---- one event ---- */

static void put_bytes(uns_trace *trace, const char *bytes, size_t size) {
  memcpy(trace->buffer + trace->used, bytes, size);
  trace->used += size;
}
#define PUT(trace, literal) put_bytes(trace, literal, sizeof(literal) - 1)

static void put_number(uns_trace *trace, uint64_t number) {
  char digits[20];
  size_t count = 0;
  do digits[count++] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  while (count > 0) trace->buffer[trace->used++] = digits[--count];
}

/* Microseconds, with all that the clock says behind the point. */
static void put_time(uns_trace *trace, uint64_t ns) {
  ns = ns > trace->start_ns ? ns - trace->start_ns : 0;
  unsigned rest = (unsigned)(ns % 1000);
  put_number(trace, ns / 1000);
  trace->buffer[trace->used++] = '.';
  trace->buffer[trace->used++] = (char)('0' + rest / 100);
  trace->buffer[trace->used++] = (char)('0' + rest / 10 % 10);
  trace->buffer[trace->used++] = (char)('0' + rest % 10);
}

/* How many bytes the character at `text` has; 0: these are no UTF-8. A zero byte is no continuation. */
static size_t utf8_length(const unsigned char *text) {
  size_t length = *text >= 0xf0 && *text <= 0xf4 ? 4 : *text >= 0xe0 ? 3 : *text >= 0xc2 ? 2 : 0;
  if (length == 0 || *text > 0xf4) return 0;
  for (size_t i = 1; i < length; i++) {
    if ((text[i] & 0xc0) != 0x80) return 0;
  }
  if (*text == 0xe0 && text[1] < 0xa0) return 0; /* longer than need be */
  if (*text == 0xed && text[1] > 0x9f) return 0; /* half of a pair */
  if (*text == 0xf0 && text[1] < 0x90) return 0;
  if (*text == 0xf4 && text[1] > 0x8f) return 0; /* beyond the last one */
  return length;
}

/* A string of the document: escaped, cut after `max` bytes, what is no UTF-8 replaced. */
static void put_text(uns_trace *trace, const char *text, size_t max) {
  static const char digits[] = "0123456789abcdef";
  trace->buffer[trace->used++] = '"';
  for (const unsigned char *at = (const unsigned char *)text; *at != 0 && (size_t)((const char *)at - text) < max;) {
    size_t length = *at < 0x80 ? 1 : utf8_length(at);
    if (length == 0) {
      PUT(trace, "\\ufffd");
      length = 1;
    } else if (*at < 0x20 || *at == 0x7f) {
      PUT(trace, "\\u00");
      trace->buffer[trace->used++] = digits[*at >> 4];
      trace->buffer[trace->used++] = digits[*at & 15];
    } else {
      if (*at == '"' || *at == '\\') trace->buffer[trace->used++] = '\\';
      put_bytes(trace, (const char *)at, length);
    }
    at += length;
  }
  trace->buffer[trace->used++] = '"';
}

/* Begins an event: of this kind, there, then. */
static void put_head(uns_trace *trace, char phase, pid_t pid, pid_t tid, uint64_t ns) {
  if (BUFFER_BYTES - trace->used < EVENT_MAX_BYTES + sizeof tail) flush(trace);
  if (!trace->first) PUT(trace, ",\n");
  trace->first = false;
  PUT(trace, "{\"ph\":\"");
  trace->buffer[trace->used++] = phase;
  PUT(trace, "\",\"pid\":");
  put_number(trace, (uint64_t)pid);
  PUT(trace, ",\"tid\":");
  put_number(trace, (uint64_t)tid);
  if (phase == 'M') return;
  PUT(trace, ",\"ts\":");
  put_time(trace, ns);
}

static void put_name(uns_trace *trace, const char *category, const char *name) {
  PUT(trace, ",\"cat\":");
  put_text(trace, category, NAME_MAX_BYTES);
  PUT(trace, ",\"name\":");
  put_text(trace, name, NAME_MAX_BYTES);
}

static void put_id(uns_trace *trace, uint64_t id) {
  PUT(trace, ",\"id\":");
  put_number(trace, id);
}

static void put_end(uns_trace *trace) { trace->buffer[trace->used++] = '}'; }

/* Begins an event on a track; NULL: there is none, or nothing is written any more. */
static track *put_head_on(uns_trace *trace, char phase, uint32_t number, uint64_t ns) {
  if (trace->fd < 0 || number == UNS_TRACE_NONE || number > trace->track_count) return NULL;
  track *on = &trace->tracks[number - 1];
  if (ns == 0) ns = uns_clock_ns();
  if (ns > on->last_ns) on->last_ns = ns;
  put_head(trace, phase, on->pid, on->tid, on->last_ns);
  return on;
}

/* What a process or a track is called. */
static void put_metadata(uns_trace *trace, const char *what, pid_t pid, pid_t tid, const char *name) {
  put_head(trace, 'M', pid, tid, 0);
  PUT(trace, ",\"name\":");
  put_text(trace, what, NAME_MAX_BYTES);
  PUT(trace, ",\"args\":{\"name\":");
  put_text(trace, name, NAME_MAX_BYTES);
  PUT(trace, "}");
  put_end(trace);
}

/* ---- for all ---- */

uns_trace *uns_trace_open(const char *path, void (*failed)(const char *path, int number)) {
  uns_trace *trace = uns_calloc(1, sizeof *trace);
  char *copy = trace != NULL ? uns_copy_text(path) : NULL;
  if (copy == NULL || uv_mutex_init(&trace->lock) != 0) {
    uns_free(copy);
    uns_free(trace);
    errno = ENOMEM;
    return NULL;
  }
  trace->path = copy;
  trace->failed = failed;
  trace->first = true;
  trace->pid = getpid();
  trace->start_ns = uns_clock_ns();
  trace->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  int saved = errno;
  if (trace->fd < 0) {
    uns_trace_free(trace);
    errno = saved;
    return NULL;
  }
  struct stat about;
  trace->seekable = fstat(trace->fd, &about) == 0 && S_ISREG(about.st_mode);
  PUT(trace, head);
  if (trace->seekable) flush(trace); /* from now on it is a whole document */
  return trace;
}

void uns_trace_close(uns_trace *trace) {
  uv_mutex_lock(&trace->lock);
  for (uint32_t number = 1; number <= trace->track_count; number++) {
    for (track *on = &trace->tracks[number - 1]; on->depth > 0; on->depth--) {
      if (put_head_on(trace, 'E', number, 0) != NULL) put_end(trace);
    }
  }
  if (trace->fd >= 0 && !trace->seekable) PUT(trace, tail);
  flush(trace);
  if (trace->fd >= 0) close(trace->fd);
  trace->fd = -1;
  uv_mutex_unlock(&trace->lock);
}

void uns_trace_free(uns_trace *trace) {
  if (trace == NULL) return;
  uv_mutex_destroy(&trace->lock);
  uns_free(trace->tracks);
  uns_free(trace->path);
  uns_free(trace);
}

/* Room for one more track. */
static bool grow_tracks(uns_trace *trace) {
  if (trace->track_count < trace->track_capacity) return true;
  uint32_t capacity = trace->track_capacity == 0 ? 16 : trace->track_capacity * 2;
  track *tracks = uns_realloc(trace->tracks, capacity * sizeof *tracks);
  if (tracks == NULL) return false;
  trace->tracks = tracks;
  trace->track_capacity = capacity;
  return true;
}

uint32_t uns_trace_track(uns_trace *trace, pid_t pid, pid_t tid, const char *process, const char *name) {
  uint32_t number = UNS_TRACE_NONE;
  uv_mutex_lock(&trace->lock);
  if (trace->fd >= 0 && grow_tracks(trace)) {
    trace->tracks[trace->track_count++] = (track){.pid = pid, .tid = tid};
    number = trace->track_count;
    if (process != NULL) put_metadata(trace, "process_name", pid, tid, process);
    put_metadata(trace, "thread_name", pid, tid, name);
  }
  uv_mutex_unlock(&trace->lock);
  return number;
}

void uns_trace_begin(uns_trace *trace, uint32_t number, uint64_t ns, const char *category, const char *name,
                     uint64_t id) {
  uv_mutex_lock(&trace->lock);
  track *on = put_head_on(trace, 'B', number, ns);
  if (on != NULL) {
    on->depth++;
    put_name(trace, category, name);
    if (id != 0) {
      PUT(trace, ",\"args\":{\"number\":");
      put_number(trace, id);
      PUT(trace, "}");
    }
    put_end(trace);
  }
  uv_mutex_unlock(&trace->lock);
}

void uns_trace_end(uns_trace *trace, uint32_t number, uint64_t ns) {
  uv_mutex_lock(&trace->lock);
  track *on = number != UNS_TRACE_NONE && number <= trace->track_count ? &trace->tracks[number - 1] : NULL;
  if (on != NULL && on->depth > 0 && put_head_on(trace, 'E', number, ns) != NULL) {
    on->depth--;
    put_end(trace);
  }
  uv_mutex_unlock(&trace->lock);
}

static void arrow(uns_trace *trace, char phase, uint32_t number, uint64_t ns, uint64_t id) {
  uv_mutex_lock(&trace->lock);
  if (put_head_on(trace, phase, number, ns) != NULL) {
    put_name(trace, "call", "call");
    put_id(trace, id);
    if (phase == 'f') PUT(trace, ",\"bp\":\"e\"");
    put_end(trace);
  }
  uv_mutex_unlock(&trace->lock);
}

void uns_trace_arrow_begin(uns_trace *trace, uint32_t number, uint64_t ns, uint64_t id) {
  arrow(trace, 's', number, ns, id);
}

void uns_trace_arrow_end(uns_trace *trace, uint32_t number, uint64_t ns, uint64_t id) {
  arrow(trace, 'f', number, ns, id);
}

static void async(uns_trace *trace, char phase, uint64_t ns, const char *category, const char *name, uint64_t id) {
  uv_mutex_lock(&trace->lock);
  if (trace->fd >= 0) {
    put_head(trace, phase, trace->pid, trace->pid, ns != 0 ? ns : uns_clock_ns());
    put_name(trace, category, name);
    put_id(trace, id);
    put_end(trace);
  }
  uv_mutex_unlock(&trace->lock);
}

void uns_trace_async_begin(uns_trace *trace, uint64_t ns, const char *category, const char *name, uint64_t id) {
  async(trace, 'b', ns, category, name, id);
}

void uns_trace_async_end(uns_trace *trace, uint64_t ns, const char *category, const char *name, uint64_t id) {
  async(trace, 'e', ns, category, name, id);
}

void uns_trace_note(uns_trace *trace, const char *category, const char *name, uint64_t id, const char *text) {
  uv_mutex_lock(&trace->lock);
  if (trace->fd >= 0) {
    put_head(trace, 'n', trace->pid, trace->pid, uns_clock_ns());
    put_name(trace, category, name);
    put_id(trace, id);
    PUT(trace, ",\"args\":{\"text\":");
    put_text(trace, text, TEXT_MAX_BYTES);
    PUT(trace, "}");
    put_end(trace);
  }
  uv_mutex_unlock(&trace->lock);
}
