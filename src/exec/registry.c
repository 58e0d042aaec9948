#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr1, which says what kind of symbol the descriptor is; secure_getenv */
#endif

#include "exec/registry.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/text.h"
#include "exec/executors.h"

#ifndef UNSYNC_PLUGIN_DIR
#define UNSYNC_PLUGIN_DIR "/usr/local/lib/unsync/plugins"
#endif

#define DESCRIPTOR "unsync_plugin_descriptor"
#define SUFFIX ".so"

enum { NAME_MAX_BYTES = 64, KNOWN_FLAGS = 0 };

struct uns_registry {
  uv_mutex_t lock;                     /* held while a plugin is loaded and registered */
  _Atomic(const uns_plugin *) plugins; /* the newest first; release by who registers, acquire by who looks */
  int log_level;
  size_t place_count;
  char *places[]; /* directories, owned */
};

/* ---- Texts ------------------------------------------------------------------------------------------------------ */

static char *copy(const char *string, size_t size) {
  char *bytes = uns_malloc(size + 1);
  if (bytes == NULL) return NULL;
  memcpy(bytes, string, size);
  bytes[size] = 0;
  return bytes;
}

/* "DIRECTORY/NAME SUFFIX"; NULL without memory */
static char *join(const char *directory, size_t size, const char *name, const char *suffix) {
  uns_text path = {0};
  bool slash = size > 0 && directory[size - 1] == '/';
  uns_text_add(&path, "%.*s%s%s%s", (int)size, directory, slash ? "" : "/", name, suffix);
  return path.bytes;
}

/* ---- Making and ending ------------------------------------------------------------------------------------------ */

static int log_level(const char *name) {
  static const struct {
    const char *name;
    int level;
  } levels[] = {{"debug", UNSYNC_DEBUG},
                {"info", UNSYNC_INFO},
                {"warn", UNSYNC_WARN},
                {"error", UNSYNC_ERROR},
                {"off", UNSYNC_ERROR + 1}};
  for (size_t i = 0; name != NULL && i < sizeof levels / sizeof levels[0]; i++)
    if (strcmp(name, levels[i].name) == 0) return levels[i].level;
  return UNSYNC_WARN;
}

static bool is_directory(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Takes over `path`; false where that is NULL. With `always` false it counts only if it is there now. */
static bool add_place(uns_registry *registry, char *path, bool always) {
  if (path == NULL) return false;
  if (always || is_directory(path)) registry->places[registry->place_count++] = path;
  else uns_free(path);
  return true;
}

uns_registry *uns_registry_new(const uns_registry_places *places) {
  size_t most = 5;
  for (const char *c = places->variable; c != NULL && *c != 0; c++) most += *c == ':';
  uns_registry *registry = uns_calloc(1, sizeof *registry + most * sizeof registry->places[0]);
  if (registry == NULL) return NULL;
  if (uv_mutex_init(&registry->lock) != 0) {
    uns_free(registry);
    return NULL;
  }
  atomic_init(&registry->plugins, NULL);
  registry->log_level = log_level(places->log);
  for (const char *at = places->variable; at != NULL && *at != 0;) {
    size_t size = strcspn(at, ":"); /* an empty one means nothing, not "here" */
    if (size > 0 && !add_place(registry, copy(at, size), true)) goto fail;
    at += size + (at[size] == ':');
  }
  const char *script = places->script, *program = places->program, *installed = places->installed;
  if ((script != NULL && !add_place(registry, join(script, strlen(script), "plugins", ""), true)) ||
      (program != NULL && !add_place(registry, join(program, strlen(program), "plugins", ""), false)) ||
      (program != NULL && !add_place(registry, join(program, strlen(program), "../lib/unsync/plugins", ""), false)) ||
      (installed != NULL && !add_place(registry, copy(installed, strlen(installed)), true)))
    goto fail;
  return registry;

fail:
  uns_registry_free(registry);
  return NULL;
}

void uns_registry_free(uns_registry *registry) {
  if (registry == NULL) return;
  /* The plugins' code stays: an abandoned task may still run in it, and bytes of a result be released by it. */
  for (const uns_plugin *plugin = atomic_load(&registry->plugins), *next; plugin != NULL; plugin = next) {
    next = plugin->next;
    uns_free(plugin->path);
    uns_free((void *)plugin);
  }
  for (size_t i = 0; i < registry->place_count; i++) uns_free(registry->places[i]);
  uv_mutex_destroy(&registry->lock);
  uns_free(registry);
}

uns_registry *uns_registry_of(uns_executors *executors) {
  uv_mutex_lock(&executors->lock);
  uns_registry *registry = executors->plugins;
  if (registry == NULL) {
    const char *program = executors->program, *slash = program == NULL ? NULL : strrchr(program, '/');
    char *directory = slash == NULL ? NULL : copy(program, (size_t)(slash - program) + 1);
    if (slash == NULL || directory != NULL) {
      registry = uns_registry_new(&(uns_registry_places){.variable = secure_getenv("UNSYNC_PLUGIN_PATH"),
                                                         .script = executors->script_directory,
                                                         .program = directory,
                                                         .installed = UNSYNC_PLUGIN_DIR,
                                                         .log = getenv("UNSYNC_LOG")});
      executors->plugins = registry;
    }
    uns_free(directory);
  }
  uv_mutex_unlock(&executors->lock);
  return registry;
}

/* ---- Checking --------------------------------------------------------------------------------------------------- */

static bool is_name(const char *name, size_t size) {
  if (size == 0 || size > NAME_MAX_BYTES) return false;
  for (size_t i = 0; i < size; i++) {
    char c = name[i];
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_')) return false;
  }
  return true;
}

/*
 * The dynamic linker maps what the program headers say without a look at the file's size, and is killed by SIGBUS
 * where the file is shorter. All else that can be wrong with a file is left to it: its own messages are good.
 */
static bool is_whole(const char *path, uns_text *why) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    uns_text_add(why, "%s", strerror(errno));
    return false;
  }
  bool whole = true;
  struct stat info;
  ElfW(Ehdr) header;
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
      pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header && memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
      header.e_ident[EI_CLASS] == (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32) &&
      header.e_phentsize == sizeof(ElfW(Phdr))) {
    uint64_t size = (uint64_t)info.st_size;
    for (unsigned i = 0; whole && i < header.e_phnum; i++) {
      ElfW(Phdr) part;
      off_t place = (off_t)(header.e_phoff + i * sizeof part);
      if (pread(fd, &part, sizeof part, place) != (ssize_t)sizeof part) whole = false;
      else if (part.p_type == PT_LOAD && (part.p_offset > size || part.p_filesz > size - part.p_offset)) whole = false;
    }
    if (!whole) uns_text_add(why, "the file is cut off or damaged: it has %llu bytes", (unsigned long long)size);
  }
  close(fd);
  return whole;
}

/* The descriptor that `handle` itself exports; NULL with the reason in `why`. */
static const unsync_plugin *find_descriptor(void *handle, uns_text *why) {
  void *symbol = dlsym(handle, DESCRIPTOR);
  struct link_map *map = NULL;
  Dl_info info;
  const ElfW(Sym) *entry = NULL;
  if (symbol == NULL || dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 ||
      dladdr1(symbol, &info, (void **)&entry, RTLD_DL_SYMENT) == 0 || entry == NULL ||
      (map != NULL && info.dli_fname != NULL && strcmp(map->l_name, info.dli_fname) != 0)) { /* a library's it needs */
    uns_text_add(why,
                 "it has no descriptor: the symbol " DESCRIPTOR " is missing (see UNSYNC_PLUGIN in unsync_plugin.h)");
    return NULL;
  }
  if (ELF32_ST_TYPE(entry->st_info) != STT_OBJECT || entry->st_size < sizeof(uint32_t)) {
    uns_text_add(why, "its " DESCRIPTOR " is no descriptor (see UNSYNC_PLUGIN in unsync_plugin.h)");
    return NULL;
  }
  const unsync_plugin *descriptor = symbol;
  if (descriptor->abi != UNSYNC_PLUGIN_ABI) {
    uns_text_add(why, "it was built for plugin ABI version %u; this host has version %u", (unsigned)descriptor->abi,
                 (unsigned)UNSYNC_PLUGIN_ABI);
    return NULL;
  }
  if (entry->st_size < sizeof *descriptor || descriptor->size_bytes < sizeof *descriptor) {
    uns_text_add(why, "its descriptor is too short: %zu bytes of %zu", (size_t)entry->st_size, sizeof *descriptor);
    return NULL;
  }
  if (descriptor->api_size_bytes > sizeof(unsync_api)) {
    uns_text_add(why, "it was built with a newer unsync_plugin.h: it needs functions that this host does not have");
    return NULL;
  }
  return descriptor;
}

static const unsync_task_def *task_at(const unsync_plugin *descriptor, size_t index) {
  return (const void *)((const char *)descriptor->tasks + index * descriptor->task_size_bytes);
}

/* Whether all that the descriptor says makes sense; else the reason in `why`. */
static bool check_descriptor(const unsync_plugin *descriptor, uns_text *why) {
  if (descriptor->name == NULL || !is_name(descriptor->name, strlen(descriptor->name))) {
    uns_text_add(why, "its name '%s' is not made of letters, digits and _ (at most %d)",
                 descriptor->name == NULL ? "" : descriptor->name, NAME_MAX_BYTES);
  } else if ((descriptor->flags & ~(uint32_t)KNOWN_FLAGS) != 0) {
    uns_text_add(why, "it has flags that this host does not know: 0x%x", (unsigned)descriptor->flags);
  } else if (descriptor->tasks == NULL || descriptor->task_count == 0) {
    uns_text_add(why, "it has no tasks");
  } else if (descriptor->task_size_bytes < sizeof(unsync_task_def) ||
             descriptor->task_size_bytes % _Alignof(unsync_task_def) != 0) {
    uns_text_add(why, "its descriptor is wrong: a task of %zu bytes", descriptor->task_size_bytes);
  } else {
    for (size_t i = 0; i < descriptor->task_count; i++) {
      const unsync_task_def *task = task_at(descriptor, i);
      if (task->name == NULL || !is_name(task->name, strlen(task->name))) {
        uns_text_add(why, "the name '%s' of its task %zu is not made of letters, digits and _ (at most %d)",
                     task->name == NULL ? "" : task->name, i + 1, NAME_MAX_BYTES);
        return false;
      }
      if (task->run == NULL) {
        uns_text_add(why, "its task '%s' has no function", task->name);
        return false;
      }
      if ((task->flags & ~(uint32_t)KNOWN_FLAGS) != 0) {
        uns_text_add(why, "its task '%s' has flags that this host does not know: 0x%x", task->name,
                     (unsigned)task->flags);
        return false;
      }
      for (size_t before = 0; before < i; before++) {
        if (strcmp(task_at(descriptor, before)->name, task->name) != 0) continue;
        uns_text_add(why, "it has two tasks with the name '%s' (tasks %zu and %zu)", task->name, before + 1, i + 1);
        return false;
      }
    }
    return true;
  }
  return false;
}

/* ---- Loading ---------------------------------------------------------------------------------------------------- */

static const uns_plugin *find_loaded(uns_registry *registry, const char *name, size_t size) {
  const uns_plugin *plugin = atomic_load_explicit(&registry->plugins, memory_order_acquire);
  while (plugin != NULL && !(strlen(plugin->name) == size && memcmp(plugin->name, name, size) == 0))
    plugin = plugin->next;
  return plugin;
}

/* Takes over `path` and `handle`; NULL without memory. Under the lock. */
static const uns_plugin *add_plugin(uns_registry *registry, const unsync_plugin *descriptor, char *path, void *handle) {
  uns_plugin *plugin = uns_calloc(1, sizeof *plugin + descriptor->task_count * sizeof plugin->tasks[0]);
  if (plugin == NULL) return NULL;
  plugin->name = descriptor->name;
  plugin->version = descriptor->version == NULL ? "" : descriptor->version;
  plugin->doc = descriptor->doc == NULL ? "" : descriptor->doc;
  plugin->path = path;
  plugin->handle = handle;
  plugin->log_level = registry->log_level;
  plugin->task_count = descriptor->task_count;
  for (size_t i = 0; i < descriptor->task_count; i++) {
    const unsync_task_def *task = task_at(descriptor, i);
    plugin->tasks[i] = (uns_native){task->name, task->doc == NULL ? "" : task->doc, task->run, task->flags, plugin};
  }
  plugin->next = atomic_load_explicit(&registry->plugins, memory_order_relaxed);
  atomic_store_explicit(&registry->plugins, plugin, memory_order_release);
  return plugin;
}

/* The plugin in the file `path`, which must call itself `expected` where that is not NULL. Under the lock. */
static const uns_plugin *load_file(uns_registry *registry, const char *path, const char *expected, uns_text *error) {
  uns_text why = {0};
  const uns_plugin *plugin = NULL;
  void *handle = NULL;
  char *real = NULL, *resolved = realpath(path, NULL);
  if (resolved == NULL) {
    uns_text_add(&why, "%s", strerror(errno));
    goto refuse;
  }
  real = copy(resolved, strlen(resolved));
  free(resolved);
  if (real == NULL) {
    why.lost = true;
    goto refuse;
  }
  for (plugin = atomic_load(&registry->plugins); plugin != NULL; plugin = plugin->next)
    if (strcmp(plugin->path, real) == 0) break;
  if (plugin == NULL) {
    if (!is_whole(real, &why)) goto refuse;
    handle = dlopen(real, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
      const char *said = dlerror();
      uns_text_add(&why, "%s", said == NULL ? "the dynamic linker refuses it" : said);
      goto refuse;
    }
    for (plugin = atomic_load(&registry->plugins); plugin != NULL; plugin = plugin->next)
      if (plugin->handle == handle) break; /* the same file by another name */
  }
  if (plugin == NULL) {
    const unsync_plugin *descriptor = find_descriptor(handle, &why);
    if (descriptor == NULL || !check_descriptor(descriptor, &why)) goto refuse;
    const uns_plugin *same = find_loaded(registry, descriptor->name, strlen(descriptor->name));
    if (expected != NULL && strcmp(descriptor->name, expected) != 0) {
      uns_text_add(&why, "it calls itself '%s'", descriptor->name);
      goto refuse;
    }
    if (same != NULL) {
      uns_text_add(&why, "a plugin with its name, '%s', is loaded from %s", same->name, same->path);
      goto refuse;
    }
    plugin = add_plugin(registry, descriptor, real, handle);
    if (plugin == NULL) {
      why.lost = true;
      goto refuse;
    }
    return plugin;
  }
  if (expected != NULL && strcmp(plugin->name, expected) != 0) {
    uns_text_add(&why, "it calls itself '%s'", plugin->name);
    goto refuse;
  }
  if (handle != NULL) dlclose(handle);
  uns_free(real);
  return plugin;

refuse:
  if (why.lost) {
    uns_free(error->bytes);
    *error = (uns_text){.lost = true};
  } else if (expected != NULL) {
    uns_text_add(error, "plugin '%s' cannot be loaded from %s: %s", expected, path, why.bytes);
  } else {
    uns_text_add(error, "plugin %s cannot be loaded: %s", path, why.bytes);
  }
  uns_free(why.bytes);
  if (handle != NULL) dlclose(handle);
  uns_free(real);
  return NULL;
}

/* Looks for `name` in all places. The first file of that name decides, be it good or not. Under the lock. */
static const uns_plugin *search(uns_registry *registry, const char *name, uns_text *error) {
  uns_text places = {0};
  for (size_t i = 0; i < registry->place_count; i++) {
    char *path = join(registry->places[i], strlen(registry->places[i]), name, SUFFIX);
    struct stat info;
    if (path == NULL) {
      places.lost = true;
      break;
    }
    if (stat(path, &info) == 0) {
      const uns_plugin *plugin = load_file(registry, path, name, error);
      uns_free(path);
      uns_free(places.bytes);
      return plugin;
    }
    uns_text_add(&places, "\n\t%s%s%s", path, errno == ENOENT ? "" : ": ", errno == ENOENT ? "" : strerror(errno));
    uns_free(path);
  }
  if (places.lost) error->lost = true;
  else
    uns_text_add(error, "no plugin '%s' was found; looked for%s", name,
                 places.bytes == NULL ? " it nowhere: no place is set (UNSYNC_PLUGIN_PATH)" : places.bytes);
  uns_free(places.bytes);
  return NULL;
}

/* The plugin whose name is the first `size` bytes of `name`. */
static const uns_plugin *get_plugin(uns_registry *registry, const char *name, size_t size, uns_text *error) {
  const uns_plugin *plugin = find_loaded(registry, name, size);
  if (plugin != NULL) return plugin;
  char own[NAME_MAX_BYTES + 1];
  memcpy(own, name, size);
  own[size] = 0;
  uv_mutex_lock(&registry->lock);
  plugin = find_loaded(registry, own, size);
  if (plugin == NULL) plugin = search(registry, own, error);
  uv_mutex_unlock(&registry->lock);
  return plugin;
}

static const uns_native *get_task(const uns_plugin *plugin, const char *name, uns_text *error) {
  for (size_t i = 0; i < plugin->task_count; i++)
    if (strcmp(plugin->tasks[i].name, name) == 0) return &plugin->tasks[i];
  uns_text_add(error, "plugin '%s' (%s) has no task '%s'; it has ", plugin->name, plugin->path, name);
  for (size_t i = 0; i < plugin->task_count; i++)
    uns_text_add(error, "%s'%s'", i == 0 ? "" : ", ", plugin->tasks[i].name);
  return NULL;
}

/* Splits "plugin.task"; NULL with the reason in `error`. */
static const char *split(const char *name, uns_text *error) {
  const char *dot = strchr(name, '.');
  if (dot != NULL && is_name(name, (size_t)(dot - name)) && is_name(dot + 1, strlen(dot + 1))) return dot;
  uns_text_add(error, "'%s' does not name a native task: that is written \"plugin.task\"", name);
  return NULL;
}

const uns_native *uns_registry_find(uns_registry *registry, const char *name, char **error) {
  uns_text why = {0};
  const char *dot = split(name, &why);
  const uns_plugin *plugin = dot == NULL ? NULL : get_plugin(registry, name, (size_t)(dot - name), &why);
  const uns_native *native = plugin == NULL ? NULL : get_task(plugin, dot + 1, &why);
  if (native == NULL) *error = why.bytes;
  return native;
}

const uns_plugin *uns_registry_plugin(uns_registry *registry, const char *name, char **error) {
  uns_text why = {0};
  const uns_plugin *plugin = NULL;
  if (is_name(name, strlen(name))) plugin = get_plugin(registry, name, strlen(name), &why);
  else
    uns_text_add(&why, "'%s' does not name a plugin: a name is letters, digits and _; a file has a / in its path",
                 name);
  if (plugin == NULL) *error = why.bytes;
  return plugin;
}

const uns_plugin *uns_registry_load(uns_registry *registry, const char *path, char **error) {
  uns_text why = {0};
  uv_mutex_lock(&registry->lock);
  const uns_plugin *plugin = load_file(registry, path, NULL, &why);
  uv_mutex_unlock(&registry->lock);
  if (plugin == NULL) *error = why.bytes;
  return plugin;
}

const uns_native *uns_registry_resolve(uns_registry *registry, const char *path, const char *name, char **error) {
  uns_text why = {0};
  const uns_native *native = NULL;
  const char *dot = split(name, &why);
  if (dot != NULL) {
    char own[NAME_MAX_BYTES + 1];
    memcpy(own, name, (size_t)(dot - name));
    own[dot - name] = 0;
    const uns_plugin *plugin = find_loaded(registry, own, (size_t)(dot - name));
    if (plugin == NULL || strcmp(plugin->path, path) != 0) {
      uv_mutex_lock(&registry->lock);
      plugin = load_file(registry, path, own, &why);
      uv_mutex_unlock(&registry->lock);
    }
    if (plugin != NULL) native = get_task(plugin, dot + 1, &why);
  }
  if (native == NULL) *error = why.bytes;
  return native;
}
