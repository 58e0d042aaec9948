#include "exec/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  BOARD_BYTES = 4096 * 4, /* whole pages of any usual size */
  FILE_BYTES = BOARD_BYTES + 2 * UNS_RING_BYTES,
  VIEW_BYTES = BOARD_BYTES + 4 * UNS_RING_BYTES
};

_Static_assert(sizeof(uns_board) <= BOARD_BYTES, "the board has its own pages");
_Static_assert((UNS_RING_BYTES & (UNS_RING_BYTES - 1)) == 0, "positions are masked");

int uns_wire_create(void) {
  int fd = memfd_create("unsync", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  /* Sealed: a child that shrank it would fell the host with SIGBUS. */
  if (ftruncate(fd, FILE_BYTES) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
  }
  return fd;
}

static void *map_piece(uint8_t *place, size_t size_bytes, int fd, off_t offset) {
  return mmap(place, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);
}

int uns_wire_map(uns_wire *wire, int fd) {
  bool fresh = wire->base == NULL;
  uint8_t *base = wire->base;
  if (fresh) {
    base = mmap(NULL, VIEW_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return -1;
  }
  uint8_t *place = base;
  void *mapped = map_piece(place, BOARD_BYTES, fd, 0);
  place += BOARD_BYTES;
  for (int i = 0; i < 4 && mapped != MAP_FAILED; i++, place += UNS_RING_BYTES) {
    mapped = map_piece(place, UNS_RING_BYTES, fd, BOARD_BYTES + (off_t)(i / 2) * UNS_RING_BYTES);
  }
  if (mapped == MAP_FAILED) {
    if (fresh) {
      int saved = errno;
      munmap(base, VIEW_BYTES);
      errno = saved;
    }
    return -1;
  }
  if (fresh) { /* else others may be reading just these */
    wire->base = base;
    wire->board = wire->base;
    wire->to_child = (uns_ring){.words = &wire->board->to_child, .data = base + BOARD_BYTES};
    wire->to_host = (uns_ring){.words = &wire->board->to_host, .data = base + BOARD_BYTES + 2 * UNS_RING_BYTES};
  }
  wire->to_child.position = wire->to_child.origin = wire->to_host.position = wire->to_host.origin = 0;
  return 0;
}

void uns_wire_unmap(uns_wire *wire) {
  if (wire->base != NULL) munmap(wire->base, VIEW_BYTES);
  memset(wire, 0, sizeof *wire);
}

int64_t uns_ring_room(uns_ring *ring) {
  uint64_t used = ring->position - atomic_load(&ring->words->head);
  if (used > UNS_RING_BYTES) return UNS_RING_BAD;
  if (used == 0 && ring->origin != ring->position) {
    /* The reader looks at `origin` only after it has seen a tail that lies behind this. */
    ring->origin = ring->position;
    atomic_store_explicit(&ring->words->origin, ring->origin, memory_order_relaxed);
  }
  return (int64_t)(UNS_RING_BYTES - used);
}

void uns_ring_publish(uns_ring *ring, size_t size_bytes) {
  ring->position += size_bytes;
  atomic_store(&ring->words->tail, ring->position);
}

bool uns_ring_ask_for_room(uns_ring *ring, int64_t room) {
  atomic_store(&ring->words->writer_waits, 1);
  if (uns_ring_room(ring) == room) return true;
  atomic_store(&ring->words->writer_waits, 0);
  return false;
}

int64_t uns_ring_peek(const uns_ring *ring, const uint8_t **data) {
  uint64_t there = atomic_load(&ring->words->tail) - ring->position;
  if (there > UNS_RING_BYTES) return UNS_RING_BAD;
  uint64_t origin = atomic_load_explicit(&ring->words->origin, memory_order_relaxed);
  *data = ring->data + ((ring->position - origin) & (UNS_RING_BYTES - 1));
  return (int64_t)there;
}

bool uns_ring_consume(uns_ring *ring, size_t size_bytes) {
  ring->position += size_bytes;
  atomic_store(&ring->words->head, ring->position);
  return atomic_load(&ring->words->writer_waits) != 0 && atomic_exchange(&ring->words->writer_waits, 0) != 0;
}
