/* registry: what is found, what is refused, and what the refusal says. The plugins are spec/support/plugins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/base.h"
#include "exec/registry.h"

static char here[4096]; /* the directory of the plugins, absolute */

static int set_up_all(void **state) {
  (void)state;
  const char *build = getenv("UNSYNC_BUILD");
  char directory[4096];
  snprintf(directory, sizeof directory, "%s/spec/plugins", build != NULL ? build : "build");
  return realpath(directory, here) == NULL ? -1 : 0;
}

static uns_registry *make(const char *variable) {
  uns_registry *registry = uns_registry_new(&(uns_registry_places){.variable = variable});
  assert_non_null(registry);
  return registry;
}

/* The text must hold each of the strings, up to NULL. */
static void assert_says(const char *text, ...) {
  va_list all;
  va_start(all, text);
  assert_non_null(text);
  for (const char *part; (part = va_arg(all, const char *)) != NULL;)
    if (strstr(text, part) == NULL) fail_msg("'%s' does not say '%s'", text, part);
  va_end(all);
}

static char *file(const char *name) {
  static char path[8192];
  snprintf(path, sizeof path, "%s/%s", here, name);
  return path;
}

static void finds_a_task_and_loads_its_plugin_once(void **state) {
  (void)state;
  char *error = NULL;
  uns_registry *registry = make(here);
  const uns_native *all = uns_registry_find(registry, "echo.all", &error);
  assert_non_null(all);
  assert_string_equal(all->name, "all");
  assert_string_equal(all->doc, "all(...) -> ...: what it is given");
  assert_string_equal(all->plugin->name, "echo");
  assert_string_equal(all->plugin->version, "1.0");
  assert_string_equal(all->plugin->path, file("echo.so"));
  assert_ptr_equal(all, uns_registry_find(registry, "echo.all", &error));
  assert_ptr_equal(all->plugin, uns_registry_plugin(registry, "echo", &error));
  assert_ptr_equal(all->plugin, uns_registry_load(registry, file("../plugins/./echo.so"), &error));
  assert_ptr_equal(all, uns_registry_resolve(registry, all->plugin->path, "echo.all", &error));
  assert_string_equal(uns_registry_find(registry, "echo.list", &error)->doc, "");
  assert_null(error);
  uns_registry_free(registry);
}

static void says_where_it_looked(void **state) {
  (void)state;
  char *error = NULL, variable[16384], script[] = "/nowhere/script";
  snprintf(variable, sizeof variable, "/nowhere/one::/nowhere/two/:");
  uns_registry *registry = uns_registry_new(
      &(uns_registry_places){variable, script, "/nowhere/program", "/nowhere/installed", NULL});
  assert_null(uns_registry_find(registry, "no.such", &error));
  assert_string_equal(error, "no plugin 'no' was found; looked for\n\t/nowhere/one/no.so\n\t/nowhere/two/no.so"
                             "\n\t/nowhere/script/plugins/no.so\n\t/nowhere/installed/no.so");
  uns_free(error);
  uns_registry_free(registry);
  registry = make(NULL);
  assert_null(uns_registry_find(registry, "no.such", &error));
  assert_says(error, "no plugin 'no' was found", "no place is set", NULL);
  uns_free(error);
  uns_registry_free(registry);
}

static void says_which_tasks_there_are(void **state) {
  (void)state;
  char *error = NULL;
  uns_registry *registry = make(here);
  assert_null(uns_registry_find(registry, "crash.nothing", &error));
  assert_says(error, "plugin 'crash' (", "crash.so) has no task 'nothing'", "it has 'segfault', 'wild', 'overflow'",
              NULL);
  uns_free(error);
  uns_registry_free(registry);
}

static void refuses_what_is_no_name(void **state) {
  (void)state;
  static const char *const names[] = {
      "", ".", "echo", "echo.", ".all", "echo.all.more", "../echo.all", "echo/x.all", "echo all", "\303\244.b"};
  uns_registry *registry = make(here);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char *error = NULL;
    assert_null(uns_registry_find(registry, names[i], &error));
    assert_says(error, names[i], "\"plugin.task\"", NULL);
    uns_free(error);
  }
  char long_name[400], *error = NULL;
  memset(long_name, 'x', sizeof long_name);
  memcpy(long_name + 300, ".y", 3);
  assert_null(uns_registry_find(registry, long_name, &error));
  assert_says(error, long_name, NULL);
  uns_free(error);
  assert_null(uns_registry_plugin(registry, "a.b", &error));
  assert_says(error, "'a.b' does not name a plugin", NULL);
  uns_free(error);
  uns_registry_free(registry);
}

static void refuses_broken_plugins(void **state) {
  (void)state;
  static const struct {
    const char *name, *says, *too;
  } broken[] = {
      {"other_abi", "was built for plugin ABI version 2", "this host has version 1"},
      {"no_descriptor", "unsync_plugin_descriptor is missing", ""},
      {"wrong_descriptor", "unsync_plugin_descriptor is no descriptor", ""},
      {"duplicate", "two tasks with the name 'twice'", "tasks 2 and 3"},
      {"misnamed", "calls itself 'other_name'", ""},
      {"unknown_flag", "its task 'one' has flags that this host does not know: 0x40000000", ""},
      {"no_function", "its task 'hollow' has no function", ""},
      {"newer", "built with a newer unsync_plugin.h", "functions that this host does not have"},
      {"unresolved", "this_function_is_nowhere", ""},
  };
  uns_registry *registry = make(here);
  for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
    char *error = NULL, name[64], start[9000];
    snprintf(name, sizeof name, "%s.never", broken[i].name);
    snprintf(start, sizeof start, "plugin '%s' cannot be loaded from %s/%s.so: ", broken[i].name, here, broken[i].name);
    for (int twice = 0; twice < 2; twice++) {
      assert_null(uns_registry_find(registry, name, &error));
      assert_says(error, start, broken[i].says, broken[i].too, NULL);
      uns_free(error);
    }
  }
  uns_registry_free(registry);
}

static void loads_a_file_under_the_name_it_gives_itself(void **state) {
  (void)state;
  char *error = NULL;
  uns_registry *registry = make(NULL);
  const uns_plugin *plugin = uns_registry_load(registry, file("misnamed.so"), &error);
  assert_non_null(plugin);
  assert_string_equal(plugin->name, "other_name");
  assert_ptr_equal(plugin, uns_registry_load(registry, file("misnamed.so"), &error));
  assert_non_null(uns_registry_find(registry, "other_name.one", &error));
  assert_null(uns_registry_load(registry, file("not_there.so"), &error));
  assert_says(error, "not_there.so cannot be loaded: No such file or directory", NULL);
  uns_free(error);
  uns_registry_free(registry);
}

static void copy_file(const char *from, const char *to, long size) {
  FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
  assert_non_null(in);
  assert_non_null(out);
  for (int c; size-- != 0 && (c = getc(in)) != EOF;) putc(c, out);
  fclose(in);
  fclose(out);
}

static void tells_two_plugins_of_one_name_apart(void **state) {
  (void)state;
  char *error = NULL, other[] = "/tmp/unsync-registry-XXXXXX", path[64];
  assert_non_null(mkdtemp(other));
  snprintf(path, sizeof path, "%s/echo.so", other);
  copy_file(file("echo.so"), path, -1);
  uns_registry *registry = make(here);
  assert_non_null(uns_registry_find(registry, "echo.all", &error));
  assert_null(uns_registry_load(registry, path, &error));
  assert_says(error, path, "a plugin with its name, 'echo', is loaded from", file("echo.so"), NULL);
  uns_free(error);
  assert_null(uns_registry_resolve(registry, path, "echo.all", &error));
  assert_says(error, path, "is loaded from", NULL);
  uns_free(error);
  unlink(path);
  assert_int_equal(symlink(file("echo.so"), path), 0); /* the same file */
  assert_non_null(uns_registry_load(registry, path, &error));
  unlink(path);
  rmdir(other);
  uns_registry_free(registry);
}

/* A file that is shorter than it says would kill the process in the dynamic linker. */
static void refuses_damaged_files(void **state) {
  (void)state;
  char *error = NULL, directory[] = "/tmp/unsync-registry-XXXXXX", path[64];
  struct stat info;
  assert_non_null(mkdtemp(directory));
  snprintf(path, sizeof path, "%s/echo.so", directory);
  assert_int_equal(stat(file("echo.so"), &info), 0);
  uns_registry *registry = make(NULL);
  for (long size = 0; size < info.st_size * 3 / 4; size = size < 200 ? size + 1 : size + 997) {
    copy_file(file("echo.so"), path, size);
    const uns_plugin *plugin = uns_registry_load(registry, path, &error);
    if (plugin != NULL) break; /* only what the dynamic linker does not need is missing */
    assert_true(size < info.st_size);
    assert_says(error, path, "cannot be loaded: ", NULL);
    uns_free(error);
  }
  unlink(path);
  snprintf(path, sizeof path, "%s/other.so", directory);
  assert_int_equal(mkdir(path, 0700), 0);
  assert_null(uns_registry_load(registry, path, &error));
  assert_says(error, path, NULL);
  uns_free(error);
  rmdir(path);
  FILE *text = fopen(path, "w");
  fputs("this is no shared object, but it is long enough for one to be looked for in it", text);
  fclose(text);
  assert_null(uns_registry_load(registry, path, &error));
  assert_says(error, path, NULL);
  uns_free(error);
  unlink(path);
  rmdir(directory);
  uns_registry_free(registry);
}

static void survives_failing_allocations(void **state) {
  (void)state;
  for (long n = 1; n < 100; n++) {
    char *error = NULL;
    uns_alloc_fail_after(n);
    uns_registry *registry = uns_registry_new(&(uns_registry_places){here, "/nowhere", "/nowhere", "/nowhere", NULL});
    const uns_native *native = registry == NULL ? NULL : uns_registry_find(registry, "echo.all", &error);
    if (registry != NULL && native != NULL) assert_null(uns_registry_find(registry, "no.such", &error));
    uns_alloc_fail_after(0);
    uns_free(error);
    uns_registry_free(registry);
  }
}

static uns_registry *shared_registry;

static void look(void *argument) {
  const uns_native **found = argument;
  static const char *const names[] = {"echo.all", "crash.abort", "other_name.one", "echo.pid"};
  for (int i = 0; i < 200; i++) {
    char *error = NULL;
    const uns_native *native = uns_registry_find(shared_registry, names[i % 4], &error);
    if (native == NULL) uns_free(error);
    else if (i % 4 == 0) *found = native;
  }
}

static void may_be_asked_from_many_threads_at_once(void **state) {
  (void)state;
  enum { THREADS = 8 };
  uv_thread_t threads[THREADS];
  const uns_native *found[THREADS] = {0};
  shared_registry = make(here);
  for (int i = 0; i < THREADS; i++) assert_int_equal(uv_thread_create(&threads[i], look, &found[i]), 0);
  for (int i = 0; i < THREADS; i++) uv_thread_join(&threads[i]);
  for (int i = 0; i < THREADS; i++) assert_ptr_equal(found[i], found[0]);
  uns_registry_free(shared_registry);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(finds_a_task_and_loads_its_plugin_once),
      cmocka_unit_test(says_where_it_looked),
      cmocka_unit_test(says_which_tasks_there_are),
      cmocka_unit_test(refuses_what_is_no_name),
      cmocka_unit_test(refuses_broken_plugins),
      cmocka_unit_test(loads_a_file_under_the_name_it_gives_itself),
      cmocka_unit_test(tells_two_plugins_of_one_name_apart),
      cmocka_unit_test(refuses_damaged_files),
      cmocka_unit_test(survives_failing_allocations),
      cmocka_unit_test(may_be_asked_from_many_threads_at_once),
  };
  return cmocka_run_group_tests(tests, set_up_all, NULL);
}
