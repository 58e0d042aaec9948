/*
 * curl: libcurl's functions, without linking it.
 *
 * Linking it costs every start 3 ms and 5 MiB, and most programs never ask for it: it is loaded at its first use, and
 * stays. Its headers are used for types and numbers only.
 */
#ifndef UNS_CURL_H
#define UNS_CURL_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct {
  CURLcode (*global_init)(long flags);
  CURL *(*easy_init)(void);
  void (*easy_cleanup)(CURL *easy);
  void (*easy_reset)(CURL *easy);
  CURLcode (*easy_setopt)(CURL *easy, CURLoption option, ...);
  CURLcode (*easy_getinfo)(CURL *easy, CURLINFO info, ...);
  const char *(*easy_strerror)(CURLcode code);
  CURLM *(*multi_init)(void);
  CURLMcode (*multi_cleanup)(CURLM *multi);
  CURLMcode (*multi_setopt)(CURLM *multi, CURLMoption option, ...);
  CURLMcode (*multi_add_handle)(CURLM *multi, CURL *easy);
  CURLMcode (*multi_remove_handle)(CURLM *multi, CURL *easy);
  CURLMcode (*multi_socket_action)(CURLM *multi, curl_socket_t fd, int events, int *running);
  CURLMsg *(*multi_info_read)(CURLM *multi, int *left);
  const char *(*multi_strerror)(CURLMcode code);
  struct curl_slist *(*slist_append)(struct curl_slist *list, const char *text);
  void (*slist_free_all)(struct curl_slist *list);
  CURLU *(*url)(void);
  void (*url_cleanup)(CURLU *parsed);
  CURLUcode (*url_set)(CURLU *parsed, CURLUPart part, const char *text, unsigned flags);
  CURLUcode (*url_get)(const CURLU *parsed, CURLUPart part, char **text, unsigned flags);
  const char *(*url_strerror)(CURLUcode code);
  void (*free)(void *text);
} uns_curl_api;

/* Usable once uns_curl_load has succeeded; never changes after that. Any thread. */
extern uns_curl_api uns_curl;

/* Loads libcurl and starts it, once in the process. False with the reason, static, in `problem`. Any thread. */
bool uns_curl_load(const char **problem);

#endif
