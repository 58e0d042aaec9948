#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr1, secure_getenv */
#endif

#include "host/program.h"

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

enum { PATH_BYTES = 4096 };

/* What the user says, or NULL; of somebody else's rights he has no say. */
static const char *named(void) {
  const char *path = secure_getenv("UNSYNC_WORKER");
  return path != NULL && *path != '\0' ? path : NULL;
}

char *uns_program_absolute(const char *path) {
  char *resolved = realpath(path, NULL); /* malloc's, not ours */
  char *copy = uns_copy_text(resolved != NULL ? resolved : path);
  free(resolved);
  return copy;
}

/* The file that this process runs. */
static bool read_own_path(char path[PATH_BYTES]) {
  ssize_t size = readlink("/proc/self/exe", path, PATH_BYTES - 1);
  if (size < 0) return false;
  path[size] = '\0';
  return true;
}

char *uns_program_self(void) {
  if (named() != NULL) return uns_program_absolute(named());
  char path[PATH_BYTES];
  return read_own_path(path) ? uns_copy_text(path) : NULL;
}

/*
 * The directory of the file that holds this code, without its last slash; false: not known. The dynamic linker knows a library
 * by its path, but the program by what it was called as: a name that was found by PATH must not lead here, wherever
 * that is just now.
 */
static bool read_own_directory(char path[PATH_BYTES], const void *code) {
  Dl_info here;
  struct link_map *map = NULL;
  if (dladdr1(code, &here, (void **)&map, RTLD_DL_LINKMAP) == 0 || here.dli_fname == NULL) return false;
  if (map == NULL || map->l_name[0] == '\0') {
    if (!read_own_path(path)) return false;
  } else if (snprintf(path, PATH_BYTES, "%s", here.dli_fname) >= PATH_BYTES) {
    return false;
  }
  char *slash = strrchr(path, '/');
  if (slash == NULL) return false;
  *slash = '\0';
  return true;
}

/* A file that may be run; PREFIX/lib/unsync is a directory, which may be "run" as well as far as access() is concerned. */
static bool is_program(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

char *uns_program_find(const char *told) {
  if (named() != NULL) told = named();
  if (told != NULL) return uns_program_absolute(told);
  /* Beside it in a build tree; PREFIX/lib, PREFIX/lib/TRIPLET, PREFIX/lib/lua/5.4, PREFIX/lib/TRIPLET/lua/5.4. */
  static const char *const places[] = {"", "/../bin", "/../../bin", "/../../../bin", "/../../../../bin"};
  char directory[PATH_BYTES];
  if (!read_own_directory(directory, &places)) return NULL;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    char path[PATH_BYTES];
    int size = snprintf(path, sizeof path, "%s%s/unsync", directory, places[i]);
    if (size > 0 && size < PATH_BYTES && is_program(path)) return uns_program_absolute(path);
  }
  return NULL;
}
