#include "host/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>


enum {
  CHUNK = 1 << 16,
  PARTIAL_MAX = 512, /* bytes of an unfinished line that are written again when it goes on */
  LINGER_MS = 250,   /* what looks like half a mark is written after that */
  DRAIN_MAX_S = 20   /* a terminal that was stopped (Ctrl-S) keeps nobody for longer */
};

/* A mark in the output: what was printed before it has been read when it has. No terminal shows it. */
#define MARK_HEAD "\033_unsync:"
#define MARK_TAIL "\033\\"
enum { MARK_DIGITS = 8, MARK_SIZE = sizeof MARK_HEAD - 1 + MARK_DIGITS + sizeof MARK_TAIL - 1 };

static struct {
  bool open;
  int master, slave; /* of the pseudo-terminal */
  int saved[2];      /* what descriptors 1 and 2 were; -1: left alone */
  FILE *screen;      /* the real one */
  pthread_t thread;
  pthread_mutex_t lock; /* all that follows, and the screen */
  pthread_cond_t marked;
  unsigned asked, seen; /* marks */
  const uns_screen_line *line;
  char partial[PARTIAL_MAX]; /* the beginning of an unfinished line that stands above the edited one */
  size_t partial_size;
  bool at_start; /* the cursor is at the beginning of a line, as far as output says */
  bool ending;
} terminal = {.lock = PTHREAD_MUTEX_INITIALIZER, .marked = PTHREAD_COND_INITIALIZER};

FILE *uns_terminal_screen(void) { return terminal.screen; }
void uns_terminal_lock(void) { pthread_mutex_lock(&terminal.lock); }
void uns_terminal_unlock(void) { pthread_mutex_unlock(&terminal.lock); }

static unsigned columns(void) {
  struct winsize size;
  return ioctl(fileno(terminal.screen), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* ---- writing above the line ---- */

static void put(const char *text, size_t size) { fwrite(text, 1, size, terminal.screen); }

/* What stands behind the last newline of `text` may go on later, if it is short and plain. */
static void keep_partial(const char *text, size_t size) {
  const char *newline = memrchr(text, '\n', size);
  if (newline != NULL) {
    size -= (size_t)(newline + 1 - text);
    text = newline + 1;
    terminal.partial_size = 0;
  }
  bool plain = terminal.partial_size + size < sizeof terminal.partial && terminal.partial_size + size < columns();
  for (size_t i = 0; i < size && plain; i++) plain = (unsigned char)text[i] >= ' ' && (unsigned char)text[i] < 127;
  if (!plain) {
    terminal.partial_size = 0;
    return;
  }
  memcpy(terminal.partial + terminal.partial_size, text, size);
  terminal.partial_size += size;
}

static void show(const char *text, size_t size) {
  if (size == 0) return;
  const uns_screen_line *line = terminal.line;
  if (line != NULL) {
    line->erase(terminal.screen);
    if (terminal.partial_size > 0) {
      fputs("\033[A\r", terminal.screen);
      put(terminal.partial, terminal.partial_size);
    }
  }
  put(text, size);
  terminal.at_start = text[size - 1] == '\n';
  if (line != NULL) {
    keep_partial(text, size);
    if (!terminal.at_start) fputs("\r\n", terminal.screen);
    terminal.at_start = true;
    line->draw();
  }
  fflush(terminal.screen);
}

void uns_terminal_set_line(const uns_screen_line *line) {
  terminal.line = line;
  terminal.partial_size = 0;
  terminal.at_start = true;
}

/* ---- marks ---- */

/* How many bytes at the end of `text` may be the beginning of a mark. */
static size_t half_mark(const char *text, size_t size) {
  size_t most = size < MARK_SIZE - 1 ? size : MARK_SIZE - 1;
  for (size_t count = most; count > 0; count--) {
    size_t head = count < sizeof MARK_HEAD - 1 ? count : sizeof MARK_HEAD - 1;
    if (memcmp(text + size - count, MARK_HEAD, head) == 0) return count;
  }
  return 0;
}

static void take_mark(const char *mark) {
  char digits[MARK_DIGITS + 1];
  memcpy(digits, mark + sizeof MARK_HEAD - 1, MARK_DIGITS);
  digits[MARK_DIGITS] = '\0';
  terminal.seen = (unsigned)strtoul(digits, NULL, 16);
  pthread_cond_broadcast(&terminal.marked);
}

/* Shows `text` but for the marks in it; returns how much of its end must wait for more. */
static size_t show_all(const char *text, size_t size) {
  for (;;) {
    const char *mark = memmem(text, size, MARK_HEAD, sizeof MARK_HEAD - 1);
    if (mark == NULL || (size_t)(text + size - mark) < MARK_SIZE) break;
    show(text, (size_t)(mark - text));
    take_mark(mark);
    size -= (size_t)(mark - text) + MARK_SIZE;
    text = mark + MARK_SIZE;
  }
  size_t rest = half_mark(text, size);
  show(text, size - rest);
  return rest;
}

/* ---- the thread ---- */

static bool wait_readable(int timeout_ms) {
  struct pollfd poll_master = {.fd = terminal.master, .events = POLLIN};
  int count;
  do count = poll(&poll_master, 1, timeout_ms);
  while (count < 0 && errno == EINTR);
  return count != 0;
}

static void *pump(void *unused) {
  (void)unused;
  static char text[CHUNK];
  size_t kept = 0;
  for (bool ending = false; !ending;) {
    if (!wait_readable(kept > 0 ? LINGER_MS : -1)) {
      uns_terminal_lock();
      show(text, kept); /* it was no mark */
      uns_terminal_unlock();
      kept = 0;
      continue;
    }
    ssize_t count = read(terminal.master, text + kept, sizeof text - kept);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) break;
    uns_terminal_lock();
    size_t size = kept + (size_t)count, rest = show_all(text, size);
    memmove(text, text + size - rest, rest);
    kept = rest;
    ending = terminal.ending && terminal.seen == terminal.asked;
    uns_terminal_unlock();
  }
  return NULL;
}

/* Waits until the thread has seen a mark that is written now. */
static void wait_mark(void) {
  char mark[MARK_SIZE + 1];
  uns_terminal_lock();
  unsigned number = ++terminal.asked;
  uns_terminal_unlock();
  snprintf(mark, sizeof mark, MARK_HEAD "%0*x" MARK_TAIL, MARK_DIGITS, number);
  ssize_t count;
  do count = write(terminal.slave, mark, MARK_SIZE);
  while (count < 0 && errno == EINTR);
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += DRAIN_MAX_S;
  uns_terminal_lock();
  while (terminal.seen != number && count == MARK_SIZE) {
    if (pthread_cond_timedwait(&terminal.marked, &terminal.lock, &until) == ETIMEDOUT) break;
  }
  uns_terminal_unlock();
}

void uns_terminal_drain(void) {
  fflush(stdout);
  fflush(stderr);
  if (!terminal.open) return;
  wait_mark();
  uns_terminal_lock();
  if (!terminal.at_start) {
    /* Where the cursor is not known for sure (what was typed is not seen here): blanks for a whole line end in this one
       or the next, and the beginning of that is free. */
    fprintf(terminal.screen, "%*s\r\033[K", (int)columns() - 1, "");
    fflush(terminal.screen);
    terminal.at_start = true;
  }
  uns_terminal_unlock();
}

/* ---- opening and closing ---- */

void uns_terminal_resized(void) {
  struct winsize size;
  if (terminal.open && ioctl(fileno(terminal.screen), TIOCGWINSZ, &size) == 0)
    ioctl(terminal.master, TIOCSWINSZ, &size);
}

/* The same device as the one that stdout is. */
static bool is_terminal(int fd, const struct stat *screen) {
  struct stat what;
  return isatty(fd) && fstat(fd, &what) == 0 && what.st_rdev == screen->st_rdev;
}

/* A pseudo-terminal that changes nothing of what is written to it. False with nothing open. */
static bool open_pair(void) {
  terminal.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal.master < 0) return false;
  char name[64];
  struct termios modes;
  terminal.slave = -1;
  if (grantpt(terminal.master) == 0 && unlockpt(terminal.master) == 0 &&
      ptsname_r(terminal.master, name, sizeof name) == 0) {
    terminal.slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  }
  if (terminal.slave >= 0 && tcgetattr(terminal.slave, &modes) == 0) {
    cfmakeraw(&modes);
    if (tcsetattr(terminal.slave, TCSANOW, &modes) == 0) return true;
  }
  if (terminal.slave >= 0) close(terminal.slave);
  close(terminal.master);
  return false;
}

static bool start_thread(void) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the main thread */
  int status = pthread_create(&terminal.thread, NULL, pump, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status == 0;
}

static void put_back(void) {
  for (int i = 0; i < 2; i++) {
    if (terminal.saved[i] < 0) continue;
    dup2(terminal.saved[i], i + 1);
    close(terminal.saved[i]);
  }
}

bool uns_terminal_open(void) {
  struct stat screen;
  if (terminal.open || fstat(STDOUT_FILENO, &screen) != 0) return terminal.open;
  int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (fd < 0) return false;
  terminal.screen = fdopen(fd, "w");
  if (terminal.screen == NULL) {
    close(fd);
    return false;
  }
  fflush(stdout);
  fflush(stderr);
  if (open_pair()) {
    terminal.at_start = true;
    terminal.ending = false;
    terminal.asked = terminal.seen = 0;
    for (int i = 0; i < 2; i++) {
      terminal.saved[i] = is_terminal(i + 1, &screen) ? fcntl(i + 1, F_DUPFD_CLOEXEC, 3) : -1;
      if (terminal.saved[i] >= 0) dup2(terminal.slave, i + 1);
    }
    if (start_thread()) {
      terminal.open = true;
      uns_terminal_resized();
      return true;
    }
    put_back();
    close(terminal.master);
    close(terminal.slave);
  }
  fclose(terminal.screen);
  terminal.screen = NULL;
  return false;
}

void uns_terminal_close(void) {
  if (!terminal.open) return;
  fflush(stdout);
  fflush(stderr);
  put_back();
  uns_terminal_lock();
  terminal.line = NULL;
  terminal.ending = true;
  uns_terminal_unlock();
  wait_mark();
  pthread_join(terminal.thread, NULL);
  terminal.open = false;
  close(terminal.slave);
  close(terminal.master);
  fclose(terminal.screen);
  terminal.screen = NULL;
}
