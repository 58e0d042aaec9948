#include "exec/parent.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/parent_inside.h"
#include "exec/spawn.h"

/* A question whose asker waits. */
typedef struct request {
  uns_link link;
  uint64_t id;
  bool answered;
  uns_message *answer;
} request;

/* ---- sending ---- */

/* Without its host, or unable to hear or to tell it something, this process serves nobody. `what` it cannot do, by errno;
   0: the host is gone. */
static void give_up(const char *what) {
  if (errno != 0 && errno != EPIPE && errno != ECONNRESET)
    fprintf(stderr, "unsync: worker: cannot %s its host: %s\n", what, strerror(errno));
  uns_end_group();
}

/* From the first byte of a frame to its last: what the host has only a part of while we do not speak, it will never have.
   The write_lock held. */
static void begin_to_speak(const uns_parent *parent) { atomic_fetch_add(&parent->board->speaking, 1); }
static void end_to_speak(const uns_parent *parent) { atomic_fetch_add(&parent->board->speaking, 1); }

/* The write_lock held. False: the host takes no more. */
static bool send_pieces(uns_parent *parent, const uns_frame *frame) {
  for (uint32_t i = 0; i < frame->piece_count && !parent->deaf; i++) {
    const uns_frame_piece *piece = &frame->pieces[i];
    for (size_t done = 0; done < piece->size_bytes;) {
      ssize_t sent = send(parent->socket, piece->bytes + done, piece->size_bytes - done, MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) {
        parent->deaf = true;
        if (!atomic_load(&parent->closing)) give_up("speak to");
        break;
      }
      done += (size_t)sent;
    }
  }
  return !parent->deaf;
}

int uns_parent_send(uns_parent *parent, const uns_message *message, const uns_packet *packet) {
  uns_frame frame;
  uv_mutex_lock(&parent->write_lock);
  int status = parent->deaf ? UNS_ECLOSED : uns_frame_build(&frame, &parent->out, message, packet);
  if (status == UNS_OK) {
    begin_to_speak(parent);
    if (!send_pieces(parent, &frame)) status = UNS_ECLOSED;
    end_to_speak(parent);
    uns_frame_done(&frame);
  }
  uv_mutex_unlock(&parent->write_lock);
  return status;
}

void uns_parent_wake_supervisor(const uns_parent *parent) { uns_mailbox_wake_at(parent->supervisor_fd); }

/* ---- asking ---- */

int uns_parent_ask(uns_parent *parent, uns_message *message, const uns_packet *packet, uns_message *answer) {
  request asked = {.answer = answer};
  uns_packet_init(&answer->packet);
  uv_mutex_lock(&parent->lock);
  asked.id = message->words.request = ++parent->last_request;
  uns_list_push_back(&parent->requests, &asked.link);
  uv_mutex_unlock(&parent->lock);
  int status = uns_parent_send(parent, message, packet);
  uv_mutex_lock(&parent->lock);
  while (status == UNS_OK && !asked.answered && !parent->ended) uv_cond_wait(&parent->answered, &parent->lock);
  uns_list_remove(&asked.link);
  if (status == UNS_OK && !asked.answered) status = UNS_ECLOSED;
  uv_mutex_unlock(&parent->lock);
  return status;
}

static void on_answer(uns_parent *parent, uns_message *message) {
  uv_mutex_lock(&parent->lock);
  for (uns_link *link = parent->requests.next; link != &parent->requests; link = link->next) {
    request *asked = uns_container_of(link, request, link);
    if (asked->id != message->words.id) continue;
    asked->answered = true;
    asked->answer->words = message->words;
    uns_packet_move(&asked->answer->packet, &message->packet);
    uv_cond_broadcast(&parent->answered);
    break;
  }
  uv_mutex_unlock(&parent->lock);
}

uint64_t uns_parent_number(uns_parent *parent, bool made) {
  uv_mutex_lock(&parent->lock);
  uint64_t number = made ? UNS_PARENT_MADE_HERE | ++parent->last_made : ++parent->last_request;
  uv_mutex_unlock(&parent->lock);
  return number;
}

uns_parent_channels *uns_parent_channels_of(uns_parent *parent) { return &parent->channels; }
uns_channel_remote *uns_parent_channel_remote(uns_parent *parent) { return &parent->channels.remote; }

bool uns_parent_claim(uns_parent *parent, uint32_t slot, uint64_t number) {
  uns_board *board = parent->board;
  uint64_t given = number * 4 + UNS_LOAN_GIVEN;
  if (!atomic_compare_exchange_strong(&board->loans[slot], &given, number * 4 + UNS_LOAN_TAKEN)) return false;
  if (atomic_load(&board->loans_wanted) != 0 && atomic_exchange(&board->loans_wanted, 0) != 0) {
    atomic_store(&parent->unsettled, true);
    uns_parent_wake_supervisor(parent);
  }
  return true;
}

void uns_parent_settle(uns_parent *parent) {
  if (!atomic_load(&parent->unsettled) || !atomic_exchange(&parent->unsettled, false)) return;
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_SETTLE}}, answer;
  if (uns_parent_ask(parent, &message, NULL, &answer) == UNS_OK) uns_message_deinit(&answer);
}

/* ---- the thread ---- */

static int handle(uns_parent *parent, uns_message *message) {
  switch (message->words.kind) {
    case UNS_FRAME_SETTLED: return uns_parent_on_settled(parent, message);
    case UNS_FRAME_STOP: return uns_parent_on_stop(parent, message);
    case UNS_FRAME_FORGET: uns_parent_on_forget(parent, message->words.id); return UNS_OK;
    case UNS_FRAME_ANSWER: on_answer(parent, message); return UNS_OK;
    case UNS_FRAME_RESULT: return uns_parent_on_result(parent, message);
    case UNS_FRAME_PROGRESS: uns_parent_on_progress(parent, &message->words); return UNS_OK;
    case UNS_FRAME_CANCEL: uns_parent_on_cancel(parent, message->words.sequence); return UNS_OK;
    case UNS_FRAME_CHANNEL_TOLD: uns_parent_channels_told(&parent->channels, message); return UNS_OK;
    case UNS_FRAME_CHANNEL_AHEAD: return uns_parent_channels_ahead(&parent->channels, message);
    case UNS_FRAME_LIMIT: return uns_parent_on_limit(parent, &message->words);
    case UNS_FRAME_ASK: return uns_parent_on_ask(parent, message->words.id);
    case UNS_FRAME_DEADLOCK: return uns_parent_on_deadlock(parent, message);
    case UNS_FRAME_WHY: return uns_parent_on_why(parent, &message->words);
    default: return UNS_ECORRUPT;
  }
}

static bool receive(uns_parent *parent, uint8_t *to, size_t size_bytes) {
  while (size_bytes > 0) {
    size_t now = parent->input.end - parent->input.first;
    if (now > 0) {
      if (now > size_bytes) now = size_bytes;
      memcpy(to, parent->input.bytes + parent->input.first, now);
      parent->input.first += now;
      to += now;
      size_bytes -= now;
      continue;
    }
    bool large = size_bytes >= UNS_PARENT_INPUT_BYTES; /* it goes where it belongs at once */
    ssize_t count = recv(parent->socket, large ? to : parent->input.bytes, large ? size_bytes : UNS_PARENT_INPUT_BYTES,
                         0);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = 0;
    if (count <= 0) return false;
    if (large) {
      to += count;
      size_bytes -= (size_t)count;
    } else {
      parent->input.first = 0;
      parent->input.end = (size_t)count;
    }
  }
  return true;
}

/* One frame. UNS_ECLOSED: the host is gone, or errno says what is wrong. */
static int receive_message(uns_parent *parent, uns_message *message) {
  uint8_t head[UNS_FRAME_HEAD];
  if (!receive(parent, head, sizeof head)) return UNS_ECLOSED;
  uint64_t size_bytes = uns_frame_size(head);
  if (size_bytes == 0) return UNS_ECORRUPT;
  uint8_t *bytes = uns_malloc((size_t)size_bytes);
  if (bytes == NULL) return UNS_ENOMEM;
  memcpy(bytes, head, sizeof head);
  int status = receive(parent, bytes + sizeof head, (size_t)size_bytes - sizeof head)
                   ? uns_frame_read(&parent->in, bytes, (size_t)size_bytes, message)
                   : UNS_ECLOSED;
  if (status == UNS_OK) {
    status = uns_frame_own(&message->packet);
    if (status != UNS_OK) uns_message_deinit(message);
  }
  uns_free(bytes);
  return status;
}

static void *listen_to_parent(void *argument) {
  uns_parent *parent = argument;
  for (;;) {
    uns_message message;
    int status = receive_message(parent, &message);
    if (status == UNS_OK) {
      status = handle(parent, &message);
      uns_message_deinit(&message);
    }
    if (status == UNS_OK) continue;
    if (status == UNS_ENOMEM) errno = ENOMEM;
    else if (status != UNS_ECLOSED) errno = EPROTO;
    if (!atomic_load(&parent->closing)) give_up("hear");
    return NULL;
  }
}

/* With all signals blocked but the one that says that the parent is gone. */
static int start_thread(uns_parent *parent) {
  sigset_t most, kept;
  sigfillset(&most);
  sigdelset(&most, SIGHUP);
  pthread_sigmask(SIG_SETMASK, &most, &kept);
  int status = pthread_create(&parent->thread, NULL, listen_to_parent, parent);
  pthread_sigmask(SIG_SETMASK, &kept, NULL);
  parent->has_thread = status == 0;
  return status;
}

uns_parent *uns_parent_new(int socket, uns_board *board, int supervisor_fd) {
  uns_parent *parent = uns_calloc(1, sizeof *parent);
  if (parent == NULL) goto no_memory;
  parent->socket = socket;
  parent->board = board;
  parent->supervisor_fd = supervisor_fd;
  uns_parent_cells_init(parent);
  uns_list_init(&parent->requests);
  uns_port_init(&parent->in, &uns_parent_ops, parent);
  uns_port_init(&parent->out, &uns_parent_ops, parent);
  if (uv_mutex_init(&parent->write_lock) != 0) goto no_write_lock;
  if (uv_mutex_init(&parent->lock) != 0) goto no_lock;
  if (uv_mutex_init(&parent->look_lock) != 0) goto no_look_lock;
  if (uv_cond_init(&parent->answered) != 0) goto no_cond;
  if (uns_parent_channels_init(&parent->channels, parent) != 0) goto no_channels;
  return parent;
no_channels:
  uv_cond_destroy(&parent->answered);
no_cond:
  uv_mutex_destroy(&parent->look_lock);
no_look_lock:
  uv_mutex_destroy(&parent->lock);
no_lock:
  uv_mutex_destroy(&parent->write_lock);
no_write_lock:
  uns_free(parent);
no_memory:
  close(socket);
  errno = ENOMEM;
  return NULL;
}

int uns_parent_set_up(uns_parent *parent, uns_executors *executors) {
  uns_message message;
  int status = receive_message(parent, &message);
  if (status != UNS_OK) return status;
  if (message.words.kind != UNS_FRAME_SETUP) status = UNS_ECORRUPT;
  executors->grace_ns = message.words.grace_ns;
  const char *directory = message.texts[0];
  if (status == 0 && directory != NULL) {
    executors->script_directory = uns_copy_text(directory);
    if (executors->script_directory == NULL) status = UNS_ENOMEM;
  }
  uns_message_deinit(&message);
  return status;
}

/* The greeting carries the eventfd that wakes `main`. */
static int send_hello(uns_parent *parent, int fd) {
  uns_message message = {.words = {.kind = UNS_FRAME_HELLO}};
  message.texts[0] = uns_frame_build_id();
  uns_frame frame;
  if (uns_frame_build(&frame, &parent->out, &message, NULL) != UNS_OK) return ENOMEM;
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int))];
  } ancillary;
  memset(&ancillary, 0, sizeof ancillary);
  uint8_t first = frame.pieces[0].bytes[0];
  struct iovec room = {&first, 1};
  struct msghdr header = {
      .msg_iov = &room, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary.room};
  struct cmsghdr *item = CMSG_FIRSTHDR(&header);
  item->cmsg_level = SOL_SOCKET;
  item->cmsg_type = SCM_RIGHTS;
  item->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(item), &fd, sizeof fd);
  ssize_t sent;
  do sent = sendmsg(parent->socket, &header, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  int status = sent == 1 ? 0 : errno;
  frame.pieces[0].bytes++;
  frame.pieces[0].size_bytes--;
  if (status == 0 && !send_pieces(parent, &frame)) status = EPIPE;
  uns_frame_done(&frame);
  return status;
}

int uns_parent_greet(uns_parent *parent, uns_runtime *main) {
  int status = start_thread(parent);
  if (status == 0) {
    uv_mutex_lock(&parent->write_lock);
    begin_to_speak(parent);
    status = send_hello(parent, main->mailbox->fd);
    end_to_speak(parent);
    uv_mutex_unlock(&parent->write_lock);
  }
  if (status == 0) return 0;
  errno = status;
  return -1;
}

void uns_parent_apologize(uns_parent *parent, const char *what, int number) {
  uns_message message = {.words = {.kind = UNS_FRAME_SORRY}};
  char text[160];
  snprintf(text, sizeof text, "%s: %s", what, strerror(number));
  message.texts[0] = text;
  snprintf(message.words.error_code, sizeof message.words.error_code, "%s",
           uv_err_name(uv_translate_sys_error(number)));
  uns_parent_send(parent, &message, NULL);
}

void uns_parent_closing(uns_parent *parent) {
  atomic_store(&parent->closing, true);
  uns_parent_set_parties(parent, NULL);
}

void uns_parent_free(uns_parent *parent) {
  if (parent == NULL) return;
  shutdown(parent->socket, SHUT_RDWR); /* the thread's read ends */
  if (parent->has_thread) pthread_join(parent->thread, NULL);
  close(parent->socket);
  uns_parent_cells_deinit(parent);
  uns_parent_calls_deinit(parent);
  uns_parent_channels_deinit(&parent->channels);
  uns_port_deinit(&parent->in);
  uns_port_deinit(&parent->out);
  uv_cond_destroy(&parent->answered);
  uv_mutex_destroy(&parent->look_lock);
  uv_mutex_destroy(&parent->lock);
  uv_mutex_destroy(&parent->write_lock);
  uns_free(parent);
}
