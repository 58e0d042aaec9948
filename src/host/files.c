#include "host/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "host/embedded.h"

/* Opens a plain file, without waiting for anybody; -1 where it is none. */
static int open_plain(const char *path, int flags) {
  int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
  if (fd < 0) return -1;
  struct stat what;
  if (fstat(fd, &what) == 0 && S_ISREG(what.st_mode)) return fd;
  close(fd);
  return -1;
}

/* read(path, most) -> text | nil */
static int files_read(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lua_Integer most = luaL_checkinteger(L, 2);
  int fd = open_plain(path, O_RDONLY);
  if (fd < 0) return 0;
  off_t size = lseek(fd, 0, SEEK_END);
  bool cut = size > most;
  lseek(fd, cut ? size - (off_t)most : 0, SEEK_SET);
  size_t room = (size_t)(cut ? most : size < 0 ? 0 : size), count = 0;
  char *text = uns_malloc(room + 1);
  if (text != NULL) {
    for (ssize_t got; count < room && (got = read(fd, text + count, room - count)) > 0;) count += (size_t)got;
  }
  close(fd);
  if (text == NULL) return 0;
  const char *from = text, *end = text + count;
  if (cut) { /* the first line is half a one */
    from = memchr(text, '\n', count);
    from = from != NULL ? from + 1 : end;
  }
  lua_pushlstring(L, from, (size_t)(end - from)); /* without memory `text` is lost, as the program is */
  uns_free(text);
  return 1;
}

static bool write_all(int fd, const char *text, size_t size) {
  while (size > 0) {
    ssize_t count = write(fd, text, size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    text += count;
    size -= (size_t)count;
  }
  return true;
}

/* Makes the directories that `path` lies in. */
static void make_directories(const char *path) {
  char directory[PATH_MAX];
  size_t size = strlen(path);
  if (size >= sizeof directory) return;
  memcpy(directory, path, size + 1);
  for (char *slash = strchr(directory + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(directory, 0700);
    *slash = '/';
  }
}

/* append(path, text) -> boolean */
static int files_append(lua_State *L) {
  size_t size;
  const char *path = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &size);
  int fd = open_plain(path, O_WRONLY | O_APPEND | O_CREAT);
  if (fd < 0 && errno == ENOENT) {
    make_directories(path);
    fd = open_plain(path, O_WRONLY | O_APPEND | O_CREAT);
  }
  bool fine = fd >= 0 && write_all(fd, text, size);
  if (fd >= 0) close(fd);
  lua_pushboolean(L, fine);
  return 1;
}

/* replace(path, text) -> boolean */
static int files_replace(lua_State *L) {
  size_t size;
  const char *path = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &size);
  const char *part = lua_pushfstring(L, "%s.%d", path, (int)getpid());
  int fd = open_plain(part, O_WRONLY | O_CREAT | O_EXCL);
  bool fine = fd >= 0 && write_all(fd, text, size);
  if (fd >= 0) fine = close(fd) == 0 && fine;
  fine = fine && rename(part, path) == 0;
  if (!fine && fd >= 0) unlink(part);
  lua_pushboolean(L, fine);
  return 1;
}

static int close_directory(lua_State *L) {
  DIR **directory = luaL_testudata(L, 1, "unsync.Directory");
  if (directory == NULL) return 0;
  if (*directory != NULL) closedir(*directory);
  *directory = NULL;
  return 0;
}

/* list_directory(path) -> names */
static int files_list_directory(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lua_newtable(L);
  DIR **directory = lua_newuserdatauv(L, sizeof *directory, 0);
  *directory = NULL;
  if (luaL_newmetatable(L, "unsync.Directory")) {
    lua_pushcfunction(L, close_directory);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  *directory = opendir(path);
  lua_Integer count = 0;
  for (struct dirent *entry; *directory != NULL && (entry = readdir(*directory)) != NULL;) {
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, 2, ++count);
  }
  if (*directory != NULL) closedir(*directory);
  *directory = NULL;
  lua_settop(L, 2);
  return 1;
}

/* is_file(path) -> boolean */
static int files_is_file(lua_State *L) {
  struct stat what;
  lua_pushboolean(L, stat(luaL_checkstring(L, 1), &what) == 0 && S_ISREG(what.st_mode));
  return 1;
}

/* modules() -> names */
static int files_modules(lua_State *L) {
  lua_newtable(L);
  lua_Integer count = 0;
  for (const uns_embedded *module = uns_embedded_modules; module->name != NULL; module++) {
    lua_pushstring(L, module->name);
    lua_rawseti(L, -2, ++count);
  }
  lua_pushliteral(L, "luv");
  lua_rawseti(L, -2, ++count);
  return 1;
}

void uns_files_set(lua_State *L) {
  static const luaL_Reg functions[] = {{"read_file", files_read},
                                       {"append", files_append},
                                       {"replace", files_replace},
                                       {"list_directory", files_list_directory},
                                       {"is_file", files_is_file},
                                       {"modules", files_modules},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
