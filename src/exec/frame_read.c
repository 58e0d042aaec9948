/*
 * frame_read: a frame's bytes, checked and made into a packet again. Who wrote them may be mad, and may still be writing.
 *
 * Writing: frame.c. How they lie: frame_format.h.
 */
#include <string.h>

#include "core/lent.h"
#include "exec/frame_format.h"

static const uint64_t size_max = (uint64_t)1 << 46;

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
  return magic == FRAME_MAGIC && size_bytes >= sizeof(frame_head) && size_bytes <= size_max ? size_bytes : 0;
}

/* A frame under examination. Everything up to `body` is our own copy. */
typedef struct reader {
  uns_port *port;
  frame_head head;
  const uint8_t *objects, *packets, *refs, *texts;
  const uint8_t *body, *blobs;
  uns_shared **shared;  /* one reference each, or NULL */
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
  if (head->magic != FRAME_MAGIC || head->size_bytes != size_bytes || head->head_bytes > size_bytes)
    return UNS_ECORRUPT;
  uint64_t objects = (uint64_t)head->object_count * sizeof(frame_object);
  uint64_t packets = (uint64_t)head->packet_count * sizeof(frame_packet);
  uint64_t refs = (uint64_t)head->ref_count * sizeof(uint32_t);
  uint64_t texts = 0;
  for (int i = 0; i < UNS_TEXTS; i++) texts += head->text_bytes[i];
  if (sizeof *head + objects + packets + refs + texts != head->head_bytes || head->packet_count == 0)
    return UNS_ECORRUPT;
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
        if (settled &&
            (object.packet != ++outcomes || object.state < UNS_CELL_DONE || object.state > UNS_CELL_CANCELLED)) {
          return UNS_ECORRUPT;
        }
        break;
      case UNS_SHARED_CHANNEL:
        if (holds || settled || object.name[0] == 0) return UNS_ECORRUPT;
        if (r->port->ops == NULL || r->port->ops->import_channel == NULL) return UNS_ECORRUPT;
        break;
      default: return UNS_ECORRUPT;
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
    if (head->text_bytes[i] > 0 && memchr(text, 0, head->text_bytes[i]) != text + head->text_bytes[i] - 1)
      return UNS_ECORRUPT;
    text += head->text_bytes[i];
  }
  return UNS_OK;
}

static int read_code(reader *r, const frame_object *object, const uint8_t *blob, uns_shared **shared) {
  uns_codebook *book = &r->port->book;
  struct uns_codebook_entry *known = uns_codebook_find(book, object->name);
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
  int status = uns_codebook_add(book, code->hash, code, code->size_bytes);
  if (status == UNS_OK) uns_shared_ref(code);
  return status;
}

static int read_objects(reader *r) {
  const uint8_t *blob = r->blobs;
  if (r->head.flags & FLAG_FORGET) uns_codebook_clear(&r->port->book);
  if (uns_codebook_full(&r->port->book)) return UNS_ECORRUPT; /* it is not for the other side to say how much we hold */
  for (uint32_t i = 0; i < r->head.object_count; i++) {
    frame_object object = object_at(r, i);
    int status = UNS_OK;
    if (object.kind == UNS_SHARED_CODE) {
      status = read_code(r, &object, blob, &r->shared[i]);
    } else if (object.kind == UNS_SHARED_LENT) {
      /* A short string is a copy, for Lua looks at it several times; a long one it copies once. */
      r->shared[i] = string_new((const char *)blob, (size_t)object.size_bytes, object.size_bytes < UNS_LENT_MIN);
      if (r->shared[i] == NULL) status = UNS_ENOMEM;
    } else if (object.kind == UNS_SHARED_CHANNEL) {
      uns_shared_channel *channel = NULL;
      status = r->port->ops->import_channel(r->port->owner, object.name[0], &channel);
      if (channel != NULL) r->shared[i] = &channel->base;
    } else {
      uns_cell *cell = NULL;
      if (object.name[0] == 0) {
        cell = uns_cell_new();
        if (cell == NULL) status = UNS_ENOMEM;
      } else {
        status = r->port->ops->import_cell(r->port->owner, object.name[0], (object.flags & OBJECT_BY_TASK) != 0, &cell);
      }
      if (cell != NULL) r->shared[i] = &cell->base;
      if (cell != NULL && (object.flags & OBJECT_LOOKED_AT) != 0)
        atomic_store_explicit(&cell->looked_at, true, memory_order_relaxed);
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
  message->search_path = NULL;
  if (message->words.kind != UNS_FRAME_CALL) return UNS_OK;
  uns_port *port = r->port;
  if (message->texts[UNS_TEXT_PATH] != NULL) {
    uns_shared_unref(port->search_path);
    port->search_path = uns_search_path_from(message->texts[UNS_TEXT_PATH]);
    if (port->search_path == NULL) return UNS_ENOMEM;
    message->search_path = port->search_path;
  } else if (r->head.flags & FLAG_SAME_PATH) {
    message->search_path = port->search_path;
  }
  return UNS_OK;
}

int uns_frame_read(uns_port *port, const uint8_t *bytes, size_t size_bytes, uns_message *message) {
  reader r = {.port = port};
  uns_shared *few[FRAME_FEW] = {NULL};
  uns_packet_init(&message->packet);
  int status = read_head(&r, bytes, size_bytes);
  if (status == UNS_OK) status = check_tables(&r, size_bytes);
  if (status != UNS_OK) return status;
  message->words = r.head.words;
  message->words.error_code[sizeof message->words.error_code - 1] = '\0';

  r.shared = few;
  if (r.head.object_count > FRAME_FEW) r.shared = uns_calloc(r.head.object_count, sizeof *r.shared);
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
