/*
 * search_path: where a call's worker looks for modules, as its caller does: package.path and package.cpath. Immutable and
 * counted, so that a thousand calls carry one and the same.
 */
#ifndef UNS_SEARCH_PATH_H
#define UNS_SEARCH_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "core/shared.h"

typedef struct uns_search_path {
  uns_shared base;
  size_t path_bytes, cpath_bytes;
  char text[]; /* package.path, '\n', package.cpath, zero */
} uns_search_path;

/* One reference, owned by the caller; NULL without memory. Any thread. */
uns_search_path *uns_search_path_new(const char *path, size_t path_bytes, const char *cpath, size_t cpath_bytes);
/* The same from such a text; without a '\n' all of it is the path. */
uns_search_path *uns_search_path_from(const char *text);

/* Is it these two? `search_path` may be NULL. */
bool uns_search_path_is(const uns_search_path *search_path, const char *path, size_t path_bytes, const char *cpath,
                        size_t cpath_bytes);

#endif
