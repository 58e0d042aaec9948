#include "exec/frame.h"

#include <assert.h>
#include <string.h>

#include <lua.h>

#include "core/block.h"
#include "core/lent.h"
#include "exec/registry.h"

enum {
  MAGIC = 0x46534e55,  /* "UNSF" */
  BOOK_MAX = 4096,             /* pieces of code; then both ends forget all and begin anew */
  BOOK_MAX_BYTES = 64 << 20,
  FEW = 16                     /* objects up to which a list is searched from end to end */
};
static const uint64_t size_max = (uint64_t)1 << 46;

enum { FLAG_FORGET = 1, FLAG_SAME_PATH = 2 };

typedef struct frame_head {
  uint32_t magic, head_bytes; /* up to where the packets' bytes begin */
  uint64_t size_bytes;
  struct uns_message_words words;
  uint32_t flags;
  uint32_t object_count, packet_count, ref_count;
  uint32_t text_bytes[UNS_TEXTS]; /* with the final zero; 0: none */
} frame_head;

enum { OBJECT_INLINE = 1, OBJECT_BY_TASK = 2, OBJECT_SETTLED = 4 };

typedef struct frame_object {
  uint8_t kind; /* uns_shared_kind */
  uint8_t flags;
  uint16_t unused;
  uint32_t packet; /* of a settled cell: the number of its outcome */
  uint32_t state;
  uint32_t unused_too;
  uint64_t name[2]; /* code: its hash. A cell: its number; 0: it has none */
  uint64_t size_bytes; /* of what lies at the end */
} frame_object;

typedef struct frame_packet {
  uint64_t size_bytes;
  uint32_t ref_count, unused;
} frame_packet;

_Static_assert(offsetof(frame_head, words) == UNS_FRAME_HEAD, "the size comes first");
_Static_assert(sizeof(frame_head) % 8 == 0, "no hole at the end");

/* Counted up with every change of what the frames or the board mean. */
#define PROTOCOL "1"
#ifndef UNS_BUILD
#define UNS_BUILD "unsync"
#endif

const char *uns_frame_build_id(void) { return UNS_BUILD ", " LUA_RELEASE ", protocol " PROTOCOL; }

/* --- codebook ---------------------------------------------------------------------------------------------------- */

static void book_clear(uns_codebook *book) {
  for (uint32_t i = 0; i < book->capacity; i++) {
    if (book->entries[i].used) uns_shared_unref(book->entries[i].code);
  }
  uns_free(book->entries);
  bool forget = book->forget;
  memset(book, 0, sizeof *book);
  book->forget = forget;
}

static struct uns_codebook_entry *book_place(const uns_codebook *book, const uint64_t hash[2]) {
  uint32_t mask = book->capacity - 1, i = (uint32_t)hash[0] & mask;
  while (book->entries[i].used && (book->entries[i].hash[0] != hash[0] || book->entries[i].hash[1] != hash[1])) {
    i = (i + 1) & mask;
  }
  return &book->entries[i];
}

static struct uns_codebook_entry *book_find(const uns_codebook *book, const uint64_t hash[2]) {
  if (book->capacity == 0) return NULL;
  struct uns_codebook_entry *entry = book_place(book, hash);
  return entry->used ? entry : NULL;
}

/* `hash` must not be in it. `code`, a reference, is taken over; may be NULL. */
static int book_add(uns_codebook *book, const uint64_t hash[2], uns_code *code, size_t size_bytes) {
  if (book->count * 2 >= book->capacity) {
    uns_codebook larger = *book;
    larger.capacity = book->capacity == 0 ? 32 : book->capacity * 2;
    larger.entries = uns_calloc(larger.capacity, sizeof *larger.entries);
    if (larger.entries == NULL) return UNS_ENOMEM;
    for (uint32_t i = 0; i < book->capacity; i++) {
      if (book->entries[i].used) *book_place(&larger, book->entries[i].hash) = book->entries[i];
    }
    uns_free(book->entries);
    *book = larger;
  }
  struct uns_codebook_entry *entry = book_place(book, hash);
  *entry = (struct uns_codebook_entry){{hash[0], hash[1]}, code, true};
  book->count++;
  book->size_bytes += size_bytes;
  return UNS_OK;
}

void uns_port_init(uns_port *port, const uns_port_ops *ops, void *owner) {
  memset(port, 0, sizeof *port);
  port->ops = ops;
  port->owner = owner;
}

void uns_port_deinit(uns_port *port) {
  book_clear(&port->book);
  uns_free(port->search_path);
  uns_free(port->scratch);
  memset(port, 0, sizeof *port);
}

/* It may not have gone over: it goes again. */
static void drop_path(uns_port *port) {
  uns_free(port->search_path);
  port->search_path = NULL;
}

static int keep_path(uns_port *port, const char *path) {
  char *copy = NULL;
  if (path != NULL) {
    size_t size = strlen(path) + 1;
    copy = uns_malloc(size);
    if (copy == NULL) return UNS_ENOMEM;
    memcpy(copy, path, size);
  }
  uns_free(port->search_path);
  port->search_path = copy;
  return UNS_OK;
}

/* --- writing ----------------------------------------------------------------------------------------------------- */

/* What is gathered on the way; grows on the heap only when there is a lot. */
typedef struct builder {
  uns_port *port;
  frame_object *objects, few_objects[FEW];
  uns_shared **shared, *few_shared[FEW];
  uint32_t object_count, object_capacity;
  uint32_t *index; /* past FEW objects: open addressing, 1 + the place in `shared` */
  uint32_t index_size;
  const uns_packet **packets, *few_packets[FEW];
  uint32_t packet_count, packet_capacity;
  uint64_t ref_count, blob_count;
  bool taught;
} builder;

static bool grow_array(void **array, void *few, uint32_t count, uint32_t *capacity, size_t item_bytes) {
  if (count < *capacity) return true;
  if (*capacity > UINT32_MAX / 4) return false;
  void *larger = uns_malloc((size_t)*capacity * 2 * item_bytes);
  if (larger == NULL) return false;
  memcpy(larger, *array, (size_t)count * item_bytes);
  if (*array != few) uns_free(*array);
  *array = larger;
  *capacity *= 2;
  return true;
}

static uint32_t index_start(const builder *b, const uns_shared *shared) {
  return (uint32_t)(((uintptr_t)shared >> 4) * 2654435761u) & (b->index_size - 1);
}

static void index_put(builder *b, uint32_t number) {
  uint32_t i = index_start(b, b->shared[number]);
  while (b->index[i] != 0) i = (i + 1) & (b->index_size - 1);
  b->index[i] = number + 1;
}

static int64_t find_object(const builder *b, const uns_shared *shared) {
  if (b->index == NULL) {
    for (uint32_t i = 0; i < b->object_count; i++) {
      if (b->shared[i] == shared) return i;
    }
    return -1;
  }
  for (uint32_t i = index_start(b, shared); b->index[i] != 0; i = (i + 1) & (b->index_size - 1)) {
    if (b->shared[b->index[i] - 1] == shared) return b->index[i] - 1;
  }
  return -1;
}

static int add_packet(builder *b, const uns_packet *packet) {
  if (!grow_array((void **)&b->packets, b->few_packets, b->packet_count, &b->packet_capacity, sizeof *b->packets)) {
    return UNS_ENOMEM;
  }
  b->packets[b->packet_count++] = packet;
  b->ref_count += packet->ref_count;
  return UNS_OK;
}

static int describe_code(builder *b, const uns_code *code, frame_object *object) {
  object->name[0] = code->hash[0];
  object->name[1] = code->hash[1];
  if (book_find(&b->port->book, code->hash) != NULL) return UNS_OK;
  int status = book_add(&b->port->book, code->hash, NULL, code->size_bytes);
  if (status != UNS_OK) return status;
  b->taught = true;
  object->flags = OBJECT_INLINE;
  object->size_bytes = code->size_bytes;
  return UNS_OK;
}

static int describe_cell(builder *b, uns_cell *cell, frame_object *object) {
  bool tell = false;
  if (b->port->ops == NULL) return UNS_ECORRUPT;
  int status = b->port->ops->export_cell(b->port->owner, cell, &object->name[0], &tell);
  if (status != UNS_OK) return status;
  if (cell->by_task) object->flags |= OBJECT_BY_TASK;
  if (!tell) return UNS_OK;
  status = add_packet(b, &cell->outcome); /* settled, so read-only from now on */
  if (status != UNS_OK) {
    b->port->ops->unexport_cell(b->port->owner, object->name[0], true);
    return status;
  }
  object->flags |= OBJECT_SETTLED;
  object->state = uns_cell_peek(cell);
  object->packet = b->packet_count - 1;
  return UNS_OK;
}

static int add_object(builder *b, uns_shared *shared) {
  if (b->object_count == b->object_capacity) {
    uint32_t capacity = b->object_capacity;
    if (!grow_array((void **)&b->shared, b->few_shared, b->object_count, &capacity, sizeof *b->shared)) return UNS_ENOMEM;
    if (!grow_array((void **)&b->objects, b->few_objects, b->object_count, &b->object_capacity, sizeof *b->objects)) {
      return UNS_ENOMEM; /* `shared` is larger than it says, which harms nobody */
    }
    uint32_t *index = uns_calloc((size_t)b->object_capacity * 2, sizeof *index);
    if (index == NULL) return UNS_ENOMEM;
    uns_free(b->index);
    b->index = index;
    b->index_size = b->object_capacity * 2;
    for (uint32_t i = 0; i < b->object_count; i++) index_put(b, i);
  }
  frame_object object = {.kind = (uint8_t)shared->class->kind};
  int status = UNS_ECORRUPT;
  if (object.kind == UNS_SHARED_CODE) {
    status = describe_code(b, uns_container_of(shared, uns_code, base), &object);
  } else if (object.kind == UNS_SHARED_LENT || object.kind == UNS_SHARED_BLOCK) {
    object.flags = OBJECT_INLINE;
    object.size_bytes = object.kind == UNS_SHARED_LENT ? uns_container_of(shared, uns_lent, base)->size_bytes
                                                       : uns_container_of(shared, uns_block, base)->size_bytes;
    object.kind = UNS_SHARED_LENT; /* the other side has nothing but bytes either way */
    status = UNS_OK;
  } else if (object.kind == UNS_SHARED_CELL) {
    status = describe_cell(b, uns_container_of(shared, uns_cell, base), &object);
  }
  if (status != UNS_OK) return status;
  if (object.flags & OBJECT_INLINE) b->blob_count++;
  b->objects[b->object_count] = object;
  b->shared[b->object_count] = shared;
  if (b->index != NULL) index_put(b, b->object_count);
  b->object_count++;
  return UNS_OK;
}

/* All that the packet refers to, and what the outcomes among it refer to in turn. */
static int gather(builder *b, const uns_packet *packet) {
  int status = add_packet(b, packet);
  for (uint32_t i = 0; i < b->packet_count && status == UNS_OK; i++) {
    for (uint32_t j = 0; j < b->packets[i]->ref_count && status == UNS_OK; j++) {
      uns_shared *shared = b->packets[i]->refs[j];
      if (find_object(b, shared) < 0) status = add_object(b, shared);
    }
  }
  return status;
}

static const uint8_t *blob_of(const uns_shared *shared) {
  if (shared->class->kind == UNS_SHARED_CODE) return ((const uns_code *)(const void *)shared)->bytes;
  if (shared->class->kind == UNS_SHARED_BLOCK) return (const uint8_t *)((const uns_block *)(const void *)shared)->bytes;
  return (const uint8_t *)((const uns_lent *)(const void *)shared)->bytes;
}

static uint8_t *put(uint8_t *to, const void *bytes, size_t size_bytes) {
  if (size_bytes > 0) memcpy(to, bytes, size_bytes);
  return to + size_bytes;
}

static void add_piece(uns_frame *frame, const uint8_t *bytes, size_t size_bytes) {
  if (size_bytes == 0) return;
  frame->pieces[frame->piece_count++] = (uns_frame_piece){bytes, size_bytes};
  frame->size_bytes += size_bytes;
}

static void write_head(builder *b, uns_frame *frame, frame_head *head, const char *const *texts) {
  uint8_t *to = frame->head + sizeof *head; /* which comes at the end, when its size is known */
  to = put(to, b->objects, b->object_count * sizeof *b->objects); /* aligned as the head is */
  for (uint32_t i = 0; i < b->packet_count; i++) {
    frame_packet packet = {.size_bytes = b->packets[i]->size_bytes, .ref_count = b->packets[i]->ref_count};
    to = put(to, &packet, sizeof packet);
  }
  for (uint32_t i = 0; i < b->packet_count; i++) {
    for (uint32_t j = 0; j < b->packets[i]->ref_count; j++) {
      uint32_t number = (uint32_t)find_object(b, b->packets[i]->refs[j]);
      to = put(to, &number, sizeof number);
    }
  }
  for (int i = 0; i < UNS_TEXTS; i++) to = put(to, texts[i], head->text_bytes[i]);
  assert(to == frame->head + head->head_bytes);
  add_piece(frame, frame->head, head->head_bytes);
  for (uint32_t i = 0; i < b->packet_count; i++) add_piece(frame, b->packets[i]->bytes, b->packets[i]->size_bytes);
  for (uint32_t i = 0; i < b->object_count; i++) {
    if (b->objects[i].flags & OBJECT_INLINE) add_piece(frame, blob_of(b->shared[i]), (size_t)b->objects[i].size_bytes);
  }
  head->size_bytes = frame->size_bytes;
  put(frame->head, head, sizeof *head);
}

static void forget_taught(uns_port *port) {
  book_clear(&port->book);
  port->book.forget = true;
}

static void undo(builder *b) {
  for (uint32_t i = 0; i < b->object_count; i++) {
    if (b->objects[i].kind != UNS_SHARED_CELL) continue;
    b->port->ops->unexport_cell(b->port->owner, b->objects[i].name[0], (b->objects[i].flags & OBJECT_SETTLED) != 0);
  }
  if (b->taught) forget_taught(b->port);
}

int uns_frame_build(uns_frame *frame, uns_port *port, const uns_message *message, const uns_packet *packet) {
  static const uns_packet nothing;
  builder b; /* field by field, for its arrays need no clearing */
  b.port = port;
  b.objects = b.few_objects;
  b.shared = b.few_shared;
  b.object_count = 0;
  b.object_capacity = FEW;
  b.index = NULL;
  b.index_size = 0;
  b.packets = b.few_packets;
  b.packet_count = 0;
  b.packet_capacity = FEW;
  b.ref_count = b.blob_count = 0;
  b.taught = false;
  if (port->book.count >= BOOK_MAX || port->book.size_bytes >= BOOK_MAX_BYTES) forget_taught(port);
  frame->port = port;
  frame->head = frame->small;
  frame->pieces = frame->few;
  frame->piece_count = 0;
  frame->size_bytes = 0;

  int status = gather(&b, packet != NULL ? packet : &nothing);
  frame_head head = {.magic = MAGIC, .words = message->words};
  const char *texts[UNS_TEXTS];
  memcpy(texts, message->texts, sizeof texts);
  if (status == UNS_OK && message->words.kind == UNS_FRAME_CALL && texts[UNS_TEXT_PATH] != NULL) {
    if (port->search_path != NULL && strcmp(port->search_path, texts[UNS_TEXT_PATH]) == 0) {
      head.flags |= FLAG_SAME_PATH;
      texts[UNS_TEXT_PATH] = NULL;
    } else {
      status = keep_path(port, texts[UNS_TEXT_PATH]);
    }
  }
  uint64_t head_bytes = sizeof head + (uint64_t)b.object_count * sizeof(frame_object) +
                        (uint64_t)b.packet_count * sizeof(frame_packet) + b.ref_count * sizeof(uint32_t);
  for (int i = 0; i < UNS_TEXTS && status == UNS_OK; i++) {
    size_t size = texts[i] == NULL ? 0 : strlen(texts[i]) + 1;
    if (size > UINT32_MAX / 8) status = UNS_ENOMEM;
    head.text_bytes[i] = (uint32_t)size;
    head_bytes += size;
  }
  if (status == UNS_OK && (head_bytes > UINT32_MAX || b.ref_count > UINT32_MAX)) status = UNS_ENOMEM;
  if (status == UNS_OK && head_bytes > sizeof frame->small) {
    frame->head = uns_malloc((size_t)head_bytes);
    if (frame->head == NULL) status = UNS_ENOMEM;
  }
  uint64_t pieces = 1 + (uint64_t)b.packet_count + b.blob_count;
  if (status == UNS_OK && pieces > UNS_FRAME_PIECES) {
    frame->pieces = uns_malloc((size_t)pieces * sizeof *frame->pieces);
    if (frame->pieces == NULL) {
      if (frame->head != frame->small) uns_free(frame->head);
      status = UNS_ENOMEM;
    }
  }
  if (status == UNS_OK) {
    if (port->book.forget) head.flags |= FLAG_FORGET;
    port->book.forget = false;
    head.head_bytes = (uint32_t)head_bytes;
    head.object_count = b.object_count;
    head.packet_count = b.packet_count;
    head.ref_count = (uint32_t)b.ref_count;
    frame->taught = b.taught;
    write_head(&b, frame, &head, texts);
  } else {
    undo(&b);
    drop_path(port);
  }
  if (b.objects != b.few_objects) uns_free(b.objects);
  if (b.shared != b.few_shared) uns_free(b.shared);
  if (b.packets != b.few_packets) uns_free(b.packets);
  uns_free(b.index);
  return status;
}

void uns_frame_done(uns_frame *frame) {
  if (frame->head != frame->small) uns_free(frame->head);
  if (frame->pieces != frame->few) uns_free(frame->pieces);
  frame->head = frame->small;
  frame->pieces = frame->few;
  frame->piece_count = 0;
}

void uns_frame_abandon(uns_frame *frame) {
  uns_port *port = frame->port;
  frame_head head;
  memcpy(&head, frame->head, sizeof head);
  for (uint32_t i = 0; i < head.object_count; i++) {
    frame_object object;
    memcpy(&object, frame->head + sizeof head + i * sizeof object, sizeof object);
    if (object.kind != UNS_SHARED_CELL) continue;
    port->ops->unexport_cell(port->owner, object.name[0], (object.flags & OBJECT_SETTLED) != 0);
  }
  if (frame->taught || (head.flags & FLAG_FORGET)) forget_taught(port);
  drop_path(port);
  uns_frame_done(frame);
}

void uns_frame_copy(const uns_frame *frame, size_t offset, uint8_t *to, size_t size_bytes) {
  for (uint32_t i = 0; i < frame->piece_count && size_bytes > 0; i++) {
    const uns_frame_piece *piece = &frame->pieces[i];
    if (offset >= piece->size_bytes) {
      offset -= piece->size_bytes;
      continue;
    }
    size_t now = piece->size_bytes - offset < size_bytes ? piece->size_bytes - offset : size_bytes;
    memcpy(to, piece->bytes + offset, now);
    to += now;
    size_bytes -= now;
    offset = 0;
  }
}

/* --- reading ----------------------------------------------------------------------------------------------------- */

/* A string that lies in a frame, or, once it is owned, behind this. To the codec it is a lent one. */
typedef struct frame_string {
  uns_lent lent;
  char own[];
} frame_string;

static void string_free(uns_shared *object) { uns_free(object); }
static const uns_shared_class string_class = {UNS_SHARED_LENT, "string", string_free};

static uns_shared *string_new(const char *bytes, size_t size_bytes, bool copy) {
  if (copy && size_bytes > SIZE_MAX - sizeof(frame_string)) return NULL;
  frame_string *string = uns_malloc(sizeof *string + (copy ? size_bytes : 0));
  if (string == NULL) return NULL;
  memset(&string->lent, 0, sizeof string->lent);
  uns_shared_init(&string->lent.base, &string_class);
  string->lent.size_bytes = size_bytes;
  string->lent.bytes = bytes;
  if (copy) {
    if (size_bytes > 0) memcpy(string->own, bytes, size_bytes);
    string->lent.bytes = string->own;
  }
  return &string->lent.base;
}

int uns_frame_own(uns_packet *packet) {
  for (uint32_t i = 0; i < packet->ref_count; i++) {
    uns_shared *shared = packet->refs[i];
    if (shared->class != &string_class) continue;
    frame_string *string = uns_container_of(shared, frame_string, lent.base);
    if (string->lent.bytes == string->own) continue;
    uns_shared *copy = string_new(string->lent.bytes, string->lent.size_bytes, true);
    if (copy == NULL) return UNS_ENOMEM;
    packet->refs[i] = copy;
    uns_shared_unref(shared);
  }
  return UNS_OK;
}

uint64_t uns_frame_size(const uint8_t *bytes) {
  uint32_t magic;
  uint64_t size_bytes;
  memcpy(&magic, bytes, sizeof magic);
  memcpy(&size_bytes, bytes + offsetof(frame_head, size_bytes), sizeof size_bytes);
  return magic == MAGIC && size_bytes >= sizeof(frame_head) && size_bytes <= size_max ? size_bytes : 0;
}

/* A frame under examination. Everything up to `body` is our own copy. */
typedef struct reader {
  uns_port *port;
  frame_head head;
  const uint8_t *objects, *packets, *refs, *texts;
  const uint8_t *body, *blobs;
  uns_shared **shared; /* one reference each, or NULL */
  uns_packet *outcomes; /* all packets but the first */
} reader;

static frame_object object_at(const reader *r, uint32_t number) {
  frame_object object;
  memcpy(&object, r->objects + number * sizeof object, sizeof object);
  return object;
}

static frame_packet packet_at(const reader *r, uint32_t number) {
  frame_packet packet;
  memcpy(&packet, r->packets + number * sizeof packet, sizeof packet);
  return packet;
}

static int read_head(reader *r, const uint8_t *bytes, size_t size_bytes) {
  uns_port *port = r->port;
  if (size_bytes < sizeof r->head) return UNS_ECORRUPT;
  memcpy(&r->head, bytes, sizeof r->head);
  const frame_head *head = &r->head;
  if (head->magic != MAGIC || head->size_bytes != size_bytes || head->head_bytes > size_bytes) return UNS_ECORRUPT;
  uint64_t objects = (uint64_t)head->object_count * sizeof(frame_object);
  uint64_t packets = (uint64_t)head->packet_count * sizeof(frame_packet);
  uint64_t refs = (uint64_t)head->ref_count * sizeof(uint32_t);
  uint64_t texts = 0;
  for (int i = 0; i < UNS_TEXTS; i++) texts += head->text_bytes[i];
  if (sizeof *head + objects + packets + refs + texts != head->head_bytes || head->packet_count == 0) return UNS_ECORRUPT;
  if (head->words.kind == 0 || head->words.kind >= UNS_FRAME_KINDS) return UNS_ECORRUPT;
  if (head->head_bytes > port->scratch_bytes) {
    size_t larger = head->head_bytes < 4096 ? 4096 : (size_t)head->head_bytes * 2;
    uint8_t *scratch = uns_realloc(port->scratch, larger);
    if (scratch == NULL) return UNS_ENOMEM;
    port->scratch = scratch;
    port->scratch_bytes = larger;
  }
  /* The other side may go on writing into what it should leave alone: from here on our copy counts. */
  memcpy(port->scratch, bytes, head->head_bytes);
  r->objects = port->scratch + sizeof *head;
  r->packets = r->objects + objects;
  r->refs = r->packets + packets;
  r->texts = r->refs + refs;
  r->body = bytes + head->head_bytes;
  return UNS_OK;
}

/* All counts and sizes fit each other, so that what follows need not look again. */
static int check_tables(reader *r, size_t size_bytes) {
  const frame_head *head = &r->head;
  uint64_t left = size_bytes - head->head_bytes, refs = 0;
  for (uint32_t i = 0; i < head->packet_count; i++) {
    frame_packet packet = packet_at(r, i);
    if (packet.size_bytes > left) return UNS_ECORRUPT;
    left -= packet.size_bytes;
    refs += packet.ref_count;
  }
  if (refs != head->ref_count) return UNS_ECORRUPT;
  r->blobs = r->body + (size_bytes - head->head_bytes - left);
  uint32_t outcomes = 0;
  for (uint32_t i = 0; i < head->object_count; i++) {
    frame_object object = object_at(r, i);
    bool holds = (object.flags & OBJECT_INLINE) != 0, settled = (object.flags & OBJECT_SETTLED) != 0;
    switch (object.kind) {
      case UNS_SHARED_CODE:
        if (settled) return UNS_ECORRUPT;
        break;
      case UNS_SHARED_LENT:
        if (settled || !holds) return UNS_ECORRUPT;
        break;
      case UNS_SHARED_CELL:
        if (holds || r->port->ops == NULL || (!settled && object.name[0] == 0)) return UNS_ECORRUPT;
        /* outcomes come in the order of their cells, each once */
        if (settled && (object.packet != ++outcomes || object.state < UNS_CELL_DONE || object.state > UNS_CELL_CANCELLED)) {
          return UNS_ECORRUPT;
        }
        break;
      default:
        return UNS_ECORRUPT;
    }
    if (!holds) continue;
    if (object.size_bytes > left) return UNS_ECORRUPT;
    left -= object.size_bytes;
  }
  if (left != 0 || outcomes != head->packet_count - 1) return UNS_ECORRUPT;
  for (uint32_t i = 0; i < head->ref_count; i++) {
    uint32_t number;
    memcpy(&number, r->refs + i * sizeof number, sizeof number);
    if (number >= head->object_count) return UNS_ECORRUPT;
  }
  const uint8_t *text = r->texts;
  for (int i = 0; i < UNS_TEXTS; i++) {
    if (head->text_bytes[i] > 0 && memchr(text, 0, head->text_bytes[i]) != text + head->text_bytes[i] - 1) return UNS_ECORRUPT;
    text += head->text_bytes[i];
  }
  return UNS_OK;
}

static int read_code(reader *r, const frame_object *object, const uint8_t *blob, uns_shared **shared) {
  uns_codebook *book = &r->port->book;
  struct uns_codebook_entry *known = book_find(book, object->name);
  if ((object->flags & OBJECT_INLINE) == 0) {
    if (known == NULL) return UNS_ECORRUPT;
    *shared = uns_shared_ref(known->code);
    return UNS_OK;
  }
  uns_code *code = uns_code_new(blob, (size_t)object->size_bytes);
  if (code == NULL) return UNS_ENOMEM;
  *shared = &code->base;
  if (code->hash[0] != object->name[0] || code->hash[1] != object->name[1]) return UNS_ECORRUPT;
  if (known != NULL) return UNS_OK;
  int status = book_add(book, code->hash, code, code->size_bytes);
  if (status == UNS_OK) uns_shared_ref(code);
  return status;
}

static int read_objects(reader *r) {
  const uint8_t *blob = r->blobs;
  if (r->head.flags & FLAG_FORGET) book_clear(&r->port->book);
  for (uint32_t i = 0; i < r->head.object_count; i++) {
    frame_object object = object_at(r, i);
    int status = UNS_OK;
    if (object.kind == UNS_SHARED_CODE) {
      status = read_code(r, &object, blob, &r->shared[i]);
    } else if (object.kind == UNS_SHARED_LENT) {
      r->shared[i] = string_new((const char *)blob, (size_t)object.size_bytes, false);
      if (r->shared[i] == NULL) status = UNS_ENOMEM;
    } else {
      uns_cell *cell = NULL;
      if (object.name[0] == 0) {
        cell = uns_cell_new();
        if (cell == NULL) status = UNS_ENOMEM;
      } else {
        status = r->port->ops->import_cell(r->port->owner, object.name[0], (object.flags & OBJECT_BY_TASK) != 0, &cell);
      }
      if (cell != NULL) r->shared[i] = &cell->base;
    }
    if (status != UNS_OK) return status;
    if (object.flags & OBJECT_INLINE) blob += object.size_bytes;
  }
  return UNS_OK;
}

static int read_packet(const reader *r, uns_packet *packet, const frame_packet *size, const uint8_t *bytes,
                       const uint8_t *refs) {
  uns_packet_init(packet);
  if (size->size_bytes > 0) {
    uint8_t *room = uns_packet_grow(packet, (size_t)size->size_bytes);
    if (room == NULL) return UNS_ENOMEM;
    memcpy(room, bytes, (size_t)size->size_bytes);
  }
  for (uint32_t i = 0; i < size->ref_count; i++) {
    uint32_t number;
    memcpy(&number, refs + i * sizeof number, sizeof number);
    uns_shared *shared = uns_shared_ref(r->shared[number]);
    if (uns_packet_add_ref(packet, shared) < 0) {
      uns_shared_unref(shared);
      return UNS_ENOMEM;
    }
  }
  return UNS_OK;
}

static int read_packets(reader *r, uns_packet *first) {
  const uint8_t *bytes = r->body, *refs = r->refs;
  for (uint32_t i = 0; i < r->head.packet_count; i++) {
    frame_packet size = packet_at(r, i);
    uns_packet *packet = i == 0 ? first : &r->outcomes[i - 1];
    int status = read_packet(r, packet, &size, bytes, refs);
    if (status == UNS_OK && i > 0) status = uns_frame_own(packet); /* an outcome outlives the frame */
    if (status != UNS_OK) return status;
    bytes += size.size_bytes;
    refs += size.ref_count * sizeof(uint32_t);
  }
  return UNS_OK;
}

/* Only when nothing can fail any more: settled cells settle here too. */
static void read_outcomes(reader *r) {
  for (uint32_t i = 0; i < r->head.object_count; i++) {
    frame_object object = object_at(r, i);
    if ((object.flags & OBJECT_SETTLED) == 0) continue;
    uns_cell *cell = uns_container_of(r->shared[i], uns_cell, base);
    uns_packet *outcome = &r->outcomes[object.packet - 1];
    if (object.name[0] == 0) uns_cell_settle_here(cell, (uns_cell_state)object.state, outcome);
    else r->port->ops->import_outcome(r->port->owner, cell, object.name[0], (uns_cell_state)object.state, outcome);
  }
}

static int read_texts(reader *r, uns_message *message) {
  const char *text = (const char *)r->texts;
  for (int i = 0; i < UNS_TEXTS; i++) {
    message->texts[i] = r->head.text_bytes[i] > 0 ? text : NULL;
    text += r->head.text_bytes[i];
  }
  if (message->words.kind != UNS_FRAME_CALL) return UNS_OK;
  if (r->head.flags & FLAG_SAME_PATH) message->texts[UNS_TEXT_PATH] = r->port->search_path;
  else if (message->texts[UNS_TEXT_PATH] != NULL) return keep_path(r->port, message->texts[UNS_TEXT_PATH]);
  return UNS_OK;
}

int uns_frame_read(uns_port *port, const uint8_t *bytes, size_t size_bytes, uns_message *message) {
  reader r = {.port = port};
  uns_shared *few[FEW] = {NULL};
  uns_packet_init(&message->packet);
  int status = read_head(&r, bytes, size_bytes);
  if (status == UNS_OK) status = check_tables(&r, size_bytes);
  if (status != UNS_OK) return status;
  message->words = r.head.words;
  message->words.error_code[sizeof message->words.error_code - 1] = '\0';

  r.shared = few;
  if (r.head.object_count > FEW) r.shared = uns_calloc(r.head.object_count, sizeof *r.shared);
  if (r.head.packet_count > 1) r.outcomes = uns_calloc(r.head.packet_count - 1, sizeof *r.outcomes);
  if (r.shared == NULL || (r.head.packet_count > 1 && r.outcomes == NULL)) status = UNS_ENOMEM;
  if (status == UNS_OK) status = read_objects(&r);
  if (status == UNS_OK) status = read_packets(&r, &message->packet);
  if (status == UNS_OK) status = read_texts(&r, message);
  if (status == UNS_OK) read_outcomes(&r);
  else uns_packet_deinit(&message->packet);
  for (uint32_t i = 0; r.shared != NULL && i < r.head.object_count; i++) uns_shared_unref(r.shared[i]);
  for (uint32_t i = 0; r.outcomes != NULL && i < r.head.packet_count - 1; i++) uns_packet_deinit(&r.outcomes[i]);
  if (r.shared != few) uns_free(r.shared);
  uns_free(r.outcomes);
  return status;
}

void uns_message_deinit(uns_message *message) { uns_packet_deinit(&message->packet); }

/* --- jobs -------------------------------------------------------------------------------------------------------- */

void uns_message_of_call(uns_message *message, const uns_job *job) {
  const uns_function *function = job->function;
  memset(message, 0, sizeof *message);
  struct uns_message_words *words = &message->words;
  words->kind = UNS_FRAME_CALL;
  words->id = job->id;
  words->submitted_ns = job->submitted_ns;
  words->deadline_ns = job->deadline_ns;
  words->timeout_ns = function->timeout_ns;
  words->run_timeout_ns = function->run_timeout_ns;
  words->grace_ns = function->grace_ns;
  words->limit = function->limit;
  words->function_kind = function->kind;
  words->fresh = function->fresh;
  message->texts[UNS_TEXT_NAME] = function->name;
  message->texts[UNS_TEXT_NATIVE] = function->native;
  message->texts[UNS_TEXT_PLUGIN] = function->task != NULL ? function->task->plugin->path : function->plugin;
  message->texts[UNS_TEXT_PATH] = job->search_path;
}

void uns_message_of_result(uns_message *message, const uns_job *job) {
  memset(message, 0, sizeof *message);
  struct uns_message_words *words = &message->words;
  words->kind = UNS_FRAME_RESULT;
  words->id = job->id;
  words->started_ns = job->started_ns;
  words->ended_ns = job->ended_ns;
  words->state = job->outcome;
  words->exit_code = job->exit_code;
  words->signal_number = job->signal_number;
  if (job->outcome != UNS_OUTCOME_ERROR) return;
  memcpy(words->error_code, job->error_code, sizeof words->error_code);
  message->texts[0] = job->error_text;
}

int uns_message_end_job(uns_message *message, uns_job *job) {
  const struct uns_message_words *words = &message->words;
  if (words->state > UNS_OUTCOME_ERROR) return UNS_ECORRUPT;
  job->started_ns = words->started_ns;
  job->ended_ns = words->ended_ns;
  if (words->state == UNS_OUTCOME_ERROR) {
    uns_job_fail(job, words->error_code, "%s", message->texts[0] != NULL ? message->texts[0] : "");
  } else {
    uns_packet_move(&job->result, &message->packet);
    job->outcome = (uns_outcome)words->state;
  }
  job->exit_code = words->exit_code;
  job->signal_number = words->signal_number;
  return UNS_OK;
}

static bool same_text(const char *a, const char *b) { return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0); }

uns_function *uns_function_of_message(const uns_message *message, uns_function *last) {
  const struct uns_message_words *words = &message->words;
  const char *name = message->texts[UNS_TEXT_NAME] != NULL ? message->texts[UNS_TEXT_NAME] : "?";
  const char *native = message->texts[UNS_TEXT_NATIVE], *plugin = message->texts[UNS_TEXT_PLUGIN];
  if (last != NULL && strcmp(last->name, name) == 0 && same_text(last->native, native) &&
      same_text(last->plugin, plugin) && last->kind == words->function_kind && last->fresh == (words->fresh != 0) &&
      last->limit == words->limit && last->timeout_ns == words->timeout_ns &&
      last->run_timeout_ns == words->run_timeout_ns && last->grace_ns == words->grace_ns) {
    return uns_shared_ref(last);
  }
  uns_function *function = uns_function_new((uns_kind)words->function_kind, name, native);
  if (function == NULL) return NULL;
  function->fresh = words->fresh != 0;
  function->limit = words->limit;
  function->timeout_ns = words->timeout_ns;
  function->run_timeout_ns = words->run_timeout_ns;
  function->grace_ns = words->grace_ns;
  if (plugin != NULL) {
    size_t size = strlen(plugin) + 1;
    function->plugin = uns_malloc(size);
    if (function->plugin == NULL) {
      uns_shared_unref(function);
      return NULL;
    }
    memcpy(function->plugin, plugin, size);
  }
  return function;
}
