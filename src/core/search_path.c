#include "core/search_path.h"

#include <string.h>

#include "base/base.h"

static void search_path_free(uns_shared *object) { uns_free(object); }
static const uns_shared_class search_path_class = {UNS_SHARED_SEARCH_PATH, "search path", search_path_free};

uns_search_path *uns_search_path_new(const char *path, size_t path_bytes, const char *cpath, size_t cpath_bytes) {
  uns_search_path *made = uns_malloc(sizeof *made + path_bytes + cpath_bytes + 2);
  if (made == NULL) return NULL;
  uns_shared_init(&made->base, &search_path_class);
  made->path_bytes = path_bytes;
  made->cpath_bytes = cpath_bytes;
  memcpy(made->text, path, path_bytes);
  made->text[path_bytes] = '\n';
  memcpy(made->text + path_bytes + 1, cpath, cpath_bytes);
  made->text[path_bytes + 1 + cpath_bytes] = '\0';
  return made;
}

uns_search_path *uns_search_path_from(const char *text) {
  const char *end = strchr(text, '\n'), *cpath = end != NULL ? end + 1 : "";
  return uns_search_path_new(text, end != NULL ? (size_t)(end - text) : strlen(text), cpath, strlen(cpath));
}

bool uns_search_path_is(const uns_search_path *search_path, const char *path, size_t path_bytes, const char *cpath,
                        size_t cpath_bytes) {
  return search_path != NULL && search_path->path_bytes == path_bytes && search_path->cpath_bytes == cpath_bytes &&
         memcmp(search_path->text, path, path_bytes) == 0 &&
         memcmp(search_path->text + path_bytes + 1, cpath, cpath_bytes) == 0;
}
