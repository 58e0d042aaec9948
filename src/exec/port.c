/*
 * port: one end of a stream of frames: what has gone over it before, and need not go again.
 */
#include <string.h>

#include "exec/frame_format.h"

void uns_codebook_clear(uns_codebook *book) {
  for (uint32_t i = 0; i < book->capacity; i++) {
    if (book->entries[i].used) uns_shared_unref(book->entries[i].code);
  }
  uns_free(book->entries);
  bool forget = book->forget;
  memset(book, 0, sizeof *book);
  book->forget = forget;
}

bool uns_codebook_full(const uns_codebook *book) {
  enum { PIECES_MAX = 4096, BYTES_MAX = 64 << 20 };
  return book->count >= PIECES_MAX || book->size_bytes >= BYTES_MAX;
}

static struct uns_codebook_entry *book_place(const uns_codebook *book, const uint64_t hash[2]) {
  uint32_t mask = book->capacity - 1, i = (uint32_t)hash[0] & mask;
  while (book->entries[i].used && (book->entries[i].hash[0] != hash[0] || book->entries[i].hash[1] != hash[1])) {
    i = (i + 1) & mask;
  }
  return &book->entries[i];
}

struct uns_codebook_entry *uns_codebook_find(const uns_codebook *book, const uint64_t hash[2]) {
  if (book->capacity == 0) return NULL;
  struct uns_codebook_entry *entry = book_place(book, hash);
  return entry->used ? entry : NULL;
}

int uns_codebook_add(uns_codebook *book, const uint64_t hash[2], uns_code *code, size_t size_bytes) {
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
  uns_codebook_clear(&port->book);
  uns_shared_unref(port->search_path);
  uns_free(port->scratch);
  memset(port, 0, sizeof *port);
}
