/*
 * search_path: what a call's worker takes over from its caller: where modules are looked for (package.path and
 * package.cpath), and where functions are placed (core/placement.h). Immutable and counted, so that a thousand calls carry
 * one and the same.
 */
#ifndef UNS_SEARCH_PATH_H
#define UNS_SEARCH_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "core/shared.h"

typedef struct uns_search_path {
  uns_shared base;
  size_t path_bytes, cpath_bytes;
  char text[]; /* package.path, '\n', package.cpath, '\n', the placement's rules, zero */
} uns_search_path;

/* One reference, owned by the caller; NULL without memory. Any thread. */
uns_search_path *uns_search_path_new(const char *path, size_t path_bytes, const char *cpath, size_t cpath_bytes,
                                     const char *rules);
/* The same from such a text, of which the later parts may be missing. */
uns_search_path *uns_search_path_from(const char *text);

/* Where is it that functions run; "" for no rules. */
static inline const char *uns_search_path_rules(const uns_search_path *search_path) {
  return search_path->text + search_path->path_bytes + search_path->cpath_bytes + 2;
}

/* Is it these? `search_path` may be NULL. */
bool uns_search_path_is(const uns_search_path *search_path, const char *path, size_t path_bytes, const char *cpath,
                        size_t cpath_bytes, const char *rules);

#endif
