/* corpus: what fuzzing began with and what it found, once more: every file of spec/corpus through its target. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>

#include "../fuzz/codec_target.h"
#include "../fuzz/frame_target.h"
#include "../fuzz/plugin_target.h"

static void replay(const char *name, int (*target)(const uint8_t *data, size_t size)) {
  char path[1024];
  snprintf(path, sizeof path, "spec/corpus/%s", name);
  DIR *directory = opendir(path);
  assert_non_null(directory);
  int count = 0;
  for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "spec/corpus/%s/%.200s", name, entry->d_name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static uint8_t bytes[1 << 16];
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    uint8_t *exact = frame_exact(bytes, size);
    target(exact, size);
    /* And cut short, at some places. */
    for (size_t i = 1; i < 8; i++) target(exact, size * i / 8);
    free(exact);
    count++;
  }
  closedir(directory);
  assert_true(count > 0);
}

static void packets(void **state) {
  (void)state;
  replay("codec", codec_target);
  codec_close();
}

static void frames_and_rings(void **state) {
  (void)state;
  replay("frame", frame_target);
}

static void plugins(void **state) {
  (void)state;
  replay("plugin", plugin_target);
  plugin_close();
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(packets),
      cmocka_unit_test(frames_and_rings),
      cmocka_unit_test(plugins),
  };
  return cmocka_run_group_tests_name("corpus", tests, NULL, NULL);
}
