#include "exec/frame.h"

#include <assert.h>
#include <string.h>

#include "core/block.h"
#include "core/lent.h"
#include "exec/frame_format.h"

/* ---- gathering ---- */

/* What is gathered on the way; grows on the heap only when there is a lot. */
typedef struct builder {
  uns_port *port;
  frame_object *objects, few_objects[FRAME_FEW];
  uns_shared **shared, *few_shared[FRAME_FEW];
  uint32_t object_count, object_capacity;
  uint32_t *index; /* past FRAME_FEW objects: open addressing, 1 + the place in `shared` */
  uint32_t index_size;
  const uns_packet **packets, *few_packets[FRAME_FEW];
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
  if (uns_codebook_find(&b->port->book, code->hash) != NULL) return UNS_OK;
  int status = uns_codebook_add(&b->port->book, code->hash, NULL, code->size_bytes);
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
  if (atomic_load_explicit(&cell->looked_at, memory_order_relaxed)) object->flags |= OBJECT_LOOKED_AT;
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

static int describe_channel(const builder *b, uns_shared_channel *channel, frame_object *object) {
  const uns_port_ops *ops = b->port->ops;
  if (ops == NULL || ops->export_channel == NULL) return UNS_ECORRUPT;
  return ops->export_channel(b->port->owner, channel, &object->name[0]);
}

static int add_object(builder *b, uns_shared *shared) {
  if (b->object_count == b->object_capacity) {
    uint32_t capacity = b->object_capacity;
    if (!grow_array((void **)&b->shared, b->few_shared, b->object_count, &capacity, sizeof *b->shared))
      return UNS_ENOMEM;
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
  } else if (object.kind == UNS_SHARED_CHANNEL) {
    status = describe_channel(b, uns_container_of(shared, uns_shared_channel, base), &object);
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

/* ---- writing ---- */

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
  uint8_t *to = frame->head + sizeof *head;                       /* which comes at the end, when its size is known */
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

/* A failure that goes over as a copy is the other side's to report from now on. */
static void hand_over_failures(const builder *b) {
  for (uint32_t i = 0; i < b->object_count; i++) {
    if ((b->objects[i].flags & OBJECT_SETTLED) == 0 || b->objects[i].name[0] != 0) continue;
    uns_cell *cell = uns_container_of(b->shared[i], uns_cell, base);
    atomic_store_explicit(&cell->looked_at, true, memory_order_relaxed);
  }
}

/* It may not have gone over: it goes again. */
static void drop_path(uns_port *port) {
  uns_shared_unref(port->search_path);
  port->search_path = NULL;
}

static void forget_taught(uns_port *port) {
  uns_codebook_clear(&port->book);
  port->book.forget = true;
}

static void unexport(const uns_port *port, const frame_object *object) {
  if (object->kind == UNS_SHARED_CELL) {
    port->ops->unexport_cell(port->owner, object->name[0], (object->flags & OBJECT_SETTLED) != 0);
  } else if (object->kind == UNS_SHARED_CHANNEL) {
    port->ops->unexport_channel(port->owner, object->name[0]);
  }
}

static void undo(builder *b) {
  for (uint32_t i = 0; i < b->object_count; i++) unexport(b->port, &b->objects[i]);
  if (b->taught) forget_taught(b->port);
}

int uns_frame_build(uns_frame *frame, uns_port *port, const uns_message *message, const uns_packet *packet) {
  static const uns_packet nothing;
  builder b; /* field by field, for its arrays need no clearing */
  b.port = port;
  b.objects = b.few_objects;
  b.shared = b.few_shared;
  b.object_count = 0;
  b.object_capacity = FRAME_FEW;
  b.index = NULL;
  b.index_size = 0;
  b.packets = b.few_packets;
  b.packet_count = 0;
  b.packet_capacity = FRAME_FEW;
  b.ref_count = b.blob_count = 0;
  b.taught = false;
  if (uns_codebook_full(&port->book)) forget_taught(port);
  frame->port = port;
  frame->head = frame->small;
  frame->pieces = frame->few;
  frame->piece_count = 0;
  frame->size_bytes = 0;

  int status = gather(&b, packet != NULL ? packet : &nothing);
  frame_head head = {.magic = FRAME_MAGIC, .words = message->words};
  const char *texts[UNS_TEXTS];
  memcpy(texts, message->texts, sizeof texts);
  uns_search_path *path = message->words.kind == UNS_FRAME_CALL ? message->search_path : NULL;
  texts[UNS_TEXT_PATH] = NULL;
  if (path != NULL && path == port->search_path) {
    head.flags |= FLAG_SAME_PATH;
  } else if (path != NULL) {
    texts[UNS_TEXT_PATH] = path->text;
    drop_path(port);
    port->search_path = uns_shared_ref(path);
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
    hand_over_failures(&b);
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
    unexport(port, &object);
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
