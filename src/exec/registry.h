/*
 * registry: the plugins of a host: found, loaded, checked, and their tasks by name.
 *
 *   - A plugin once registered stays as it is until the registry is freed, and its code stays in the process for
 *     good: so look-ups take no lock. `lock` is held while one is loaded.
 *   - Nothing of a plugin is run here but what the dynamic linker runs. Its descriptor is read only as far as its ABI
 *     version vouches for it.
 * What a plugin is: include/unsync_plugin.h. How a task of one is called: exec/call.h.
 */
#ifndef UNS_REGISTRY_H
#define UNS_REGISTRY_H

#include <stddef.h>
#include <stdint.h>

#include "unsync_plugin.h"

struct uns_executors;

typedef struct uns_registry uns_registry;
typedef struct uns_plugin uns_plugin;

/* A native task; immutable. The strings are the plugin's own. */
typedef struct uns_native {
  const char *name; /* "sha256" */
  const char *doc;  /* a line, or "" */
  int (*run)(unsync_task *task);
  uint32_t flags;
  const uns_plugin *plugin;
} uns_native;

struct uns_plugin {
  const uns_plugin *next;           /* the one registered before it, or NULL */
  const char *name, *version, *doc; /* the plugin's own; version and doc may be "" */
  char *path;                       /* absolute, without symbolic links */
  void *handle;
  int log_level; /* unsync_log lines below it are not shown */
  size_t task_count;
  uns_native tasks[];
};

/* Where plugins are looked for by name, in this order. All may be NULL, all are copied. */
typedef struct uns_registry_places {
  const char *variable;  /* UNSYNC_PLUGIN_PATH: directories with ':' between them */
  const char *script;    /* the script's directory: plugins/ in it */
  const char *program;   /* the program's directory: plugins/ in it (a build tree) and ../lib/unsync/plugins (an
                            installed one), where they are */
  const char *installed; /* a directory */
  const char *log;       /* UNSYNC_LOG: "debug", "info", "warn", "error" or "off" */
} uns_registry_places;

/* NULL without memory. */
uns_registry *uns_registry_new(const uns_registry_places *places);
/* No task of its plugins may be called any more. NULL is allowed. */
void uns_registry_free(uns_registry *registry);
/* The registry of a host, made at its first use from the environment and the executors' settings; NULL: no memory. */
uns_registry *uns_registry_of(struct uns_executors *executors);

/*
 * All of these: NULL, and in `*error` a text that names the plugin, the task and every place looked at, to be freed
 * with uns_free (NULL there: no memory). `error` is untouched otherwise. Any thread; may block while a file is loaded.
 *   find     the task "plugin.task"; loads the plugin from the search path at its first use
 *   plugin   the plugin `name`, the same way
 *   load     the plugin in the file `path`; a file that is loaded already is not loaded again
 *   resolve  `path` and "plugin.task": that task from exactly that file, as a worker process needs it
 */
const uns_native *uns_registry_find(uns_registry *registry, const char *name, char **error);
const uns_plugin *uns_registry_plugin(uns_registry *registry, const char *name, char **error);
const uns_plugin *uns_registry_load(uns_registry *registry, const char *path, char **error);
const uns_native *uns_registry_resolve(uns_registry *registry, const char *path, const char *name, char **error);

#endif
