/*
 * ring: the memory that the host shares with one worker process: a byte ring each way, and a board of words that both
 * sides look at.
 *
 *   - One anonymous memory file per child, sealed in its size; nothing on disk, the kernel frees it.
 *   - A ring has one writer and one reader at a time, one in each process. Positions count bytes and never go back;
 *     an empty ring starts at the beginning of its memory again, so that small messages stay in warm pages.
 *   - Each ring's memory is mapped twice in a row: whatever fits lies in one piece, never torn at the end.
 *   - The other process may have gone mad: what it writes on the board cannot lead us outside the mapping.
 * What travels in it: frame.c. Who sleeps and who wakes: process.c and child.c.
 */
#ifndef UNS_RING_H
#define UNS_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  UNS_RING_BYTES = 4 << 20, /* room of one ring; a larger frame passes through it in pieces */
  UNS_LOANS = 256,          /* items of channels that may be lent to a child at once */
  UNS_CLAIMS = 64           /* calls that may lie in a child at once: one runs, the others were given ahead. With fewer a
                               child whose calls take 2 us sleeps, and is woken, for each few of them */
};

/* Of one ring, on the board. Each side writes a cache line of its own. */
typedef struct uns_ring_words {
  _Alignas(64) _Atomic uint64_t tail; /* the writer's: bytes written so far; pairs with the reader's look */
  _Atomic uint64_t origin;            /* the writer's: the position that lies at the memory's beginning */
  _Atomic uint32_t writer_waits;      /* 1: the writer wants to be woken when there is room */
  _Alignas(64) _Atomic uint64_t head; /* the reader's: bytes read so far */
} uns_ring_words;

/* How far a call given to a child has come: its sequence number times four, plus one of these. */
typedef enum { UNS_CLAIM_FREE, UNS_CLAIM_GIVEN, UNS_CLAIM_STARTED, UNS_CLAIM_REVOKED } uns_claim;

/* How the script's loop sleeps. */
typedef enum {
  UNS_HOST_AWAKE,
  UNS_HOST_ASLEEP, /* each end of a call wakes it */
  UNS_HOST_DOZES   /* it wakes up by itself soon: while the child has more calls, several ends may share a wake-up */
} uns_host_sleep;

typedef struct uns_board {
  /* The child's sleep: 1 while it waits for a frame in the kernel; whoever writes one then writes its eventfd.
     seq_cst against the tail of `to_child`. */
  _Alignas(64) _Atomic uint32_t child_asleep;
  _Atomic uint32_t closing; /* the host ends this child in order */
  /* The same for the script's loop, against `to_host`: a uns_host_sleep. */
  _Alignas(64) _Atomic uint32_t host_asleep;
  _Alignas(64) _Atomic uint32_t waiting; /* the child's call waits for something: its place is free for others */
  _Atomic uint32_t silences; /* how often all its threads have come to wait for others only; read by the host's silence.c */
  _Atomic uint32_t speaking; /* odd: the child is in the middle of a frame on the control socket. seq_cst against its bytes */
  _Atomic uint32_t loans_wanted; /* 1: the supervisor wants to be woken when the child takes one; seq_cst against `loans` */
  /* How far the call in each place has come: the child starts it, or the host takes it back, a race by CAS. */
  _Alignas(64) _Atomic uint64_t claims[UNS_CLAIMS];
  _Alignas(64) _Atomic uint64_t cancels[UNS_CLAIMS]; /* sequence number of the call in it that shall stop */
  /* How far the child's call last said that it is: the doubles' bits, whose call that was (0 while they change), and how
     often one has said so, written last. */
  _Alignas(64) _Atomic uint64_t progress_done, progress_total, progress_call, progress_count;
  /* What has become of the item lent in each place: the child takes it, or the host recalls it, a race by CAS. */
  _Alignas(64) _Atomic uint64_t loans[UNS_LOANS];
  uns_ring_words to_child, to_host;
} uns_board;

typedef struct uns_ring {
  uns_ring_words *words;
  uint8_t *data;     /* UNS_RING_BYTES, twice */
  uint64_t position; /* ours: the writer's tail, the reader's head. What the board says of it is for the other side */
  uint64_t origin;   /* the writer's own copy */
} uns_ring;

/* Both rings as one process sees them. */
typedef struct uns_wire {
  void *base; /* NULL: not mapped */
  uns_board *board;
  uns_ring to_child, to_host;
} uns_wire;

enum { UNS_RING_BAD = -1 };

/* A new memory file for one child, close-on-exec; -1 with errno set. */
int uns_wire_create(void);
/* Maps `fd`, over the mapping that `wire` has, if it has one: its addresses stay good. 0, or -1 with errno set. */
int uns_wire_map(uns_wire *wire, int fd);
void uns_wire_unmap(uns_wire *wire);

/* Writer: bytes that can be written now, at uns_ring_place; UNS_RING_BAD if the board makes no sense. */
int64_t uns_ring_room(uns_ring *ring);
static inline uint8_t *uns_ring_place(const uns_ring *ring) {
  return ring->data + ((ring->position - ring->origin) & (UNS_RING_BYTES - 1));
}
/* Writer: shows `size_bytes` that were put at uns_ring_place. A full barrier: look at the reader's sleep afterwards. */
void uns_ring_publish(uns_ring *ring, size_t size_bytes);
/* Writer: asks to be woken when there is room. False: there is more than `room` already. */
bool uns_ring_ask_for_room(uns_ring *ring, int64_t room);

/* Reader: something may be there. One load. */
static inline bool uns_ring_has_news(const uns_ring *ring) {
  return atomic_load_explicit(&ring->words->tail, memory_order_acquire) != ring->position;
}
/* Reader: bytes there, from *data on, in one piece; UNS_RING_BAD if the board makes no sense. */
int64_t uns_ring_peek(const uns_ring *ring, const uint8_t **data);
/* Reader: gives back `size_bytes`. True if the writer waits for room and is to be woken. */
bool uns_ring_consume(uns_ring *ring, size_t size_bytes);

#endif
