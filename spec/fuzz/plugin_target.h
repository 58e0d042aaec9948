/*
 * plugin_target: damaged plugins for the registry: any bytes as a file, any descriptor in it.
 *
 * The dynamic linker itself believes what a file says, and so does whoever loads code; what the registry adds to it is
 * looked at here. So the linker's part is played by `__wrap_dlopen` and its like: a file that the registry lets through
 * "has" the descriptor that the input describes. Pointers in it lead to strings, to nothing, or are missing.
 *
 * An input is 32 bytes for the descriptor and the symbol, then the file.
 * Programs that use this are linked with --wrap for each of the wrapped functions.
 */
#ifndef PLUGIN_TARGET_H
#define PLUGIN_TARGET_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* Dl_info, dlinfo */
#endif

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "exec/registry.h"

enum { PLUGIN_HEAD = 32, PLUGIN_TASKS = 4 };

static struct {
  bool playing; /* else the real ones are asked */
  const uint8_t *input;
  unsigned opened; /* minus those that were closed */
  unsync_plugin descriptor;
  unsync_task_def tasks[PLUGIN_TASKS];
  ElfW(Sym) symbol;
  struct link_map map;
  char path[96], file[64];
  uns_registry *registry;
} plugin_stage;

static const char *plugin_string(uint8_t byte) {
  static char long_name[80];
  static const char *const strings[] = {NULL,      "",      "good",      "other",  "with space",
                                        "dot.dot", "../up", "g\xc3\xb6", long_name};
  if (long_name[0] == '\0') memset(long_name, 'n', sizeof long_name - 1);
  return strings[byte % (sizeof strings / sizeof strings[0])];
}

static int plugin_task(unsync_task *task) {
  (void)task;
  return 0;
}

/* Mostly what is right, else what the byte says. */
static uint64_t plugin_number(uint8_t byte, uint64_t right) {
  return byte < 160 ? right : byte < 200 ? right - 1 : byte < 230 ? right + 1 : byte < 240 ? 0 : UINT64_MAX / byte;
}

static void plugin_set_up(const uint8_t *in) {
  unsync_plugin *descriptor = &plugin_stage.descriptor;
  memset(descriptor, 0, sizeof *descriptor);
  descriptor->abi = (uint32_t)plugin_number(in[0], UNSYNC_PLUGIN_ABI);
  descriptor->flags = (uint32_t)plugin_number(in[1], 0);
  descriptor->size_bytes = (size_t)plugin_number(in[2], sizeof *descriptor);
  descriptor->api_size_bytes = (size_t)plugin_number(in[3], sizeof(unsync_api));
  descriptor->task_size_bytes = (size_t)plugin_number(in[4], sizeof(unsync_task_def));
  if (descriptor->task_size_bytes > sizeof(unsync_task_def)) descriptor->task_size_bytes = sizeof(unsync_task_def) + 1;
  descriptor->name = plugin_string(in[5]);
  descriptor->version = plugin_string(in[6]);
  descriptor->doc = plugin_string(in[7]);
  descriptor->tasks = in[8] % 8 == 7 ? NULL : plugin_stage.tasks;
  descriptor->task_count = in[9] % PLUGIN_TASKS; /* as many as there are, where their size is right */
  for (int i = 0; i < PLUGIN_TASKS; i++) {
    plugin_stage.tasks[i] = (unsync_task_def){.name = plugin_string(in[10 + i]),
                                              .doc = plugin_string(in[14 + i]),
                                              .run = in[18 + i] % 8 == 7 ? NULL : plugin_task,
                                              .flags = (uint32_t)plugin_number(in[22 + i], 0)};
  }
  plugin_stage.symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, in[26] < 200 ? STT_OBJECT : in[26] % 16);
  plugin_stage.symbol.st_size = (size_t)plugin_number(in[27], sizeof *descriptor);
  plugin_stage.map.l_name = in[28] < 200 ? plugin_stage.path : plugin_stage.file;
}

void *__wrap_dlopen(const char *path, int flags);
void *__wrap_dlsym(void *handle, const char *name);
int __wrap_dlclose(void *handle);
int __wrap_dlinfo(void *handle, int request, void *to);
int __wrap_dladdr1(const void *address, Dl_info *info, void **extra, int flags);
char *__wrap_dlerror(void);
void *__real_dlopen(const char *path, int flags);
void *__real_dlsym(void *handle, const char *name);
int __real_dlclose(void *handle);
int __real_dlinfo(void *handle, int request, void *to);
int __real_dladdr1(const void *address, Dl_info *info, void **extra, int flags);
char *__real_dlerror(void);

void *__wrap_dlopen(const char *path, int flags) {
  if (!plugin_stage.playing) return __real_dlopen(path, flags);
  if (plugin_stage.input[29] >= 240) return NULL;
  plugin_stage.opened++;
  return &plugin_stage;
}
void *__wrap_dlsym(void *handle, const char *name) {
  if (!plugin_stage.playing) return __real_dlsym(handle, name);
  return plugin_stage.input[30] >= 240 ? NULL : &plugin_stage.descriptor;
}
int __wrap_dlclose(void *handle) {
  if (!plugin_stage.playing) return __real_dlclose(handle);
  plugin_stage.opened--;
  return 0;
}
int __wrap_dlinfo(void *handle, int request, void *to) {
  if (!plugin_stage.playing) return __real_dlinfo(handle, request, to);
  struct link_map *map = &plugin_stage.map;
  memcpy(to, &map, sizeof map);
  return plugin_stage.input[31] >= 250 ? -1 : 0;
}
int __wrap_dladdr1(const void *address, Dl_info *info, void **extra, int flags) {
  if (!plugin_stage.playing) return __real_dladdr1(address, info, extra, flags);
  memset(info, 0, sizeof *info);
  info->dli_fname = plugin_stage.path;
  *extra = &plugin_stage.symbol;
  return plugin_stage.input[31] >= 240 && plugin_stage.input[31] < 250 ? 0 : 1;
}
char *__wrap_dlerror(void) {
  static char said[] = "no";
  return plugin_stage.playing ? said : __real_dlerror();
}

static void plugin_die(const char *what) {
  fprintf(stderr, "plugin target: %s\n", what);
  abort();
}

/* A good plugin, or an error with a text, and nothing left open. */
static void plugin_expect(const void *found, char **error) {
  if (found != NULL && *error != NULL) plugin_die("found, and an error");
  if (found == NULL && (*error == NULL || strstr(*error, "good") == NULL)) plugin_die("no error that names the plugin");
  uns_free(*error);
  *error = NULL;
}

static inline int plugin_target(const uint8_t *data, size_t size) {
  if (size < PLUGIN_HEAD) return 0;
  if (plugin_stage.path[0] == '\0') {
    snprintf(plugin_stage.file, sizeof plugin_stage.file, "/dev/shm/unsync-fuzz-XXXXXX");
    if (mkdtemp(plugin_stage.file) == NULL) {
      snprintf(plugin_stage.file, sizeof plugin_stage.file, "/tmp/unsync-fuzz-XXXXXX");
      if (mkdtemp(plugin_stage.file) == NULL) plugin_die("no directory");
    }
    snprintf(plugin_stage.path, sizeof plugin_stage.path, "%s/good.so", plugin_stage.file);
  }
  int fd = open(plugin_stage.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, data + PLUGIN_HEAD, size - PLUGIN_HEAD) != (ssize_t)(size - PLUGIN_HEAD))
    plugin_die("no file");
  close(fd);
  plugin_stage.input = data;
  plugin_set_up(data);
  plugin_stage.playing = true;
  uns_registry *registry = uns_registry_new(&(uns_registry_places){.variable = plugin_stage.file});
  if (registry == NULL) plugin_die("no memory");
  char *error = NULL;
  const uns_native *native = uns_registry_find(registry, "good.good", &error);
  if (native != NULL && (native->run == NULL || strcmp(native->name, "good") != 0)) plugin_die("not what was asked");
  plugin_expect(native, &error);
  const uns_plugin *plugin = uns_registry_load(registry, plugin_stage.path, &error);
  if (plugin != NULL) {
    for (size_t i = 0; i < plugin->task_count; i++) {
      if (plugin->tasks[i].run == NULL || plugin->tasks[i].name[0] == '\0')
        plugin_die("a task without a name or function");
    }
  }
  plugin_expect(plugin, &error);
  uns_registry_resolve(registry, plugin_stage.path, "good.other", &error);
  uns_free(error);
  if (plugin_stage.opened != (plugin != NULL)) plugin_die("a file that was left open, or closed too often");
  plugin_stage.opened = 0;
  uns_registry_free(registry);
  plugin_stage.playing = false;
  return 0;
}

/* Leaves nothing on the disk. */
static inline void plugin_close(void) {
  unlink(plugin_stage.path);
  rmdir(plugin_stage.file);
  plugin_stage.path[0] = '\0';
}

#endif
