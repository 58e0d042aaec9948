/*
 * output: print, io.write and file:write put their text out in one piece, whatever other threads print meanwhile.
 *
 *   - Arguments are checked and turned into text first; then the stream is locked, and nothing in between can raise.
 *   - A standard output that nobody reads any more ends the script: SIGPIPE does not, and a script that looks at the
 *     result of each write is rare. Where the write fails, or the flush, EPIPE is raised.
 *   - What goes to a command of io.popen that does not read makes the task wait, not the loop.
 */
#include <errno.h>
#include <stdio.h>
#include <lualib.h>

#include "bind/pipe_writer.h"
#include "bind/stdlib.h"
#include "core/error.h"

enum { NUMBER_MAX = 64 }; /* any number as text */

static int raise_broken_pipe(lua_State *L) {
  uns_error_push_errno(L, EPIPE, "standard output");
  return lua_error(L);
}

/* One character, by a call: putc_unlocked is compiled in, and checkers that do not see flockfile take it for a race. */
static bool put(const char *character) { return (fwrite_unlocked)(character, 1, 1, stdout) == 1; }

/* print(...): without upvalues, as in stock Lua, where debug.getinfo shows it */
static int output_print(lua_State *L) {
  int count = lua_gettop(L);
  luaL_checkstack(L, count + LUA_MINSTACK, "too many arguments");
  for (int i = 1; i <= count; i++) {
    luaL_tolstring(L, i, NULL);
    lua_replace(L, i);
  }
  flockfile(stdout);
  bool fine = true;
  for (int i = 1; i <= count; i++) {
    size_t size;
    const char *text = lua_tolstring(L, i, &size);
    if (i > 1) fine &= put("\t");
    fine &= fwrite_unlocked(text, 1, size, stdout) == size;
  }
  fine &= put("\n");
  fine &= fflush_unlocked(stdout) == 0;
  bool broken = !fine && errno == EPIPE;
  funlockfile(stdout);
  return broken ? raise_broken_pipe(L) : 0;
}

/* Writes the arguments from `first` to `last`, strings and numbers only, in one piece. False with errno set. */
static bool write_all(lua_State *L, FILE *file, int first, int last) {
  bool fine = true;
  flockfile(file);
  for (int i = first; i <= last; i++) {
    if (lua_type(L, i) == LUA_TNUMBER) {
      char text[NUMBER_MAX];
      int size = lua_isinteger(L, i) ? snprintf(text, sizeof text, LUA_INTEGER_FMT, (LUAI_UACINT)lua_tointeger(L, i))
                                     : snprintf(text, sizeof text, LUA_NUMBER_FMT, (LUAI_UACNUMBER)lua_tonumber(L, i));
      fine = fine && size > 0 && fwrite_unlocked(text, 1, (size_t)size, file) == (size_t)size;
    } else {
      size_t size;
      const char *text = lua_tolstring(L, i, &size);
      fine = fine && fwrite_unlocked(text, 1, size, file) == size;
    }
  }
  int saved = errno;
  funlockfile(file);
  errno = saved;
  return fine;
}

/* The results of an operation on `file` whose own results, `count` of them, are on top: unless its reader has gone. */
static int finish(lua_State *L, const FILE *file, int count) {
  if (file != stdout || lua_toboolean(L, -count) || count < 3 || lua_tointeger(L, -1) != EPIPE) return count;
  return raise_broken_pipe(L);
}

/* The writer of the command that the file at `index` goes to, if the task is to wait where that does not read; or NULL. */
static uns_pipe_writer *begin(lua_State *L, int index) {
  uns_pipe_writer *writer = uns_pipe_writer_of(L, index);
  if (writer != NULL) uns_pipe_writer_begin(writer, L);
  return writer;
}

/* The wait for what went to the file at `index` is over, true, or what has to be returned instead is pushed. */
static bool after_wait(lua_State *L, int index) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_pipe_writer *writer = uns_pipe_writer_of(L, index);
  uns_pipe_writer_check_wait(writer, runtime);
  uns_task_check_interrupt(runtime, L);
  int error = writer != NULL ? uns_pipe_writer_error(writer) : 0;
  errno = error;
  if (error != 0) luaL_fileresult(L, 0, NULL);
  return error == 0;
}

static int after_write(lua_State *L, int status, lua_KContext index) {
  (void)status;
  if (!after_wait(L, (int)index)) return 3;
  lua_pushvalue(L, (int)index);
  return 1;
}

static int after_flush(lua_State *L, int status, lua_KContext index) {
  (void)status;
  if (!after_wait(L, (int)index)) return 3;
  lua_pushboolean(L, true);
  return 1;
}

/* The file lies on top, to be returned. */
static int write_arguments(lua_State *L, FILE *file, int first) {
  int index = lua_gettop(L), last = index - 1;
  for (int i = first; i <= last; i++) {
    if (lua_type(L, i) != LUA_TNUMBER) luaL_checkstring(L, i);
  }
  uns_pipe_writer *writer = begin(L, index);
  bool fine = write_all(L, file, first, last);
  int error = errno;
  bool behind = writer != NULL && uns_pipe_writer_is_behind(writer);
  if (fine && behind) return uns_pipe_writer_wait(writer, L, index, after_write);
  if (fine) return 1;
  errno = error;
  return finish(L, file, luaL_fileresult(L, 0, NULL));
}

/* io.flush and file:flush, of the file at `index`; `file` is its stream, or NULL. */
static int flush(lua_State *L, const FILE *file, int index) {
  uns_pipe_writer *writer = begin(L, index);
  int count = uns_stdlib_stock(L);
  bool behind = writer != NULL && uns_pipe_writer_is_behind(writer);
  if (behind && lua_toboolean(L, -count)) return uns_pipe_writer_wait(writer, L, index, after_flush);
  return finish(L, file, count);
}

static luaL_Stream *push_default_output(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, UNS_STDLIB_OUTPUT_KEY);
  return lua_touserdata(L, -1);
}

/* io.write(...) -> file | nil, message, errno */
static int io_write(lua_State *L) {
  luaL_Stream *stream = push_default_output(L);
  if (stream->closef == NULL) luaL_error(L, "default output file is closed");
  return write_arguments(L, stream->f, 1);
}

/* io.flush() */
static int io_flush(lua_State *L) {
  lua_settop(L, 0);
  const luaL_Stream *stream = push_default_output(L);
  return flush(L, stream->closef != NULL ? stream->f : NULL, 1);
}

/* The open file at index 1. */
static FILE *check_file(lua_State *L) {
  luaL_Stream *stream = luaL_checkudata(L, 1, LUA_FILEHANDLE);
  if (stream->closef == NULL) luaL_error(L, "attempt to use a closed file");
  return stream->f;
}

/* file:write(...) -> file | nil, message, errno */
static int file_write(lua_State *L) {
  FILE *file = check_file(L);
  lua_pushvalue(L, 1);
  return write_arguments(L, file, 2);
}

/* file:flush() */
static int file_flush(lua_State *L) { return flush(L, check_file(L), 1); }

static const luaL_Reg io_functions[] = {{"write", io_write}, {"flush", io_flush}, {NULL, NULL}};
static const luaL_Reg file_methods[] = {{"write", file_write}, {"flush", file_flush}, {NULL, NULL}};

void uns_bind_output(lua_State *L, uns_runtime *runtime) {
  if (uns_stdlib_push_library(L, LUA_GNAME)) {
    lua_getfield(L, -1, "print");
    if (uns_stdlib_is_plain(L, -1)) {
      lua_pushcfunction(L, output_print);
      lua_setfield(L, -3, "print");
    }
    lua_pop(L, 2);
  }
  if (uns_stdlib_push_library(L, LUA_IOLIBNAME)) {
    uns_stdlib_replace(L, runtime, io_functions);
    lua_pop(L, 1);
  }
  if (luaL_getmetatable(L, LUA_FILEHANDLE) == LUA_TTABLE) {
    if (lua_getfield(L, -1, "__index") == LUA_TTABLE) uns_stdlib_replace(L, runtime, file_methods);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}
