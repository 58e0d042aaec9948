/*
 * transfer: requests in libcurl's hands, on the loop of a runtime, any number at once.
 *
 * One multi handle for each runtime, made at its first request. libcurl says which sockets and what time it waits for;
 * uv handles of ours wait for them and tell it; it says which transfers have ended.
 *   - Everything belongs to the runtime's thread.
 *   - libcurl must not be entered from its own callbacks: they only note what they see.
 *   - At most `limit` transfers are in libcurl's hands, so that a thousand at once fit into the limit of descriptors;
 *     the rest wait here, in order. Where no descriptor is left all the same, a transfer waits for another's end.
 *   - A transfer under way counts in runtime->pending and ->pending_io.
 * Knows no Lua: what is asked and what becomes of the answer is bind/http.c's. Descriptors: transfer_sockets.c.
 */
#ifndef UNS_TRANSFER_H
#define UNS_TRANSFER_H

#include "loop/curl.h"
#include "loop/runtime.h"

typedef enum {
  UNS_TRANSFER_ANSWERED, /* libcurl is done: well, or as its code says */
  UNS_TRANSFER_BROKEN,   /* we could not do what libcurl needs: `broken` says why */
  UNS_TRANSFER_LATE      /* the deadline has come */
} uns_transfer_end;

/* No server has that much to say of its answer; without a limit, one that never comes to an end would fill our memory.
   A little less than where newer libcurls, 300 KiB, end a transfer with an error that may mean anything. */
enum { UNS_TRANSFER_HEAD_MAX = 256 << 10 };

typedef struct uns_transfer {
  uns_link link;
  struct uns_http *http;      /* NULL: not under way */
  CURL *easy;                 /* owned */
  struct curl_slist *headers; /* owned */
  uns_timer timer;            /* the whole's deadline */
  bool active;                /* in the multi */
  bool resolves;              /* to be set before the start: a name must be looked up for it */
  bool resolving;             /* counted in http->resolving */
  bool method_is_custom;      /* set by whoever set it: until a redirect says GET */
  bool starved;               /* no descriptor was left for it */
  bool retried;               /* with all kept connections closed */
  bool too_big;               /* the body has more than body_max bytes */
  bool head_too_big;          /* a head, with what comes behind the body, has more than UNS_TRANSFER_HEAD_MAX bytes */
  int socket_error;           /* a libuv code: why there is no socket; libcurl may find another way; 0 */
  int broken;                 /* a libuv code; 0 */
  char *head, *body;          /* owned: what came; the head of the last response */
  size_t head_size, head_capacity, body_size, body_capacity, body_max;
  char address[80];           /* last tried, "127.0.0.1:80"; "" before */
  char text[CURL_ERROR_SIZE]; /* libcurl's words for what went wrong */
  /* Told once, when it is over; has to call uns_transfer_release at its end. Must run no user code. */
  void (*ended)(struct uns_transfer *transfer, uns_transfer_end end, CURLcode result);
} uns_transfer;

/* At the first call, loads libcurl and makes what the runtime needs. False with the reason, static, in `problem`. */
bool uns_http_prepare(uns_runtime *runtime, const char **problem);

/* Zeroes it. From here on it may be released. */
void uns_transfer_init(uns_transfer *transfer, void (*ended)(uns_transfer *, uns_transfer_end, CURLcode));
/* Gives it an easy handle, with all options set that do not depend on what is asked. */
CURLcode uns_transfer_open(uns_transfer *transfer, uns_runtime *runtime);
/* `deadline_ns` on uns_now_ns, 0: none. UNS_OK or UNS_ENOMEM, and it is not under way then. */
int uns_transfer_start(uns_transfer *transfer, uns_runtime *runtime, uint64_t deadline_ns);
/* Gives back what the transfer has, in whatever state it is; it ends untold. May be called again. */
void uns_transfer_release(uns_transfer *transfer);

/* The first one under way for which `matches` is true, or NULL. */
uns_transfer *uns_transfer_find(uns_runtime *runtime, bool (*matches)(const uns_transfer *, const void *),
                                const void *what);
/* Closes the connections that are kept for the next requests, if none is under way. */
void uns_http_rest(uns_runtime *runtime);
/* After a release from outside `ended`: lets those that wait have the place. */
void uns_http_run_waiting(uns_runtime *runtime);

#endif
