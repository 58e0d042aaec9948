/*
 * serve: what worker processes ask their host for over their control sockets: to hear of futures, and calls of their
 * own. The supervisor's thread.
 *
 * Nothing here waits for a child: what does not fit into its socket is kept until it does. Futures: exports.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/recorder.h"
#include "exec/silence.h"
#include "exec/why.h"
#include "exec/worker_process.h"

static const char no_memory_to_hear[] = "there was not enough memory to hear it";
static const char garbage_heard[] = "it wrote garbage on its control socket";

/* ---- sending ---- */

typedef struct chunk {
  uns_link link;
  size_t size_bytes, sent_bytes;
  uint8_t bytes[];
} chunk;

/* Sends what the socket takes. */
static void flush(uns_child *child) {
  enum { PIECES = 64 };
  uns_service *service = &child->service;
  while (!uns_list_empty(&service->output) && service->watch.fd >= 0) {
    struct iovec pieces[PIECES];
    struct msghdr header = {.msg_iov = pieces};
    for (uns_link *link = service->output.next; link != &service->output && header.msg_iovlen < PIECES;
         link = link->next) {
      chunk *one = uns_container_of(link, chunk, link);
      pieces[header.msg_iovlen++] = (struct iovec){one->bytes + one->sent_bytes, one->size_bytes - one->sent_bytes};
    }
    ssize_t sent = sendmsg(service->watch.fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) break; /* full; or the child is gone, which the watch on its end tells */
    for (size_t left = (size_t)sent; left > 0;) {
      chunk *first = uns_container_of(service->output.next, chunk, link);
      size_t now = first->size_bytes - first->sent_bytes;
      if (now > left) now = left;
      first->sent_bytes += now;
      left -= now;
      if (first->sent_bytes < first->size_bytes) break;
      uns_list_remove(&first->link);
      uns_free(first);
    }
  }
  if (service->watch.fd < 0) return;
  uint32_t events = EPOLLIN | (uns_list_empty(&service->output) ? 0 : (uint32_t)EPOLLOUT);
  uns_supervisor_rewatch(child->pool->supervisor, &service->watch, events);
}

int uns_service_send(uns_child *child, const uns_message *message, const uns_packet *packet) {
  uns_service *service = &child->service;
  uns_frame frame;
  if (service->watch.fd < 0) return UNS_ECLOSED;
  int status = uns_frame_build(&frame, &service->out, message, packet);
  if (status != UNS_OK) return status;
  chunk *last = uns_malloc(sizeof *last + frame.size_bytes);
  if (last == NULL) {
    uns_frame_abandon(&frame);
    return UNS_ENOMEM;
  }
  service->sent++;
  last->size_bytes = frame.size_bytes;
  last->sent_bytes = 0;
  uns_frame_copy(&frame, 0, last->bytes, frame.size_bytes);
  uns_frame_done(&frame);
  bool idle = uns_list_empty(&service->output);
  uns_list_push_back(&service->output, &last->link);
  if (idle && !service->corked) flush(child);
  return UNS_OK;
}

void uns_service_cork(uns_child *child) { child->service.corked = true; }

void uns_service_uncork(uns_child *child) {
  child->service.corked = false;
  flush(child);
}

/* The same for what must not be lost: else the child would wait for ever. */
void uns_service_must_send(uns_child *child, const uns_message *message, const uns_packet *packet) {
  int status = uns_service_send(child, message, packet);
  if (status == UNS_ENOMEM) uns_child_condemn(child, "there was not enough memory to answer it");
}

/* ---- nested calls ---- */

typedef struct nested_call {
  uns_link link;
  uns_child *child; /* NULL: it is dead */
  uns_job *job;
  uint64_t id; /* its number there */
} nested_call;

static void on_nested_end(uns_mail *mail, void *receiver) {
  uns_job *job = uns_container_of(mail, uns_job, mail);
  nested_call *call = job->context;
  if (job->record.recorder != NULL) uns_recorder_job_home(job, UNS_TRACE_NONE);
  if (receiver != NULL && call->child != NULL) {
    uns_message message;
    uns_message_of_result(&message, job);
    message.words.id = call->id;
    int status = uns_service_send(call->child, &message, &job->result);
    if (status == UNS_ECORRUPT || status == UNS_ENOMEM) {
      uns_job_fail_unsent(job, "the result", status);
      uns_message_of_result(&message, job);
      message.words.id = call->id;
      uns_service_must_send(call->child, &message, NULL);
    }
  }
  uns_list_remove(&call->link);
  uns_free(call);
  uns_job_free(job);
}

/* Its child is told of the last report. That there was one is all that may get lost. */
static void on_nested_progress(uns_mail *mail, void *receiver) {
  uns_job *job = uns_container_of(mail, uns_job, progress_mail);
  const nested_call *call = job->context;
  atomic_store(&job->progress_posted, false);
  if (receiver == NULL || call->child == NULL) return;
  uns_message message = {.words = {.kind = UNS_FRAME_PROGRESS, .id = call->id}};
  message.words.progress_done = atomic_load_explicit(&job->progress_done, memory_order_relaxed);
  message.words.progress_total = atomic_load_explicit(&job->progress_total, memory_order_relaxed);
  uns_service_send(call->child, &message, NULL);
}

static void post_nested_progress(uns_job *job) {
  if (!atomic_exchange(&job->progress_posted, true)) uns_mailbox_post(job->home, &job->progress_mail);
}

static bool call(uns_child *child, uns_message *message) {
  uns_mailbox *home = uns_supervisor_mailbox(child->pool->supervisor);
  if (message->words.function_kind != UNS_KIND_CPU || message->texts[UNS_TEXT_NAME] == NULL) return false;
  uns_function *function = uns_function_of_message(message, child->service.function);
  nested_call *nested = uns_malloc(sizeof *nested);
  uns_job *job = function != NULL ? uns_job_new(home, function) : NULL;
  bool fine = nested != NULL && job != NULL && uns_frame_own(&message->packet) == UNS_OK;
  if (fine && message->search_path != NULL) job->search_path = uns_shared_ref(message->search_path);
  if (function != NULL) {
    uns_shared_unref(child->service.function);
    child->service.function = function;
  }
  if (!fine) {
    uns_free(nested);
    uns_job_free(job);
    uns_message failure = {.words = {.kind = UNS_FRAME_RESULT,
                                     .id = message->words.id,
                                     .state = UNS_OUTCOME_ERROR,
                                     .error_code = "ENOMEM",
                                     .exit_code = -1}};
    failure.texts[0] = "not enough memory for a call made in a worker process";
    uns_service_must_send(child, &failure, NULL);
    return true;
  }
  nested->child = child;
  nested->job = job;
  nested->id = message->words.id;
  uns_list_push_back(&child->service.nested, &nested->link);
  job->context = nested;
  job->mail.deliver = on_nested_end;
  job->progress_mail.deliver = on_nested_progress;
  job->progressed = post_nested_progress;
  job->submitted_ns = message->words.submitted_ns;
  job->deadline_ns = message->words.deadline_ns;
  job->named_context = message->words.context != 0;
  uns_packet_move(&job->call, &message->packet);
  job->record.recorder = child->pool->executors->recorder;
  if (job->record.recorder != NULL) uns_recorder_job_sent(job, UNS_TRACE_NONE);
  uns_process_pool_submit(child->pool, job);
  return true;
}

/* Nobody wants it any more. */
static void cancel_nested(uns_process_pool *pool, nested_call *call) {
  uns_job *job = call->job;
  atomic_store(&job->cancel, 1);
  if (!uns_process_pool_cancel(pool, job)) return;
  uns_job_fail(job, "cancelled", "%s was cancelled", job->function->name);
  uns_job_post(job);
}

static bool cancel(uns_child *child, uint64_t id) {
  for (uns_link *link = child->service.nested.next; link != &child->service.nested; link = link->next) {
    nested_call *call = uns_container_of(link, nested_call, link);
    if (call->id != id) continue;
    cancel_nested(child->pool, call);
    break; /* it may have ended already, so that there is none */
  }
  return true;
}

const uns_job *uns_service_nested(const uns_child *child, uint64_t id) {
  for (const uns_link *link = child->service.nested.next; link != &child->service.nested; link = link->next) {
    const nested_call *call = uns_container_of(link, nested_call, link);
    if (call->id == id) return call->job;
  }
  return NULL;
}

/* ---- receiving ---- */

static bool hello(uns_child *child, const uns_message *message) {
  const char *build = message->texts[0];
  int fd = child->service.received_fd;
  if (build == NULL || strcmp(build, uns_frame_build_id()) != 0 || fd < 0) return false;
  fcntl(fd, F_SETFL, O_NONBLOCK); /* whatever it is: nobody here waits for it */
  if (!uns_child_up(child, fd)) return false;
  child->service.received_fd = -1;
  return true;
}

static bool sorry(uns_child *child, const uns_message *message) {
  if (message->texts[0] == NULL) return false;
  uns_child_is_sorry(child, message->words.error_code, message->texts[0]);
  return true;
}

/* UNS_OK; UNS_ECORRUPT: it makes no sense; UNS_ENOMEM. */
static int handle(uns_child *child, uns_message *message) {
  bool fine = false;
  if (child->service.dead) { /* of its last words only those count that say what it had */
    fine = message->words.kind != UNS_FRAME_CHANNEL_TOOK || uns_channels_took(child, message);
    return fine ? UNS_OK : UNS_ECORRUPT;
  }
  switch (message->words.kind) {
    case UNS_FRAME_SORRY: fine = sorry(child, message); break;
    case UNS_FRAME_HELLO: fine = hello(child, message); break;
    case UNS_FRAME_SETTLE: return uns_exports_settle(child, message);
    case UNS_FRAME_STOP: return uns_exports_stop(child, message);
    case UNS_FRAME_LOOKED: return uns_exports_look_at(child, &message->words);
    case UNS_FRAME_UNREF: {
      int status = uns_exports_give_back(child, &message->words);
      uns_channels_dropped(child, message->words.id);
      return status;
    }
    case UNS_FRAME_CALL: fine = call(child, message); break;
    case UNS_FRAME_CANCEL: fine = cancel(child, message->words.id); break;
    case UNS_FRAME_CHANNEL_MAKE: fine = uns_channels_make(child, message); break;
    case UNS_FRAME_CHANNEL_ASK: fine = uns_channels_ask(child, message); break;
    case UNS_FRAME_CHANNEL_WAIT: fine = uns_channels_wait(child, message); break;
    case UNS_FRAME_CHANNEL_LEAVE: fine = uns_channels_leave(child, message); break;
    case UNS_FRAME_CHANNEL_TOOK: fine = uns_channels_took(child, message); break;
    case UNS_FRAME_CHANNEL_GIVE_BACK: fine = uns_channels_give_back(child, message); break;
    case UNS_FRAME_CHANNEL_SETTLE: fine = uns_channels_settle(child, message); break;
    case UNS_FRAME_BECAUSE: fine = uns_why_answer(child, message); break;
    case UNS_FRAME_QUIET: fine = uns_silence_answer(child->pool->executors->silence, child, message); break;
    default: break;
  }
  return fine ? UNS_OK : UNS_ECORRUPT;
}

static void take_descriptor(uns_service *service, struct msghdr *header) {
  for (struct cmsghdr *item = CMSG_FIRSTHDR(header); item != NULL; item = CMSG_NXTHDR(header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
    /* One comes, with the greeting; of others none stays open. */
    for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= item->cmsg_len; at += sizeof(int)) {
      if (service->received_fd >= 0) close(service->received_fd);
      memcpy(&service->received_fd, CMSG_DATA(item) + at, sizeof(int));
    }
  }
}

/* Reads once. Bytes, 0 at the end, -1 with errno. */
static ssize_t receive(uns_service *service) {
  if (service->input_capacity - service->input_bytes < 4096) {
    size_t capacity = service->input_capacity == 0 ? 16384 : service->input_capacity * 2;
    uint8_t *input = uns_realloc(service->input, capacity);
    if (input == NULL) {
      errno = ENOMEM;
      return -1;
    }
    service->input = input;
    service->input_capacity = capacity;
  }
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int))];
  } ancillary;
  struct iovec room = {service->input + service->input_bytes, service->input_capacity - service->input_bytes};
  struct msghdr header = {
      .msg_iov = &room, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary.room};
  ssize_t count;
  do count = recvmsg(service->watch.fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (count < 0 && errno == EINTR);
  if (count > 0) {
    service->input_bytes += (size_t)count;
    take_descriptor(service, &header);
  }
  return count;
}

/* Handles the whole frames among what came. Returns what `handle` does. */
static int handle_frames(uns_child *child) {
  uns_service *service = &child->service;
  size_t done = 0;
  int status = UNS_OK;
  while (status == UNS_OK && service->input_bytes - done >= UNS_FRAME_HEAD) {
    uint64_t size_bytes = uns_frame_size(service->input + done);
    if (size_bytes == 0) {
      status = UNS_ECORRUPT;
      break;
    }
    if (size_bytes > service->input_bytes - done) break;
    uns_message message;
    status = uns_frame_read(&service->in, service->input + done, (size_t)size_bytes, &message);
    if (status != UNS_OK) break;
    service->received++;
    status = handle(child, &message);
    uns_message_deinit(&message);
    done += (size_t)size_bytes;
  }
  service->input_bytes -= done;
  if (done > 0) memmove(service->input, service->input + done, service->input_bytes);
  if (service->input_bytes == 0 && service->input_capacity > 1 << 20) { /* one large message does not cost for ever */
    uns_free(service->input);
    service->input = NULL;
    service->input_capacity = 0;
  }
  return status;
}

/* It is ending, or has been killed; the watch on its end says how. */
static void stop_hearing(uns_child *child) {
  int fd = child->service.watch.fd;
  uns_supervisor_unwatch(child->pool->supervisor, &child->service.watch);
  close(fd);
  uns_child_expect_end(child);
}

/* Hears what it has said by now, but not for ever, should it speak without a pause: the watch is ready again. True: that was
   all. Where that is the last of it, or makes no sense, no more is heard. */
static bool hear(uns_child *child) {
  enum { AT_A_TIME = 32 };
  uns_service *service = &child->service;
  for (int i = 0; i < AT_A_TIME; i++) {
    ssize_t count = receive(service);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (count < 0 && errno == ENOMEM) uns_child_condemn(child, no_memory_to_hear);
    else if (count < 0 && errno != ECONNRESET) uns_child_condemn(child, strerror(errno));
    if (count <= 0) {
      stop_hearing(child);
      return true;
    }
    int status = handle_frames(child);
    if (status == UNS_OK) continue;
    uns_child_condemn(child, status == UNS_ENOMEM ? no_memory_to_hear : garbage_heard);
    stop_hearing(child);
    return true;
  }
  return false;
}

static void on_socket(uns_watch *watched, uint32_t events) {
  uns_child *child = uns_container_of(uns_container_of(watched, uns_service, watch), uns_child, service);
  if (events & EPOLLOUT) flush(child);
  if (events & ~(uint32_t)EPOLLOUT) hear(child);
}

void uns_service_check(uns_child *child) {
  uns_service *service = &child->service;
  if (service->watch.fd < 0 || service->input_bytes == 0) return;
  uint32_t said = atomic_load(&child->wire.board->speaking);
  if (said % 2 != 0) return;
  /* All frames that it had begun by then, or even some that it has begun since. */
  if (hear(child) && service->watch.fd >= 0 && service->input_bytes > 0 &&
      atomic_load(&child->wire.board->speaking) == said)
    uns_child_condemn(child, garbage_heard);
}

int uns_service_open(uns_child *child, int fd) {
  uns_service *service = &child->service;
  uns_executors *executors = child->pool->executors;
  uns_port_init(&service->in, &uns_exports_ops, child);
  uns_port_init(&service->out, &uns_exports_ops, child);
  service->received_fd = -1;
  service->dead = false;
  service->watch.ready = on_socket;
  if (uns_supervisor_watch(child->pool->supervisor, &service->watch, fd, EPOLLIN) != 0) {
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
  }
  uns_message message = {.words = {.kind = UNS_FRAME_SETUP, .grace_ns = executors->grace_ns}};
  message.texts[0] = executors->script_directory;
  uns_service_must_send(child, &message, NULL);
  return 0;
}

void uns_service_close(uns_child *child) {
  uns_service *service = &child->service;
  service->dead = true;
  if (service->watch.fd >= 0) {
    while (receive(service) > 0 && handle_frames(child) == UNS_OK) continue;
    int fd = service->watch.fd;
    uns_supervisor_unwatch(child->pool->supervisor, &service->watch);
    close(fd);
  }
  if (service->received_fd >= 0) close(service->received_fd);
  service->received_fd = -1;
  uns_link *link;
  while ((link = uns_list_pop_front(&service->output)) != NULL) uns_free(uns_container_of(link, chunk, link));
  while ((link = uns_list_pop_front(&service->nested)) != NULL) {
    nested_call *call = uns_container_of(link, nested_call, link);
    call->child = NULL;
    cancel_nested(child->pool, call);
  }
  uns_free(service->input);
  service->input = NULL;
  service->input_bytes = service->input_capacity = 0;
  uns_port_deinit(&service->in);
  uns_port_deinit(&service->out);
  uns_shared_unref(service->function);
  service->function = NULL;
  uns_channels_clear(child);
  uns_exports_clear(child);
  uns_silence_answer(child->pool->executors->silence, child, NULL);
  uns_why_forget(child);
  uns_packet_deinit(&child->report);
}

void uns_service_cancel(uns_child *child, uint64_t sequence) {
  uns_message message = {.words = {.kind = UNS_FRAME_CANCEL, .sequence = sequence}};
  uns_service_must_send(child, &message, NULL);
}

void uns_service_limit(uns_child *child, uint32_t waiting) {
  uns_message message = {.words = {.kind = UNS_FRAME_LIMIT, .count = waiting, .limit = UNS_PROCESSES_WAITING_MAX}};
  uns_service_must_send(child, &message, NULL);
}
