/*
 * transfer_inside: what a runtime has of libcurl, for those who look after it: transfer.c, transfer_sockets.c.
 */
#ifndef UNS_TRANSFER_INSIDE_H
#define UNS_TRANSFER_INSIDE_H

#include "loop/transfer.h"

enum { UNS_HTTP_SPARE_MAX = 64 }; /* easy handles kept for the next requests: about 6 KB each */

/* Freed by their closing. */
typedef struct {
  uv_timer_t wanted; /* what libcurl waits for */
  uv_timer_t idle;   /* what we close its connections after */
  int open;
} uns_http_timers;

/* A socket that libcurl uses. Freed by its uv handle's closing. */
typedef struct uns_http_socket {
  uv_poll_t poll;
  struct uns_http *http;
  curl_socket_t fd;
  int events; /* that libcurl waits for */
  bool ours;  /* libcurl tells us when it closes it; else it goes when libcurl stops watching it */
} uns_http_socket;

typedef struct uns_http {
  uns_closer closer;
  uns_runtime *runtime;
  CURLM *multi;              /* NULL: closed for having been idle */
  uns_http_timers *timers;   /* owned */
  uns_http_socket **sockets; /* by descriptor; owned */
  size_t socket_capacity;
  uns_link active, waiting; /* transfers, in order */
  size_t active_count;
  size_t limit, most; /* how many may be active: now, where descriptors were short; and ever */
  size_t resolving;   /* active ones that may be looking up a name */
  bool breakage;      /* some active ones are broken */
  bool guard_pipe;    /* SIGPIPE would end the program */
  CURL *spares[UNS_HTTP_SPARE_MAX];
  size_t spare_count;
} uns_http;

/* ---- transfer.c ---- */

/* Something has happened to the descriptor, or it is time: lets libcurl go on, and settles what has ended. */
void uns_http_act(uns_http *http, curl_socket_t fd, int events);
uns_transfer *uns_http_transfer_of(CURL *easy);

/* ---- transfer_sockets.c ---- */

/* The loop waits for what the multi handle wants. */
void uns_http_watch(uns_http *http);
/* The transfer's sockets are made and closed by us. `transfer->easy` is set. */
CURLcode uns_http_make_sockets(uns_http *http, uns_transfer *transfer);
/* Those that libcurl has left. */
void uns_http_forget_sockets(uns_http *http);

#endif
