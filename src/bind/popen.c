/*
 * popen: io.popen, and reading from the files that it makes. The task waits for what the command writes, and for its end
 * where it closes the file; the loop does not.
 *
 *   - The io library's own functions do the work: a file of ours is one of its files with more behind it. They are let at
 *     it when they will not block, and block as stock Lua does where nothing can wait.
 *   - Collecting a forgotten pipe never waits.
 * The command: bind/command.c. What comes from it: bind/pipe_reader.c. What goes there: bind/pipe_writer.c, output.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <lualib.h>

#include "bind/command.h"
#include "bind/pipe_reader.h"
#include "bind/pipe_writer.h"
#include "bind/stdlib.h"
#include "exec/executors.h"

static const char pipe_tag = 0;

/* A file handle of Lua's io library, and what is behind it. */
typedef struct {
  luaL_Stream stream;
  const void *tag;         /* &pipe_tag */
  uns_command *command;    /* drop_command lets it go; or NULL */
  uns_pipe_reader *reader; /* the stream's, while that is open, or NULL */
  uns_pipe_writer *writer; /* likewise: a stream has one of them */
  bool broken_off;         /* a read was: nobody may want the command any more */
} pipe_stream;

/* The userdata at `index`, some file handle, if it is one of ours. */
static pipe_stream *test_pipe(lua_State *L, int index) {
  pipe_stream *stream = lua_touserdata(L, index);
  return stream != NULL && lua_rawlen(L, index) >= sizeof *stream && stream->tag == &pipe_tag ? stream : NULL;
}

uns_pipe_writer *uns_pipe_writer_of(lua_State *L, int index) {
  pipe_stream *stream = test_pipe(L, index);
  return stream != NULL && stream->stream.closef != NULL ? stream->writer : NULL;
}

static void drop_command(pipe_stream *stream) {
  uns_command *c = stream->command;
  stream->command = NULL;
  if (c != NULL) uns_command_let_go(c);
}

static int end_pipe(lua_State *L, pipe_stream *stream) {
  uns_command_reap(stream->command, 0);
  int count = uns_command_push_result(L, stream->command);
  drop_command(stream);
  return count;
}

static int after_pipe_wait(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  pipe_stream *stream = lua_touserdata(L, 1);
  uns_command_check_wait(L, stream->command);
  if (uns_command_can_wait(L, stream->command)) return uns_command_wait(L, stream->command, after_pipe_wait);
  return end_pipe(L, stream);
}

static void close_stream(pipe_stream *stream) {
  fclose(stream->stream.f);
  stream->reader = NULL;
  stream->writer = NULL;
}

static bool is_open(const pipe_stream *stream) { return stream->reader != NULL || stream->writer != NULL; }

static int close_now(lua_State *L, pipe_stream *stream) {
  close_stream(stream);
  if (uns_command_can_wait(L, stream->command)) return uns_command_wait(L, stream->command, after_pipe_wait);
  return end_pipe(L, stream);
}

static int after_last_write(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  pipe_stream *stream = lua_touserdata(L, 1);
  uns_runtime *runtime = uns_command_runtime(stream->command);
  uns_pipe_writer_check_wait(stream->writer, runtime);
  if (uns_task_is_interrupted(runtime->current)) { /* nobody will close it later; and it has read but a part */
    uns_pipe_writer_leave(stream->writer);
    close_stream(stream);
    uns_command_terminate(stream->command);
  }
  uns_task_check_interrupt(runtime, L);
  return close_now(L, stream);
}

/* The io library closes the file at index 1, in the frame of its own function, be it a method, io.close or __close. */
static int close_pipe(lua_State *L) {
  pipe_stream *stream = lua_touserdata(L, 1);
  if (stream->writer == NULL) return close_now(L, stream);
  uns_pipe_writer_begin(stream->writer, L);
  fflush(stream->stream.f);
  if (!uns_pipe_writer_is_behind(stream->writer)) return close_now(L, stream);
  return uns_pipe_writer_wait(stream->writer, L, 0, after_last_write);
}

/* __gc of all files: a forgotten pipe must not hold the loop until its command ends. */
static int file_gc(lua_State *L) {
  pipe_stream *stream = test_pipe(L, 1);
  if (stream == NULL) return uns_stdlib_stock(L);
  uns_command *c = stream->command;
  if (is_open(stream)) {
    stream->stream.closef = NULL;
    if (stream->writer != NULL) stream->broken_off = uns_pipe_writer_leave(stream->writer);
    close_stream(stream);
    if (stream->broken_off) uns_command_terminate(c);
    const uns_runtime *runtime = uns_command_runtime(c);
    if (runtime == NULL || runtime->closing) uns_command_reap(c, 0); /* the state ends: as in stock Lua */
  }
  drop_command(stream);
  return 0;
}

/*
 * What the script has written comes before what the command writes, as in stock Lua. With pool threads about, though, a
 * stream may be locked for as long as one of them reads from it, so only the usual ones are flushed.
 */
static void flush_output(lua_State *L, uns_runtime *runtime) {
  bool threads = runtime->is_worker;
  if (!threads && runtime->executors != NULL) {
    uv_mutex_lock(&runtime->executors->lock);
    threads = runtime->executors->pool != NULL;
    uv_mutex_unlock(&runtime->executors->lock);
  }
  if (!threads) {
    fflush(NULL);
    return;
  }
  fflush(stdout);
  fflush(stderr);
  lua_getfield(L, LUA_REGISTRYINDEX, UNS_STDLIB_OUTPUT_KEY);
  const luaL_Stream *output = lua_touserdata(L, -1);
  if (output != NULL && output->closef != NULL) fflush(output->f);
  lua_pop(L, 1);
}

/* Starts `command` with one end of a new pipe; the stream gets the other one. errno, or 0. */
static int open_pipe(pipe_stream *stream, const char *command, const char *mode) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  bool reads = *mode == 'r';
  int ours = ends[reads ? 0 : 1], its = ends[reads ? 1 : 0];
  uns_runtime *runtime = uns_command_runtime(stream->command);
  FILE *file = reads ? uns_pipe_reader_open(runtime, ours, &stream->reader)
                     : uns_pipe_writer_open(runtime, ours, &stream->writer);
  int error = file == NULL ? errno
                           : uns_command_start(stream->command, command, its, reads ? STDOUT_FILENO : STDIN_FILENO);
  close(its);
  if (error == 0) {
    stream->stream.f = file;
    stream->stream.closef = close_pipe;
  } else if (file != NULL) {
    stream->stream.f = file;
    close_stream(stream);
  } else {
    close(ours);
  }
  return error;
}

/* popen(command [, mode]) -> file | nil, message, errno */
static int io_popen(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const char *command = luaL_checkstring(L, 1);
  const char *mode = luaL_optstring(L, 2, "r");
  luaL_argcheck(L, strcmp(mode, "r") == 0 || strcmp(mode, "w") == 0, 2, "invalid mode");
  flush_output(L, runtime);
  pipe_stream *stream = lua_newuserdatauv(L, sizeof *stream, 0);
  stream->stream.closef = NULL;
  stream->tag = &pipe_tag;
  stream->command = NULL;
  stream->reader = NULL;
  stream->writer = NULL;
  stream->broken_off = false;
  luaL_setmetatable(L, LUA_FILEHANDLE);
  stream->command = uns_command_new(runtime);
  if (stream->command == NULL) return luaL_error(L, "not enough memory");
  int error = open_pipe(stream, command, mode);
  if (error == 0) return 1;
  errno = error;
  return luaL_fileresult(L, 0, command);
}

/* ---- reading ---- */

/*
 * If the file at index 1 reads from a command which has not written what the formats from `first` up ask for, and the task can
 * wait for that: the reader to wait at. Else NULL: the stock function is to be called now.
 */
static uns_pipe_reader *to_wait_at(lua_State *L, int first) {
  const pipe_stream *stream = test_pipe(L, 1);
  if (stream == NULL || stream->reader == NULL || stream->stream.closef == NULL) return NULL;
  if (uns_pipe_reader_has(stream->reader, stream->stream.f, L, first)) return NULL;
  return uns_pipe_reader_can_wait(stream->reader, L) ? stream->reader : NULL;
}

/* Begins a continuation; the stream may have been closed meanwhile. */
static void check_read(lua_State *L, uns_runtime *runtime) {
  pipe_stream *stream = test_pipe(L, 1);
  if (stream->reader != NULL) uns_pipe_reader_check_wait(stream->reader);
  if (uns_task_is_interrupted(runtime->current)) stream->broken_off = true;
  uns_task_check_interrupt(runtime, L);
}

static int file_read(lua_State *L);
static int after_read(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  check_read(L, uns_upvalue_runtime(L));
  return file_read(L);
}

/* file:read(formats...), of all files */
static int file_read(lua_State *L) {
  uns_pipe_reader *reader = to_wait_at(L, 2);
  return reader != NULL ? uns_pipe_reader_wait(reader, L, after_read) : uns_stdlib_stock(L);
}

/* Upvalues of an iterator over lines: the runtime, the io library's own iterator, the file, a list of formats with their number. */
enum { LINES_STOCK = 2, LINES_FILE, LINES_FORMATS };

static int next_line(lua_State *L);
static int after_line(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  check_read(L, uns_upvalue_runtime(L));
  return next_line(L);
}

/* (file, formats...) */
static int next_line(lua_State *L) {
  uns_pipe_reader *reader = to_wait_at(L, 2);
  if (reader != NULL) return uns_pipe_reader_wait(reader, L, after_line);
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(LINES_STOCK));
  lua_call(L, 0, LUA_MULTRET);
  return lua_gettop(L);
}

static int lines_iterator(lua_State *L) {
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(LINES_FILE));
  lua_rawgeti(L, lua_upvalueindex(LINES_FORMATS), 0);
  int count = (int)lua_tointeger(L, -1);
  lua_settop(L, 1);
  luaL_checkstack(L, count + 1, NULL);
  for (int i = 1; i <= count; i++) lua_rawgeti(L, lua_upvalueindex(LINES_FORMATS), i);
  if (count > 0 && lua_type(L, 2) != LUA_TNUMBER) { /* from in there the message would not name the iterator */
    const char *format = luaL_checkstring(L, 2);
    if (*format == '*') format++;
    if (*format == '\0' || strchr("nlLa", *format) == NULL) return luaL_argerror(L, 2, "invalid format");
  }
  return next_line(L);
}

/* file:lines(formats...) -> iterator, of all files */
static int file_lines(lua_State *L) {
  const pipe_stream *stream = test_pipe(L, 1);
  if (stream == NULL || stream->reader == NULL || stream->stream.closef == NULL) return uns_stdlib_stock(L);
  int count = lua_gettop(L);
  luaL_checkstack(L, count + 5, "too many arguments");
  lua_pushlightuserdata(L, uns_upvalue_runtime(L));
  lua_pushvalue(L, lua_upvalueindex(2));
  for (int i = 1; i <= count; i++) lua_pushvalue(L, i);
  lua_call(L, count, 1);
  lua_pushvalue(L, 1);
  lua_createtable(L, count - 1, 1);
  lua_pushinteger(L, count - 1);
  lua_rawseti(L, -2, 0);
  for (int i = 2; i <= count; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, i - 1);
  }
  lua_pushcclosure(L, lines_iterator, LINES_FORMATS);
  return 1;
}

/* ---- reading the default input ---- */

/* The registry's key for the io library's default input, a file. */
#define INPUT_KEY "_IO_input"

static bool push_default_input(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, INPUT_KEY);
  const pipe_stream *stream = test_pipe(L, -1);
  return stream != NULL && stream->reader != NULL && stream->stream.closef != NULL;
}

static int read_default(lua_State *L);
static int after_read_default(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  check_read(L, uns_upvalue_runtime(L));
  return read_default(L);
}

/* io.read(formats...), from the file at index 1 */
static int read_default(lua_State *L) {
  uns_pipe_reader *reader = to_wait_at(L, 2);
  if (reader != NULL) return uns_pipe_reader_wait(reader, L, after_read_default);
  push_default_input(L);
  bool same = lua_rawequal(L, -1, 1);
  lua_pop(L, 1);
  if (same) {
    lua_remove(L, 1);
    return uns_stdlib_stock(L);
  }
  luaL_getmetafield(L, 1, "__index"); /* another one has been set meanwhile */
  lua_getfield(L, -1, "read");
  lua_insert(L, 1);
  lua_pop(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

static int io_read(lua_State *L) {
  if (!push_default_input(L)) {
    lua_pop(L, 1);
    return uns_stdlib_stock(L);
  }
  lua_insert(L, 1);
  return read_default(L);
}

/* lines([name, formats...]) */
static int io_lines(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) return uns_stdlib_stock(L);
  if (!push_default_input(L)) {
    lua_pop(L, 1);
    return uns_stdlib_stock(L);
  }
  if (lua_gettop(L) > 1) lua_replace(L, 1); /* in the place of the name */
  luaL_getmetafield(L, 1, "__index");
  lua_getfield(L, -1, "lines");
  lua_insert(L, 1);
  lua_pop(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  return 1;
}

static const luaL_Reg file_methods[] = {{"read", file_read}, {"lines", file_lines}, {NULL, NULL}};

static const luaL_Reg io_functions[] = {{"popen", io_popen}, {"read", io_read}, {"lines", io_lines}, {NULL, NULL}};
static const luaL_Reg file_meta[] = {{"__gc", file_gc}, {NULL, NULL}};

void uns_bind_popen(lua_State *L, uns_runtime *runtime) {
  if (uns_stdlib_push_library(L, LUA_IOLIBNAME)) {
    uns_stdlib_replace(L, runtime, io_functions);
    lua_pop(L, 1);
  }
  if (luaL_getmetatable(L, LUA_FILEHANDLE) == LUA_TTABLE) {
    uns_stdlib_replace(L, runtime, file_meta);
    if (lua_getfield(L, -1, "__index") == LUA_TTABLE) uns_stdlib_replace(L, runtime, file_methods);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}
