/*
 * frame: a packet, and what belongs to it, as one flat run of bytes that another process can read.
 *
 * A frame is a head, texts, a table of objects, a table of packets, the packets' bytes, and the objects' bytes:
 *   - Code goes as bytes once, as its hash afterwards. Each stream has a port at either end that remembers.
 *   - Lent strings go as bytes, gathered from where they lie and read where they arrive.
 *   - Cells and channels go as numbers; who owns a port says which (exports.c, parent.c). The outcome of a settled one goes along.
 *   - Writing never copies what is large; reading trusts nothing, and copies what it checks before it checks it.
 * The stream itself: ring.c, or the control socket. One thread at a time per port.
 */
#ifndef UNS_FRAME_H
#define UNS_FRAME_H

#include "core/cell.h"
#include "core/channel.h"
#include "core/code.h"
#include "core/job.h"

typedef enum {
  UNS_FRAME_CALL = 1,     /* a job for the other side to run */
  UNS_FRAME_RESULT,       /* its end */
  UNS_FRAME_SETTLE,       /* child: settle cell `id`; `request` is answered */
  UNS_FRAME_SETTLED,      /* host: cell `id` has settled */
  UNS_FRAME_ANSWER,       /* host: to request `id`; `first`, `state`, a packet */
  UNS_FRAME_LOOKED,       /* child: somebody has looked at the failure of cell `id`; `request` is answered */
  UNS_FRAME_STOP,         /* cell `id` shall be stopped, `first`: if unwanted; a packet: the reason. child: answered */
  UNS_FRAME_UNREF,        /* child: gives back `count` references to cell `id` */
  UNS_FRAME_FORGET,       /* host: cell `id` is known no more */
  UNS_FRAME_HELLO,        /* child: I am up; texts: its build */
  UNS_FRAME_SORRY,        /* child: I cannot start; texts: why; `error_code` */
  UNS_FRAME_SETUP,        /* host: the first frame; texts: the script's directory */
  UNS_FRAME_CANCEL,       /* child: the nested call `id` shall stop. host: the call `sequence` shall */
  UNS_FRAME_CHANNEL_MAKE, /* child: channel `id` is new, has room for `count` and, `first`, is closed. Answered */
  UNS_FRAME_CHANNEL_ASK, /* child: `state` (uns_channel_question) of channel `id`, with an item or none. Answered, `state` */
  UNS_FRAME_CHANNEL_WAIT, /* child: wait `sequence`, of group `count` (0: none), at channel `id`; `first`: to send the item */
  UNS_FRAME_CHANNEL_TOLD,  /* host: wait `sequence` was told `state`, with an item or none */
  UNS_FRAME_CHANNEL_LEAVE, /* child: wait `sequence`, or all of group `count`, leave. Answered where `request` is not 0;
                              `first`: nothing was told */
  UNS_FRAME_CHANNEL_TOOK,  /* child: the item given to wait `sequence` has arrived */
  UNS_FRAME_CHANNEL_GIVE_BACK, /* child: that item goes back in front. Answered */
  UNS_FRAME_CHANNEL_SETTLE,    /* child: what it has taken of what was lent to it makes room. Answered */
  UNS_FRAME_CHANNEL_AHEAD,     /* host: the item may be taken from channel `id`, as number `sequence` in place `slot` */
  UNS_FRAME_LIMIT, /* host: too many calls wait; `count` is what the board said of this wait, `limit` how many */
  UNS_FRAME_ASK,   /* host: is all quiet there? `id` is the round */
  UNS_FRAME_QUIET, /* child: to round `id`: `first`: it is, the packet is a uns_quiet_report; else `count`: ask again */
  UNS_FRAME_DEADLOCK, /* host: task `id` of state `request` shall not wait on in its wait `count`; `first`: a cycle; texts: why */
  UNS_FRAME_PROGRESS, /* host: of the nested call `id` */
  UNS_FRAME_WHY, /* host: question `id`: what does the call `sequence` wait for, or the task behind cell `request`? */
  UNS_FRAME_BECAUSE, /* child: to question `id`: `first`: texts: the lines; they end in `state` (uns_behind_kind), `count` */
  UNS_FRAME_KINDS
} uns_frame_kind;

/* What a child asks of a channel. */
typedef enum {
  UNS_QUESTION_SEND,
  UNS_QUESTION_RECEIVE, /* an item that comes is also acknowledged: `sequence` is its number */
  UNS_QUESTION_APPEND,
  UNS_QUESTION_PUT_BACK,
  UNS_QUESTION_CLOSE,
  UNS_QUESTION_LOOK /* `count` items, `limit` is the capacity, `first`: closed; `slot` and `exit_code`: senders, receivers */
} uns_channel_question;

enum { UNS_TEXT_NAME, UNS_TEXT_NATIVE, UNS_TEXT_PLUGIN, UNS_TEXT_PATH /* the port's own */, UNS_TEXTS };

/* What a frame says. The scalars are written as they are: both sides are of one build. */
typedef struct uns_message {
  struct uns_message_words {
    uint32_t kind;     /* uns_frame_kind */
    uint32_t slot;     /* CALL, RESULT: the place on the board */
    uint64_t id;       /* of the job, cell or request */
    uint64_t sequence; /* CALL: what the board says of it, claimed or not */
    uint64_t submitted_ns, started_ns, ended_ns, deadline_ns;
    uint64_t timeout_ns, run_timeout_ns, grace_ns; /* CALL: of the function */
    uint64_t request, count; /* RESULT: `count` reports of progress were made, the last of them this one: */
    uint64_t progress_done, progress_total; /* the doubles' bits */
    uint32_t limit;
    uint8_t function_kind; /* uns_kind */
    uint8_t fresh;
    uint8_t first;   /* ANSWER */
    uint8_t by_task; /* SETTLE: by the end of a task, not by hand */
    uint8_t home;    /* CALL: the script's loop waits, else the supervisor */
    uint8_t context; /* CALL: uns_job.named_context */
    uint8_t unused[2];
    uint32_t state; /* cells: uns_cell_state. RESULT: uns_outcome */
    int32_t exit_code, signal_number;
    char error_code[24];
  } words;
  /* CALL: the function's name; the native task's, and its plugin's file; all but the first may be NULL.
     RESULT, HELLO, SORRY, SETUP: the first. Those of a message that was read are borrowed from the port until the
     next. */
  const char *texts[UNS_TEXTS];
  uns_search_path *search_path; /* CALL: or NULL. Borrowed, from the port too */
  uns_packet packet;
} uns_message;

/* Which objects the other side of this port has, by numbers that both sides know. */
typedef struct uns_port_ops {
  /* A number for `cell`, and one reference to it for the other side. `tell`: its outcome shall go along, once it is
     settled. UNS_OK, or a negative code. */
  int (*export_cell)(void *owner, uns_cell *cell, uint64_t *id, bool *tell);
  /* The frame is not sent after all. */
  void (*unexport_cell)(void *owner, uint64_t id, bool told);
  /* The object for a number that arrived, with a reference for the caller. UNS_OK, or a negative code. */
  int (*import_cell)(void *owner, uint64_t id, bool by_task, uns_cell **cell);
  /* An outcome that arrived with it; taken over. */
  void (*import_outcome)(void *owner, uns_cell *cell, uint64_t id, uns_cell_state state, uns_packet *outcome);
  /* The same for channels. All three may be NULL: none can go over. */
  int (*export_channel)(void *owner, uns_shared_channel *channel, uint64_t *id);
  void (*unexport_channel)(void *owner, uint64_t id);
  int (*import_channel)(void *owner, uint64_t id, uns_shared_channel **channel);
} uns_port_ops;

/* Code that went over one stream, by hash. */
typedef struct uns_codebook {
  struct uns_codebook_entry {
    uint64_t hash[2];
    uns_code *code; /* one reference at the reading end; NULL at the writing end */
    bool used;
  } * entries; /* open addressing; owned */
  uint32_t count, capacity;
  size_t size_bytes; /* of the code */
  bool forget;       /* the writer has begun anew: so must the reader */
} uns_codebook;

/* One end of a stream. Writing and reading ends are ports of their own. */
typedef struct uns_port {
  const uns_port_ops *ops;
  void *owner;
  uns_codebook book;
  uns_search_path *search_path; /* the last one that went over; one reference, or NULL */
  uint8_t *scratch;             /* owned */
  size_t scratch_bytes;
} uns_port;

void uns_port_init(uns_port *port, const uns_port_ops *ops, void *owner);
void uns_port_deinit(uns_port *port);

typedef struct uns_frame_piece {
  const uint8_t *bytes;
  size_t size_bytes;
} uns_frame_piece;

enum { UNS_FRAME_INLINE = 640, UNS_FRAME_PIECES = 6 };

/* A frame to be written: pieces, to be sent in order. Borrows the packet until it has been written. */
typedef struct uns_frame {
  uns_port *port;
  size_t size_bytes;       /* all of it */
  uns_frame_piece *pieces; /* `few`, or owned */
  uint32_t piece_count;
  uint8_t *head; /* `small`, or owned */
  bool taught;   /* it is the first to carry some code */
  uns_frame_piece few[UNS_FRAME_PIECES];
  _Alignas(16) uint8_t small[UNS_FRAME_INLINE];
} uns_frame;

/*
 * Makes the frame of `message` (whose own packet is not looked at) and `packet`. UNS_OK; UNS_ENOMEM; UNS_ECORRUPT: the
 * packet holds something that cannot leave the process. On failure nothing is to be freed, and nothing was counted.
 */
int uns_frame_build(uns_frame *frame, uns_port *port, const uns_message *message, const uns_packet *packet);
/* It was written: frees what it owns. Not to be moved meanwhile. */
void uns_frame_done(uns_frame *frame);
/* It was not written and never will be: gives back what was counted for it, too. Before the port builds another. */
void uns_frame_abandon(uns_frame *frame);
/* Copies `size_bytes` from `offset` on. */
void uns_frame_copy(const uns_frame *frame, size_t offset, uint8_t *to, size_t size_bytes);

enum { UNS_FRAME_HEAD = 16 }; /* bytes that are needed to tell a frame's size */

/* The size of the frame that begins at `bytes`, at least UNS_FRAME_HEAD there; 0: it is none. */
uint64_t uns_frame_size(const uint8_t *bytes);

/*
 * Reads a whole frame. Strings of some size in the packet are not copied but read from `bytes`, which must stay until
 * the packet has been decoded or uns_frame_own was called on it. UNS_OK: free with uns_message_deinit; UNS_ECORRUPT;
 * UNS_ENOMEM: the port is of no more use.
 */
int uns_frame_read(uns_port *port, const uint8_t *bytes, size_t size_bytes, uns_message *message);
void uns_message_deinit(uns_message *message);
/* Copies what `packet` still reads from the frame. 0 or UNS_ENOMEM. */
int uns_frame_own(uns_packet *packet);

/* Fills in `message`, but for slot, sequence and home, for a job's call; borrows its texts. The packet is job->call. */
void uns_message_of_call(uns_message *message, const uns_job *job);
/* The same for its end; the packet is job->result. */
void uns_message_of_result(uns_message *message, const uns_job *job);
/* Fills in what the other side said of the end of `job`, but for its times; the packet moves. UNS_OK, or UNS_ECORRUPT: it
   makes no sense. */
int uns_message_end_job(uns_message *message, uns_job *job);

/* The function that a CALL is of: `last` (may be NULL), if it is that, else a new one. A reference for the caller; NULL
   without memory. */
uns_function *uns_function_of_message(const uns_message *message, uns_function *last);

/* What both sides must agree on, as a string: versions and layouts. Static. */
const char *uns_frame_build_id(void);

#endif
