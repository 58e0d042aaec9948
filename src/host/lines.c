#include "host/lines.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>

static struct {
  char *text; /* owned: the line */
  size_t size, capacity;
} own;

bool uns_lines_open(void) { return false; }

void uns_lines_close(void) {
  uns_free(own.text);
  own.text = NULL;
  own.size = own.capacity = 0;
}

static bool append(char byte) {
  if (own.size == own.capacity) {
    size_t capacity = own.capacity == 0 ? 256 : 2 * own.capacity;
    char *text = uns_realloc(own.text, capacity);
    if (text == NULL) return false;
    own.text = text;
    own.capacity = capacity;
  }
  own.text[own.size++] = byte;
  return true;
}

/* Takes what is there of a line; stdin is locked. True: it ends here, by its end or that of the input. */
static bool take(bool *ended) {
  do {
    int byte = getc_unlocked(stdin);
    if (byte == '\n') return true;
    if (byte == EOF && ferror(stdin) && (errno == EAGAIN || errno == EINTR)) {
      clearerr(stdin);
      return false;
    }
    if (byte == EOF || !append((char)byte)) {
      *ended = true;
      return true;
    }
  } while (uns_input_buffered());
  return false;
}

uns_lines_end uns_lines_read(const uns_turner *turner, const char *prompt, const char **line, size_t *size) {
  (void)prompt;
  own.size = 0;
  for (bool whole = false, ended = false; !whole;) {
    if (!uns_input_ready(true) && !uns_input_wait(turner)) return UNS_LINES_EOF;
    if (uns_input_take_interrupt()) return UNS_LINES_INTERRUPTED;
    if (ftrylockfile(stdin) != 0) { /* a thread reads: it comes back with mail */
      if (!turner->turn(turner->context)) return UNS_LINES_EOF;
      continue;
    }
    whole = take(&ended);
    funlockfile(stdin);
    if (ended && own.size == 0) return UNS_LINES_EOF;
  }
  *line = own.text != NULL ? own.text : "";
  *size = own.size;
  return UNS_LINES_READ;
}

/* remember(entries) */
static int lines_remember(lua_State *L) {
  (void)L;
  return 0;
}

/* complete(fn) */
static int lines_complete(lua_State *L) {
  (void)L;
  return 0;
}

void uns_lines_set(lua_State *L) {
  static const luaL_Reg functions[] = {{"remember", lines_remember}, {"complete", lines_complete}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
