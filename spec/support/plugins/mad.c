/* mad: a worker process that has lost its mind: tasks that write over the memory it shares with its host, and say what
   makes no sense over its control socket. Each is told a seed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/frame_format.h"
#include "exec/ring.h"
#include "unsync_plugin.h"

enum { CONTROL = 3, LOOP = 5, SUPERVISOR = 6, FRAME_MOST = 600 };

static uint64_t seed;
static uint64_t any(uint64_t below) {
  seed ^= seed >> 12;
  seed ^= seed << 25;
  seed ^= seed >> 27;
  return (seed * UINT64_C(2685821657736338717)) % below;
}

/* The mapping of the board, and behind it of the rings; NULL: this is no worker process. */
static uns_board *find_board(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[512];
  unsigned long start = 0;
  while (maps != NULL && start == 0 && fgets(line, sizeof line, maps) != NULL) {
    if (strstr(line, "/memfd:unsync") != NULL) start = strtoul(line, NULL, 16);
  }
  if (maps != NULL) fclose(maps);
  return (uns_board *)start; /* NOLINT(performance-no-int-to-ptr): that is what the file holds */
}

static uint8_t *ring_to_host(uns_board *board) { return (uint8_t *)board + 4096 * 4 + 2 * (size_t)UNS_RING_BYTES; }

static uint64_t any_word(void) {
  switch (any(4)) {
    case 0: return any(20);
    case 1: return UNS_RING_BYTES - 10 + any(20);
    case 2: return UINT64_MAX - any(20);
    default: return any(UINT64_MAX);
  }
}

/* Something that looks like a frame; its size. */
static size_t make_frame(uint8_t *bytes) {
  frame_head head;
  size_t size = sizeof head + (size_t)any(FRAME_MOST - sizeof head);
  for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)any(any(2) == 0 ? 4 : 256);
  memset(&head, 0, sizeof head);
  head.magic = FRAME_MAGIC;
  head.size_bytes = size;
  head.words.kind = (uint32_t)(1 + any(UNS_FRAME_KINDS - 1));
  if (any(3) == 0) head.words.kind = (uint32_t)(UNS_FRAME_CHANNEL_MAKE + any(7));
  head.words.id = any(2) == 0 ? any(6) : (uint64_t)1 << 63 | any(6);
  head.words.slot = (uint32_t)any(3);
  head.words.count = any(3);
  head.words.sequence = any(3);
  head.words.first = (uint8_t)any(2);
  head.words.request = any(3);
  head.words.state = (uint32_t)any(5);
  head.words.function_kind = (uint8_t)any(5);
  head.words.deadline_ns = any(2) == 0 ? 0 : any_word();
  head.words.by_task = (uint8_t)any(2);
  memcpy(head.words.error_code, "no end to this, and more", sizeof head.words.error_code);
  head.packet_count = (uint32_t)(1 + any(2));
  head.object_count = (uint32_t)any(3);
  head.ref_count = (uint32_t)any(3);
  head.text_bytes[any(UNS_TEXTS)] = (uint32_t)any(3);
  uint64_t all = sizeof head + head.object_count * sizeof(frame_object) + head.packet_count * sizeof(frame_packet) +
                 head.ref_count * sizeof(uint32_t);
  for (int i = 0; i < UNS_TEXTS; i++) all += head.text_bytes[i];
  head.head_bytes = (uint32_t)all;
  if (any(3) > 0 && all <= size) { /* the rest of the tables is nothing, and all bytes are the first packet's */
    memset(bytes + sizeof head, 0, (size_t)all - sizeof head);
    frame_packet packet = {.size_bytes = size - all};
    memcpy(bytes + sizeof head + head.object_count * sizeof(frame_object), &packet, sizeof packet);
  }
  memcpy(bytes, &head, sizeof head);
  return size;
}

static void say(const void *bytes, size_t size) {
  if (send(CONTROL, bytes, size, MSG_NOSIGNAL) < 0) perror("mad: control socket");
}

/* Sends bytes and descriptors with them. */
static void say_with(const void *bytes, size_t size, int count) {
  int fds[4];
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof fds)];
  } ancillary;
  memset(&ancillary, 0, sizeof ancillary);
  struct iovec room = {(void *)bytes, size};
  struct msghdr header = {.msg_iov = &room,
                          .msg_iovlen = 1,
                          .msg_control = &ancillary,
                          .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
  struct cmsghdr *item = CMSG_FIRSTHDR(&header);
  item->cmsg_level = SOL_SOCKET;
  item->cmsg_type = SCM_RIGHTS;
  item->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
  for (int i = 0; i < count; i++) fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
  memcpy(CMSG_DATA(item), fds, (size_t)count * sizeof(int));
  sendmsg(CONTROL, &header, MSG_NOSIGNAL);
  for (int i = 0; i < count; i++) close(fds[i]);
}

/* Writes over what the host may be reading, for a while. */
static void *scribble(void *argument) {
  uns_board *board = argument;
  uint8_t *ring = ring_to_host(board);
  uint64_t n = 88172645463325252u;
  for (int i = 0; i < 100000000; i++) {
    n ^= n << 13;
    n ^= n >> 7;
    n ^= n << 17;
    ring[n % 2048] = (uint8_t)(n >> 32);
  }
  return NULL;
}

static int start(unsync_task *t, uns_board **board) {
  int64_t number = unsync_arg_integer(t, 1);
  if (unsync_failed(t)) return -1;
  *board = find_board();
  if (*board == NULL) return unsync_fail(t, "EINVAL", "this is no worker process");
  seed = (uint64_t)number * UINT64_C(0x9e3779b97f4a7c15) + 1;
  return 0;
}

static int wake_supervisor(unsync_task *t) {
  uint64_t one = 1;
  return write(SUPERVISOR, &one, sizeof one) < 0 ? unsync_fail_errno(t, errno, "the supervisor") : UNSYNC_OK;
}

static uint8_t *ring_to_child(uns_board *board) { return (uint8_t *)board + 4096 * 4; }

/* Writes a whole frame, and shows it: once, for our own writer knows nothing of it. */
static void show(uns_board *there, const void *bytes, size_t size) {
  uint64_t tail = atomic_load(&there->to_host.tail), at = (tail - atomic_load(&there->to_host.origin)) % UNS_RING_BYTES;
  memcpy(ring_to_host(there) + at, bytes, size);
  atomic_store(&there->to_host.tail, tail + size);
}

/* The end of a call, empty or not. */
static void show_end(uns_board *there, const frame_head *call, uint32_t state, size_t content) {
  struct {
    frame_head head;
    frame_packet packet;
    uint8_t content[256];
  } end;
  memset(&end, 0, sizeof end);
  end.head.magic = FRAME_MAGIC;
  end.head.words.kind = UNS_FRAME_RESULT;
  end.head.words.id = call->words.id;
  end.head.words.slot = call->words.slot;
  end.head.words.state = state;
  end.head.words.started_ns = any_word();
  end.head.words.ended_ns = any_word();
  end.head.words.count = any(3);
  end.head.words.progress_done = any_word();
  end.head.words.exit_code = (int32_t)any_word();
  end.head.words.signal_number = (int32_t)any_word();
  end.head.packet_count = 1;
  end.head.head_bytes = (uint32_t)(sizeof end.head + sizeof end.packet);
  end.packet.size_bytes = content;
  end.head.size_bytes = end.head.head_bytes + content;
  for (size_t i = 0; i < content; i++) end.content[i] = (uint8_t)any(any(2) == 0 ? 16 : 256);
  show(there, &end, (size_t)end.head.size_bytes);
}

static const uint8_t *place_of_call(uns_board *there, uint64_t behind) {
  uint64_t at = atomic_load(&there->to_child.head) + behind - atomic_load(&there->to_child.origin);
  return ring_to_child(there) + at % UNS_RING_BYTES;
}

/* The call that lies `behind` bytes behind the one that runs; its size, or 0: there is none. */
static uint64_t look_at_call(uns_board *there, uint64_t behind, frame_head *call) {
  uint64_t head = atomic_load(&there->to_child.head) + behind;
  if (atomic_load(&there->to_child.tail) - head < sizeof *call) return 0;
  memcpy(call, place_of_call(there, behind), sizeof *call);
  return call->magic == FRAME_MAGIC ? call->size_bytes : 0;
}

/* Words on the board, for a while, as most of them are soon overwritten by what is true. */
static int board(unsync_task *t) {
  uns_board *there;
  if (start(t, &there) != 0) return -1;
  for (int moment = 0; moment < 10; moment++) {
    for (uint64_t i = 1 + any(4); i > 0; i--) {
      uint64_t word = any_word();
      memcpy((uint8_t *)there + 8 * any(sizeof *there / 8), &word, sizeof word);
    }
    wake_supervisor(t);
    usleep(500);
  }
  return 0;
}

/* Bytes in the ring, then their number, or another. */
static int ring(unsync_task *t) {
  uns_board *there;
  if (start(t, &there) != 0) return -1;
  uint8_t *bytes = ring_to_host(there);
  uint64_t tail = atomic_load(&there->to_host.tail), at = (tail - atomic_load(&there->to_host.origin)) % UNS_RING_BYTES;
  size_t size = make_frame(bytes + at);
  if (any(3) == 0) bytes[at + any(size)] ^= (uint8_t)(1 + any(255));
  atomic_store(&there->to_host.tail, tail + (any(4) == 0 ? any_word() : size));
  return wake_supervisor(t);
}

/* Bytes that are no frame, frames that make no sense, greetings, descriptors that nobody wants. */
static int control(unsync_task *t) {
  uns_board *there;
  uint8_t bytes[FRAME_MOST + 64];
  if (start(t, &there) != 0) return -1;
  switch (any(4)) {
    case 0:
      for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)any(256);
      say(bytes, (size_t)any(sizeof bytes));
      break;
    case 1: say_with(bytes, make_frame(bytes), (int)(1 + any(4))); break;
    default:
      for (uint64_t i = 1 + any(8); i > 0; i--) say(bytes, make_frame(bytes));
  }
  return 0;
}

/* The beginning of a frame whose rest never comes: on the control socket, or in the ring, of one that is larger than it. */
static int half(unsync_task *t) {
  uns_board *there;
  int on_socket = unsync_arg_boolean(t, 2);
  if (start(t, &there) != 0) return -1;
  frame_head head = {.magic = FRAME_MAGIC, .size_bytes = 64 << 20};
  if (on_socket) {
    say(&head, sizeof head);
    return 0;
  }
  uint64_t tail = atomic_load(&there->to_host.tail), at = (tail - atomic_load(&there->to_host.origin)) % UNS_RING_BYTES;
  memcpy(ring_to_host(there) + at, &head, sizeof head);
  atomic_store(&there->to_host.tail, tail + sizeof head);
  if (wake_supervisor(t) != UNSYNC_OK) return -1;
  while (atomic_load(&there->to_host.head) == tail && !unsync_cancelled(t)) usleep(100);
  return 0;
}

/* Writes over the size of each of its results as soon as it is there, for a while. */
static void *lengthen(void *argument) {
  uns_board *board = argument;
  uint64_t seen = atomic_load(&board->to_host.tail);
  for (int i = 0; i < 30000000; i++) {
    uint64_t tail = atomic_load(&board->to_host.tail);
    if (tail == seen) continue;
    uint64_t size_bytes, at = (seen - atomic_load(&board->to_host.origin)) % UNS_RING_BYTES;
    uint8_t *place = ring_to_host(board) + at + offsetof(frame_head, size_bytes);
    memcpy(&size_bytes, place, sizeof size_bytes);
    size_bytes += any(2) == 0 ? 64 << 20 : 1 + any(1000);
    memcpy(place, &size_bytes, sizeof size_bytes);
    seen = tail;
  }
  return NULL;
}

/* Says how its own call ended, in a way that makes no sense or does, and then, when it ends, again. */
static int answer(unsync_task *t) {
  uns_board *there;
  frame_head own;
  if (start(t, &there) != 0) return -1;
  if (look_at_call(there, 0, &own) == 0) return unsync_fail(t, "EINVAL", "the call is not there");
  uint64_t state = any(6);
  show_end(there, &own, (uint32_t)state, any(3) == 0 ? 0 : (size_t)any(256));
  if (any(4) == 0) return wake_supervisor(t);
  return 0;
}

/* Where a call was given ahead that is larger than the ring: says that it has ended, or gives back what comes with it,
   while its host still reads from it. */
static int early(unsync_task *t) {
  uns_board *there;
  frame_head own, next;
  if (start(t, &there) != 0) return -1;
  uint64_t size = look_at_call(there, 0, &own);
  if (size == 0) return unsync_fail(t, "EINVAL", "the call is not there");
  for (int i = 0; look_at_call(there, size, &next) < UNS_RING_BYTES; i++) {
    if (i == 20) return 0; /* none was */
    usleep(100);
  }
  if (any(2) == 0) {
    show_end(there, &next, 0, 0);
    wake_supervisor(t);
    usleep(20000); /* so that it is read before we are dead */
  } else {
    struct {
      frame_head head;
      frame_packet packet;
    } whole;
    memset(&whole, 0, sizeof whole);
    whole.head.magic = FRAME_MAGIC;
    whole.head.packet_count = 1;
    whole.head.head_bytes = sizeof whole;
    whole.head.size_bytes = sizeof whole;
    whole.head.words.kind = UNS_FRAME_UNREF;
    frame_object channel; /* our own argument, of which the other call has one more */
    memcpy(&channel, place_of_call(there, 0) + sizeof own, sizeof channel);
    whole.head.words.id = channel.name[0];
    whole.head.words.count = 2;
    say(&whole, sizeof whole);
    usleep(20000);
  }
  abort();
}

/* Speaks without a pause, of what its host has nothing to say to. */
static void *chatter(void *argument) {
  static uint8_t words[4096]; /* little enough to go in one piece */
  size_t size = 0;
  struct {
    frame_head head;
    frame_packet packet;
  } leave;
  (void)argument;
  memset(&leave, 0, sizeof leave);
  leave.head.magic = FRAME_MAGIC;
  leave.head.packet_count = 1;
  leave.head.head_bytes = sizeof leave;
  leave.head.size_bytes = sizeof leave;
  leave.head.words.kind = UNS_FRAME_CHANNEL_LEAVE;
  leave.head.words.sequence = UINT64_MAX;
  for (; size + sizeof leave <= sizeof words; size += sizeof leave) memcpy(words + size, &leave, sizeof leave);
  for (;;) {
    for (size_t done = 0; done < size;) {
      ssize_t sent = send(CONTROL, words + done, size - done, MSG_NOSIGNAL);
      if (sent < 0) return NULL;
      done += (size_t)sent;
    }
  }
}

/* Leaves no room in what its host is woken by, by itself too. */
static void *fill(void *argument) {
  const uint64_t most = UINT64_MAX - 1;
  (void)argument;
  for (;;) {
    bool room = write(LOOP, &most, sizeof most) > 0;
    room |= write(SUPERVISOR, &most, sizeof most) > 0;
    if (!room && errno != EAGAIN) return NULL;
    if (!room) usleep(50);
  }
}

/* Goes on with something of the kind, and returns. */
static int go_on(unsync_task *t, void *(*with)(void *)) {
  uns_board *there;
  pthread_t thread;
  if (start(t, &there) != 0) return -1;
  if (pthread_create(&thread, NULL, with, there) != 0) return -1;
  pthread_detach(thread);
  return 0;
}

static int talkative(unsync_task *t) {
  if (go_on(t, chatter) != 0) return -1;
  for (;;) pause();
}
static int full(unsync_task *t) {
  if (go_on(t, fill) != 0) return -1;
  for (;;) pause();
}
static int torn(unsync_task *t) { return go_on(t, scribble); }
static int longer(unsync_task *t) { return go_on(t, lengthen); }

/* Leaves its process group for its host's, and hears nothing any more. */
static int stray(unsync_task *t) {
  uns_board *there;
  if (start(t, &there) != 0) return -1;
  signal(SIGTERM, SIG_IGN);
  if (setpgid(0, getpgid(getppid())) != 0) return unsync_fail_errno(t, errno, "setpgid");
  for (;;) pause();
}

static const unsync_task_def tasks[] = {
    {"board", board, "board(seed): any words on the board", 0},
    {"ring", ring, "ring(seed): any frame", 0},
    {"control", control, "control(seed): anything on the control socket", 0},
    {"half", half, "half(seed, on_socket): a frame of which no more comes, in the ring or on the control socket", 0},
    {"answer", answer, "answer(seed): how it ended, twice", 0},
    {"early", early, "early(seed): the end of a call that it has not got yet", 0},
    {"longer", longer, "longer(seed): from now on results say that they are longer than they are", 0},
    {"stray", stray, "stray(seed): leaves its process group, and never ends", 0},
    {"talkative", talkative, "talkative(seed): speaks without a pause, and never ends", 0},
    {"full", full, "full(seed): fills what wakes its host without a pause, and never ends", 0},
    {"torn", torn, "torn(seed): from now on results change while they are read", 0},
};

UNSYNC_PLUGIN("mad", "1.0", "A worker that has lost its mind", tasks)
