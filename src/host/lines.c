#include "host/lines.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host/editor.h"
#include "host/signals.h"
#include "host/terminal.h"

static struct {
  char *text; /* owned: the line */
  size_t size, capacity;
  bool shown, edited; /* there is a terminal; and it is one that lines can be edited on */
} own;

static const char complete_key = 0; /* registry: the function that completes */

bool uns_lines_open(void) {
  own.shown = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  own.edited = own.shown && uns_editor_open();
  return own.shown;
}

void uns_lines_close(void) {
  uns_editor_close();
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

static uns_lines_end read_plain(const uns_turner *turner, const char **line, size_t *size) {
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

/* ---- completion ---- */

typedef struct {
  const char *text;
  size_t size;
  char *insert, *list; /* owned by who asked */
} question;

static char *copy_of(const char *text, size_t size) {
  char *copy = uns_malloc(size + 1);
  if (copy == NULL) return NULL;
  memcpy(copy, text, size);
  copy[size] = '\0';
  return copy;
}

/* The strings of the list at `index`, each with its zero, and another. */
static char *pack_list(lua_State *L, int index) {
  luaL_Buffer buffer;
  lua_Integer count = luaL_len(L, index);
  luaL_buffinit(L, &buffer);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, index, i);
    luaL_addvalue(&buffer);
    luaL_addchar(&buffer, '\0');
  }
  luaL_pushresult(&buffer);
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  return copy_of(text, size);
}

static int ask(lua_State *L) {
  question *asked = lua_touserdata(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &complete_key);
  lua_pushlstring(L, asked->text, asked->size);
  lua_call(L, 1, 3);
  size_t start, size;
  luaL_checklstring(L, 2, &start);
  const char *common = luaL_checklstring(L, 3, &size);
  if (size > start) asked->insert = copy_of(common + start, size - start);
  else asked->list = pack_list(L, 4);
  return 0;
}

static void complete(uns_runtime *runtime, const char *text, size_t size, char **insert, char **list) {
  lua_State *L = runtime->L;
  question asked = {.text = text, .size = size};
  if (!lua_checkstack(L, 4)) return;
  lua_pushcfunction(L, ask);
  lua_pushlightuserdata(L, &asked);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1); /* there is nothing to complete, then */
  *insert = asked.insert;
  *list = asked.list;
}

/* ---- both ---- */

uns_lines_end uns_lines_read(const uns_turner *turner, const char *prompt, const char **line, size_t *size) {
  if (own.edited) return uns_editor_read(turner, prompt, complete, line, size);
  if (own.shown) {
    fputs(prompt, stdout);
    fflush(stdout);
  }
  uns_lines_end end = read_plain(turner, line, size);
  if (own.shown && end != UNS_LINES_READ) {
    fputs("\n", stdout);
    if (uns_signals_count() > 1 && end == UNS_LINES_INTERRUPTED) return UNS_LINES_INTERRUPTED_TWICE;
    clearerr(stdin);
  }
  if (end == UNS_LINES_READ) uns_signals_forgive();
  return end;
}

/* remember(entries) */
static int lines_remember(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer count = luaL_len(L, 1);
  for (lua_Integer i = 1; own.edited && i <= count; i++) {
    lua_rawgeti(L, 1, i);
    uns_editor_remember(luaL_checkstring(L, -1));
    lua_pop(L, 1);
  }
  return 0;
}

/* complete(fn) */
static int lines_complete(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &complete_key);
  return 0;
}

/* fresh() */
static int lines_fresh(lua_State *L) {
  (void)L;
  if (own.edited) uns_terminal_drain();
  return 0;
}

void uns_lines_set(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"fresh", lines_fresh}, {"remember", lines_remember}, {"complete", lines_complete}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
