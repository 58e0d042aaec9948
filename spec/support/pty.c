/*
 * pty: runs a program on a terminal of its own, for specs that look at a screen.
 *
 *   pty COLUMNS ROWS PROGRAM [ARGUMENT...]
 *
 *   - What the program writes comes out of stdout, as it is.
 *   - stdin takes orders, one a line: "send HEX" types these bytes, "size COLUMNS ROWS" changes the size,
 *     "signal NUMBER" is for the program, "group NUMBER" for whoever is in the foreground.
 *   - Ends with the program, with its exit code, or 128 and the signal. The end of stdin kills it.
 */
#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHUNK = 1 << 16 };

static int master;
static pid_t child;
static char *typed; /* not written yet: the program may be slow to read */
static size_t typed_size, typed_at;

static _Noreturn void die(const char *what) {
  fprintf(stderr, "pty: %s: %s\n", what, strerror(errno));
  exit(125);
}

static void write_all(int fd, const char *text, size_t size) {
  while (size > 0) {
    ssize_t count = write(fd, text, size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    text += count;
    size -= (size_t)count;
  }
}

static int digit(char hex) { return hex <= '9' ? hex - '0' : (hex | 32) - 'a' + 10; }

static void type(const char *hex) {
  size_t count = strlen(hex) / 2;
  char *all = realloc(typed, typed_size + count + 1);
  if (all == NULL) die("memory");
  typed = all;
  for (size_t i = 0; i < count; i++) typed[typed_size++] = (char)(digit(hex[2 * i]) * 16 + digit(hex[2 * i + 1]));
}

static void obey(char *order) {
  char *rest = strchr(order, ' ');
  if (rest == NULL) return;
  *rest++ = '\0';
  if (strcmp(order, "send") == 0) {
    type(rest);
  } else if (strcmp(order, "size") == 0) {
    char *rows;
    struct winsize size = {.ws_col = (unsigned short)strtoul(rest, &rows, 10)};
    size.ws_row = (unsigned short)strtoul(rows, NULL, 10);
    ioctl(master, TIOCSWINSZ, &size);
  } else if (strcmp(order, "signal") == 0) {
    kill(child, (int)strtol(rest, NULL, 10));
  } else if (strcmp(order, "group") == 0) {
    pid_t group = tcgetpgrp(master);
    if (group > 0) kill(-group, (int)strtol(rest, NULL, 10));
  }
}

/* Takes orders from stdin; false at its end. */
static bool take_orders(void) {
  static char *text;
  static size_t size, capacity;
  if (capacity - size < CHUNK) {
    capacity = 2 * capacity + CHUNK;
    text = realloc(text, capacity);
    if (text == NULL) die("memory");
  }
  ssize_t count = read(STDIN_FILENO, text + size, CHUNK);
  if (count <= 0) return false;
  size += (size_t)count;
  char *at = text;
  for (char *end; (end = memchr(at, '\n', size - (size_t)(at - text))) != NULL; at = end + 1) {
    *end = '\0';
    obey(at);
  }
  size -= (size_t)(at - text);
  memmove(text, at, size);
  return true;
}

/* Passes on what the program has written; false when nobody can write any more. */
static bool show(void) {
  static char text[CHUNK];
  ssize_t count = read(master, text, sizeof text);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (count <= 0) return false;
  write_all(STDOUT_FILENO, text, (size_t)count);
  return true;
}

static void feed(void) {
  ssize_t count = write(master, typed + typed_at, typed_size - typed_at);
  if (count > 0) typed_at += (size_t)count;
  if (typed_at == typed_size) typed_at = typed_size = 0;
}

int main(int argc, char **argv) {
  if (argc < 4) die("usage: pty COLUMNS ROWS PROGRAM [ARGUMENT...]");
  struct winsize size = {.ws_col = (unsigned short)atoi(argv[1]), .ws_row = (unsigned short)atoi(argv[2])};
  signal(SIGPIPE, SIG_IGN);
  child = forkpty(&master, NULL, NULL, &size);
  if (child < 0) die("forkpty");
  if (child == 0) {
    signal(SIGPIPE, SIG_DFL);
    execvp(argv[3], argv + 3);
    die(argv[3]);
  }
  int flags = 1;
  ioctl(master, FIONBIO, &flags);
  for (bool open = true; open;) {
    struct pollfd look[2] = {{.fd = master, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    if (typed_at < typed_size) look[0].events |= POLLOUT;
    if (poll(look, 2, -1) < 0) continue;
    if (look[0].revents & POLLOUT) feed();
    if (look[0].revents & (POLLIN | POLLHUP | POLLERR)) open = show();
    if (look[1].revents != 0 && !take_orders()) {
      kill(child, SIGKILL);
      break;
    }
  }
  int status;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
