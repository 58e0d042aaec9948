#include "host/program.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

enum { PATH_BYTES = 4096 };

/* What the user says, or NULL. */
static const char *named(void) {
  const char *path = getenv("UNSYNC_WORKER");
  return path != NULL && *path != '\0' ? path : NULL;
}

char *uns_program_absolute(const char *path) {
  char *resolved = realpath(path, NULL); /* malloc's, not ours */
  char *copy = uns_copy_text(resolved != NULL ? resolved : path);
  free(resolved);
  return copy;
}

char *uns_program_self(void) {
  if (named() != NULL) return uns_program_absolute(named());
  char path[PATH_BYTES];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
  if (size < 0) return NULL;
  path[size] = '\0';
  return uns_copy_text(path);
}

char *uns_program_find(const char *told) {
  if (named() != NULL) told = named();
  if (told != NULL) return uns_program_absolute(told);
  /* Beside it in a build tree; PREFIX/lib, PREFIX/lib/TRIPLET, PREFIX/lib/lua/5.4, PREFIX/lib/TRIPLET/lua/5.4. */
  static const char *const places[] = {"", "/../bin", "/../../bin", "/../../../bin", "/../../../../bin"};
  Dl_info here;
  if (dladdr((const void *)&places, &here) == 0 || here.dli_fname == NULL) return NULL;
  const char *slash = strrchr(here.dli_fname, '/');
  size_t length = slash != NULL ? (size_t)(slash - here.dli_fname) : 0;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    char path[PATH_BYTES];
    int size = snprintf(path, sizeof path, "%.*s%s/unsync", slash != NULL ? (int)length : 1,
                        slash != NULL ? here.dli_fname : ".", places[i]);
    if (size > 0 && size < PATH_BYTES && access(path, X_OK) == 0) return uns_program_absolute(path);
  }
  return NULL;
}
