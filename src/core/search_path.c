#include "core/search_path.h"

#include <string.h>

#include "base/base.h"

static void search_path_free(uns_shared *object) { uns_free(object); }
static const uns_shared_class search_path_class = {UNS_SHARED_SEARCH_PATH, "search path", search_path_free};

uns_search_path *uns_search_path_new(const char *path, size_t path_bytes, const char *cpath, size_t cpath_bytes,
                                     const char *rules) {
  size_t rules_size = strlen(rules) + 1;
  uns_search_path *made = uns_malloc(sizeof *made + path_bytes + cpath_bytes + 2 + rules_size);
  if (made == NULL) return NULL;
  uns_shared_init(&made->base, &search_path_class);
  made->path_bytes = path_bytes;
  made->cpath_bytes = cpath_bytes;
  char *to = made->text;
  memcpy(to, path, path_bytes);
  to += path_bytes;
  *to++ = '\n';
  memcpy(to, cpath, cpath_bytes);
  to += cpath_bytes;
  *to++ = '\n';
  memcpy(to, rules, rules_size);
  return made;
}

uns_search_path *uns_search_path_from(const char *text) {
  size_t path_bytes = strcspn(text, "\n");
  const char *cpath = text + path_bytes + (text[path_bytes] != '\0');
  size_t cpath_bytes = strcspn(cpath, "\n");
  const char *rules = cpath + cpath_bytes + (cpath[cpath_bytes] != '\0');
  return uns_search_path_new(text, path_bytes, cpath, cpath_bytes, rules);
}

bool uns_search_path_is(const uns_search_path *search_path, const char *path, size_t path_bytes, const char *cpath,
                        size_t cpath_bytes, const char *rules) {
  return search_path != NULL && search_path->path_bytes == path_bytes && search_path->cpath_bytes == cpath_bytes &&
         memcmp(search_path->text, path, path_bytes) == 0 &&
         memcmp(search_path->text + path_bytes + 1, cpath, cpath_bytes) == 0 &&
         strcmp(uns_search_path_rules(search_path), rules) == 0;
}
