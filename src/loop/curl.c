#include "loop/curl.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#define LIBRARY "libcurl.so.4"

#define SYMBOL(field) {"curl_" #field, offsetof(uns_curl_api, field)}
static const struct {
  const char *name;
  size_t offset;
} symbols[] = {
    SYMBOL(global_init),     SYMBOL(easy_init),           SYMBOL(easy_cleanup),     SYMBOL(easy_reset),
    SYMBOL(easy_setopt),     SYMBOL(easy_getinfo),        SYMBOL(easy_strerror),    SYMBOL(multi_init),
    SYMBOL(multi_cleanup),   SYMBOL(multi_setopt),        SYMBOL(multi_add_handle), SYMBOL(multi_remove_handle),
    SYMBOL(multi_socket_action), SYMBOL(multi_info_read), SYMBOL(multi_strerror),   SYMBOL(slist_append),
    SYMBOL(slist_free_all),  SYMBOL(url),                 SYMBOL(url_cleanup),      SYMBOL(url_set),
    SYMBOL(url_get),         SYMBOL(url_strerror),        SYMBOL(free),
};

uns_curl_api uns_curl;

/* Written under the once. */
static uv_once_t load_once = UV_ONCE_INIT;
static bool loaded;
static char load_problem[256];

static void load(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    snprintf(load_problem, sizeof load_problem, "%s", dlerror());
    return;
  }
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *symbol = dlsym(library, symbols[i].name);
    if (symbol == NULL) {
      snprintf(load_problem, sizeof load_problem, "%s is too old: it has no %s", LIBRARY, symbols[i].name);
      return;
    }
    memcpy((char *)&uns_curl + symbols[i].offset, &symbol, sizeof symbol);
  }
  /* OpenSSL would tear itself down at exit, under threads that may still be in it: it shall leave that to the kernel. */
  int (*init_crypto)(uint64_t options, const void *settings);
  void *symbol = dlsym(library, "OPENSSL_init_crypto");
  memcpy(&init_crypto, &symbol, sizeof symbol);
  if (init_crypto != NULL) init_crypto(UINT64_C(0x00080000) /* OPENSSL_INIT_NO_ATEXIT */, NULL);
  CURLcode code = uns_curl.global_init(CURL_GLOBAL_DEFAULT);
  loaded = code == CURLE_OK;
  if (!loaded) snprintf(load_problem, sizeof load_problem, "%s: %s", LIBRARY, uns_curl.easy_strerror(code));
}

bool uns_curl_load(const char **problem) {
  uv_once(&load_once, load);
  *problem = load_problem;
  return loaded;
}
