/* frame: what goes in comes out, once and whole; and no bytes at all bring the reader down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/block.h"
#include "core/lent.h"
#include "exec/frame_format.h"

/* An owner of a port that gives cells numbers, and knows them again by number. */
enum { CELLS = 64 };
typedef struct {
  uns_cell *cells[CELLS]; /* one reference each */
  int counts[CELLS];
  bool told[CELLS];
  uint64_t last;
} registry;

static int export_cell(void *owner, uns_cell *cell, uint64_t *id, bool *tell) {
  registry *r = owner;
  uint64_t found = 1;
  while (found <= r->last && r->cells[found] != cell) found++;
  if (found > r->last) {
    if (r->last + 1 == CELLS) return UNS_ENOMEM;
    r->last = found;
    r->cells[found] = uns_shared_ref(cell);
  }
  r->counts[found]++;
  *id = found;
  *tell = !r->told[found] && uns_cell_peek(cell) != UNS_CELL_PENDING;
  if (*tell) r->told[found] = true;
  return UNS_OK;
}

static void unexport_cell(void *owner, uint64_t id, bool told) {
  registry *r = owner;
  r->counts[id]--;
  if (told) r->told[id] = false;
}

static int import_cell(void *owner, uint64_t id, bool by_task, uns_cell **cell) {
  registry *r = owner;
  if (id == 0 || id >= CELLS) return UNS_ECORRUPT;
  if (r->cells[id] == NULL) r->cells[id] = uns_cell_new();
  if (r->cells[id] == NULL) return UNS_ENOMEM;
  r->cells[id]->by_task = by_task;
  r->counts[id]++;
  *cell = uns_shared_ref(r->cells[id]);
  return UNS_OK;
}

static void import_outcome(void *owner, uns_cell *cell, uint64_t id, uns_cell_state state, uns_packet *outcome) {
  (void)owner;
  (void)id;
  uns_cell_settle_here(cell, state, outcome);
}

/* Channels go by their address. */
static int exported_channels;

static int export_channel(void *owner, uns_shared_channel *channel, uint64_t *id) {
  (void)owner;
  exported_channels++;
  *id = (uintptr_t)channel;
  return UNS_OK;
}

static void unexport_channel(void *owner, uint64_t id) {
  (void)owner;
  (void)id;
  exported_channels--;
}

static int import_channel(void *owner, uint64_t id, uns_shared_channel **channel) {
  (void)owner;
  (void)id;
  *channel = uns_shared_channel_new(3);
  return *channel != NULL ? UNS_OK : UNS_ENOMEM;
}

static const uns_port_ops ops = {export_cell,    unexport_cell,    import_cell,   import_outcome,
                                 export_channel, unexport_channel, import_channel};

typedef struct {
  registry there, here; /* of the writer, of the reader */
  uns_port out, in;
  uint8_t *bytes; /* the last frame */
  size_t size;
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  uns_port_init(&f->out, &ops, &f->there);
  uns_port_init(&f->in, &ops, &f->here);
  *state = f;
  return 0;
}

static void drop_registry(registry *r) {
  for (int i = 0; i < CELLS; i++) {
    uns_cell *cell = r->cells[i];
    if (cell != NULL) { /* cells may hold each other; that one holds itself is not counted */
      uns_packet outcome = cell->outcome;
      uns_packet_init(&cell->outcome);
      for (uint32_t j = 0; j < outcome.ref_count; j++) {
        if (outcome.refs[j] == &cell->base) uns_shared_ref(cell);
      }
      uns_packet_deinit(&outcome);
    }
    uns_shared_unref(cell);
  }
}

static int tear_down(void **state) {
  fixture *f = *state;
  uns_port_deinit(&f->out);
  uns_port_deinit(&f->in);
  drop_registry(&f->there);
  drop_registry(&f->here);
  free(f->bytes);
  free(f);
  return 0;
}

static int write_frame(fixture *f, const uns_message *message, const uns_packet *packet) {
  uns_frame frame;
  int status = uns_frame_build(&frame, &f->out, message, packet);
  if (status != UNS_OK) return status;
  free(f->bytes);
  f->size = frame.size_bytes;
  f->bytes = malloc(f->size);
  /* in two pieces, as a ring would take it */
  size_t half = f->size / 2;
  uns_frame_copy(&frame, 0, f->bytes, half);
  uns_frame_copy(&frame, half, f->bytes + half, f->size - half);
  uns_frame_done(&frame);
  return UNS_OK;
}

static void fill(uns_packet *packet, const char *bytes, size_t size) {
  uns_packet_init(packet);
  memcpy(uns_packet_grow(packet, size), bytes, size);
}

static void add(uns_packet *packet, void *owned) { assert_true(uns_packet_add_ref(packet, owned) >= 0); }

static const uns_message plain = {.words = {.kind = UNS_FRAME_SETTLED}};

static void a_call_arrives_as_it_was(void **state) {
  fixture *f = *state;
  uns_mailbox *home = uns_mailbox_new();
  uns_function *function = uns_function_new(UNS_KIND_CPU, "fib", "math.fib");
  function->fresh = true;
  function->limit = 7;
  function->timeout_ns = 5000000000;
  uns_job *job = uns_job_new(home, function);
  fill(&job->call, "\0values\xff", 8);
  job->search_path = uns_search_path_from("./?.lua\n./?.so");
  job->deadline_ns = 99;
  uns_message sent, got;
  uns_message_of_call(&sent, job);
  sent.words.slot = 3;
  sent.words.sequence = 41;
  assert_int_equal(write_frame(f, &sent, &job->call), UNS_OK);
  assert_int_equal(uns_frame_size(f->bytes), f->size);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_memory_equal(&got.words, &sent.words, sizeof got.words);
  assert_string_equal(got.texts[UNS_TEXT_NAME], "fib");
  assert_string_equal(got.texts[UNS_TEXT_NATIVE], "math.fib");
  assert_null(got.texts[UNS_TEXT_PLUGIN]);
  assert_string_equal(got.search_path->text, "./?.lua\n./?.so\n");
  assert_int_equal(got.packet.size_bytes, 8);
  assert_memory_equal(got.packet.bytes, "\0values\xff", 8);
  uns_function *same = uns_function_of_message(&got, NULL);
  assert_true(same->fresh && same->limit == 7 && same->timeout_ns == 5000000000);
  assert_ptr_equal(uns_function_of_message(&got, same), same);
  uns_shared_unref(same);
  uns_shared_unref(same);
  uns_message_deinit(&got);

  size_t first_size = f->size; /* the search path goes over only when it is another one */
  assert_int_equal(write_frame(f, &sent, &job->call), UNS_OK);
  assert_true(f->size < first_size);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_string_equal(got.search_path->text, "./?.lua\n./?.so\n");
  uns_message_deinit(&got);
  uns_job_free(job);
  uns_shared_unref(function);
  uns_mailbox_unref(home);
}

static void the_end_of_a_call_arrives_as_it_was(void **state) {
  fixture *f = *state;
  uns_mailbox *home = uns_mailbox_new();
  uns_function *function = uns_function_new(UNS_KIND_CPU, "fib", NULL);
  uns_job *job = uns_job_new(home, function), *told = uns_job_new(home, function);
  uns_job_fail(job, "ENOENT", "no %s", "file");
  job->exit_code = 3;
  job->started_ns = 17;
  uns_message sent, got;
  uns_message_of_result(&sent, job);
  assert_int_equal(write_frame(f, &sent, &job->result), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_int_equal(uns_message_end_job(&got, told), UNS_OK);
  uns_message_deinit(&got);
  assert_int_equal(told->outcome, UNS_OUTCOME_ERROR);
  assert_string_equal(told->error_code, "ENOENT");
  assert_string_equal(told->error_text, "no file");
  assert_int_equal(told->exit_code, 3);
  assert_int_equal(got.words.started_ns, 17);

  job->outcome = UNS_OUTCOME_DONE;
  fill(&job->result, "42", 2);
  uns_message_of_result(&sent, job);
  assert_int_equal(write_frame(f, &sent, &job->result), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_int_equal(uns_message_end_job(&got, told), UNS_OK);
  assert_int_equal(told->outcome, UNS_OUTCOME_DONE);
  assert_memory_equal(told->result.bytes, "42", 2);
  got.words.state = 77;
  assert_int_equal(uns_message_end_job(&got, told), UNS_ECORRUPT);
  uns_message_deinit(&got);
  uns_job_free(job);
  uns_job_free(told);
  uns_shared_unref(function);
  uns_mailbox_unref(home);
}

static uns_code *code_of(const char *text) { return uns_code_new(text, strlen(text)); }

static const uns_code *as_code(const uns_packet *packet, uint32_t ref) {
  assert_int_equal(packet->refs[ref]->class->kind, UNS_SHARED_CODE);
  return (const uns_code *)(const void *)packet->refs[ref];
}

static void code_goes_over_once(void **state) {
  fixture *f = *state;
  uns_packet packet;
  fill(&packet, "x", 1);
  static const char text[] = "return 1 -- some code that is longer than a hash of it";
  add(&packet, code_of(text));
  size_t sizes[3];
  for (int i = 0; i < 3; i++) {
    uns_message got;
    assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
    sizes[i] = f->size;
    assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
    assert_int_equal(as_code(&got.packet, 0)->size_bytes, strlen(text));
    assert_memory_equal(as_code(&got.packet, 0)->bytes, text, strlen(text));
    uns_message_deinit(&got);
  }
  assert_true(sizes[1] < sizes[0] && sizes[1] == sizes[2]);
  uns_packet_deinit(&packet);
}

static void code_of_an_abandoned_frame_goes_over_again(void **state) {
  fixture *f = *state;
  uns_packet packet;
  fill(&packet, "x", 1);
  add(&packet, code_of("some code"));
  uns_frame frame;
  assert_int_equal(uns_frame_build(&frame, &f->out, &plain, &packet), UNS_OK);
  uns_frame_abandon(&frame);
  uns_message got;
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_int_equal(as_code(&got.packet, 0)->size_bytes, 9);
  uns_message_deinit(&got);
  uns_packet_deinit(&packet);
}

static void code_without_end_does_not_pile_up(void **state) {
  fixture *f = *state;
  for (int i = 0; i < 20000; i++) {
    char text[32];
    snprintf(text, sizeof text, "return %d", i % 9000);
    uns_packet packet;
    fill(&packet, "x", 1);
    add(&packet, code_of(text));
    uns_message got;
    assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
    assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
    assert_memory_equal(as_code(&got.packet, 0)->bytes, text, strlen(text));
    uns_message_deinit(&got);
    uns_packet_deinit(&packet);
    assert_true(f->in.book.count <= 5000);
    assert_int_equal(f->in.book.count, f->out.book.count);
  }
}

static void code_piles_up_for_no_writer_that_never_forgets(void **state) {
  fixture *f = *state;
  int status = UNS_OK;
  for (int i = 0; i < 20000 && status == UNS_OK; i++) {
    char text[32];
    snprintf(text, sizeof text, "return %d", i);
    uns_packet packet;
    fill(&packet, "x", 1);
    add(&packet, code_of(text));
    assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
    uns_packet_deinit(&packet);
    memset(f->bytes + offsetof(frame_head, flags), 0, sizeof(uint32_t));
    uns_message got;
    status = uns_frame_read(&f->in, f->bytes, f->size, &got);
    if (status == UNS_OK) uns_message_deinit(&got);
    assert_true(f->in.book.count <= 5000);
  }
  assert_int_equal(status, UNS_ECORRUPT);
}

static void code_whose_hash_does_not_fit_is_refused(void **state) {
  fixture *f = *state;
  uns_packet packet;
  fill(&packet, "x", 1);
  add(&packet, code_of("a function's dump"));
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  f->bytes[f->size - 3] ^= 1;
  uns_message got;
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_ECORRUPT);
  uns_packet_deinit(&packet);
}

static int lent_freed;
static void free_lent(uns_shared *object) {
  lent_freed++;
  free(object);
}
static const uns_shared_class lent_class = {UNS_SHARED_LENT, "string", free_lent};

static uns_lent *lend(const char *bytes, size_t size) {
  uns_lent *lent = calloc(1, sizeof *lent);
  uns_shared_init(&lent->base, &lent_class);
  lent->bytes = bytes;
  lent->size_bytes = size;
  return lent;
}

static const uns_lent *as_lent(const uns_packet *packet, uint32_t ref) {
  assert_int_equal(packet->refs[ref]->class->kind, UNS_SHARED_LENT);
  return (const uns_lent *)(const void *)packet->refs[ref];
}

static void long_strings_are_gathered_and_read_where_they_lie(void **state) {
  fixture *f = *state;
  enum { SIZE = 100000 };
  char *large = malloc(SIZE);
  for (int i = 0; i < SIZE; i++) large[i] = (char)(i * 11);
  uns_block *block = uns_block_new(5000);
  memset(block->bytes, 'b', 5000);
  lent_freed = 0;
  uns_packet packet;
  fill(&packet, "two strings", 11);
  add(&packet, lend(large, SIZE));
  add(&packet, block);
  uns_frame frame;
  assert_int_equal(uns_frame_build(&frame, &f->out, &plain, &packet), UNS_OK);
  assert_ptr_equal(frame.pieces[2].bytes, large); /* not copied */
  uns_frame_done(&frame);
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  uns_packet_deinit(&packet);
  assert_int_equal(lent_freed, 1);

  uns_message got;
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_int_equal(as_lent(&got.packet, 0)->size_bytes, SIZE);
  assert_memory_equal(as_lent(&got.packet, 0)->bytes, large, SIZE);
  assert_in_range((uintptr_t)as_lent(&got.packet, 0)->bytes, (uintptr_t)f->bytes, (uintptr_t)f->bytes + f->size);
  assert_int_equal(uns_frame_own(&got.packet), UNS_OK);
  memset(f->bytes, 0, f->size); /* the frame may go now */
  assert_memory_equal(as_lent(&got.packet, 0)->bytes, large, SIZE);
  assert_int_equal(as_lent(&got.packet, 1)->size_bytes, 5000);
  assert_int_equal(as_lent(&got.packet, 1)->bytes[4999], 'b');
  uns_message_deinit(&got);
  free(large);
}

static void cells_keep_their_identity(void **state) {
  fixture *f = *state;
  uns_cell *one = uns_cell_new(), *two = uns_cell_new();
  two->by_task = true;
  uns_packet packet;
  fill(&packet, "x", 1);
  add(&packet, uns_shared_ref(one));
  add(&packet, uns_shared_ref(two));
  add(&packet, uns_shared_ref(one));
  uns_message got;
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_ptr_equal(got.packet.refs[0], got.packet.refs[2]);
  assert_ptr_not_equal(got.packet.refs[0], got.packet.refs[1]);
  assert_true(((uns_cell *)(void *)got.packet.refs[1])->by_task);
  /* counted once per frame, however often they are in it */
  assert_int_equal(f->there.counts[1], 1);
  assert_int_equal(f->here.counts[1], 1);
  uns_message_deinit(&got);
  uns_packet_deinit(&packet);
  uns_shared_unref(one);
  uns_shared_unref(two);
}

static void outcomes_go_along_even_in_circles(void **state) {
  fixture *f = *state;
  uns_cell *one = uns_cell_new(), *two = uns_cell_new();
  uns_packet outcome;
  fill(&outcome, "holds two", 9);
  add(&outcome, uns_shared_ref(two));
  uns_cell_settle(one, UNS_CELL_DONE, &outcome);
  fill(&outcome, "holds one, and itself", 21);
  add(&outcome, uns_shared_ref(one));
  add(&outcome, uns_shared_ref(two));
  add(&outcome, lend("a string", 8));
  uns_cell_settle(two, UNS_CELL_FAILED, &outcome);
  uns_packet packet;
  fill(&packet, "x", 1);
  add(&packet, uns_shared_ref(one));
  uns_message got;
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  memset(f->bytes, 0, f->size); /* outcomes outlive the frame */
  uns_cell *first = (uns_cell *)(void *)got.packet.refs[0];
  assert_int_equal(uns_cell_peek(first), UNS_CELL_DONE);
  assert_memory_equal(first->outcome.bytes, "holds two", 9);
  uns_cell *second = (uns_cell *)(void *)first->outcome.refs[0];
  assert_int_equal(uns_cell_peek(second), UNS_CELL_FAILED);
  assert_ptr_equal(second->outcome.refs[0], first);
  assert_ptr_equal(second->outcome.refs[1], second);
  assert_memory_equal(as_lent(&second->outcome, 2)->bytes, "a string", 8);
  uns_message_deinit(&got);
  /* the second time only their numbers */
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_ptr_equal(got.packet.refs[0], first);
  uns_message_deinit(&got);
  uns_packet_deinit(&packet);
  uns_shared_unref(one);
  uns_shared_unref(two);
}

static void channels_go_as_numbers(void **state) {
  fixture *f = *state;
  uns_shared_channel *channel = uns_shared_channel_new(1);
  uns_packet packet;
  fill(&packet, "x", 1);
  add(&packet, uns_shared_ref(channel));
  add(&packet, uns_shared_ref(channel));
  exported_channels = 0;
  uns_message got;
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  assert_int_equal(exported_channels, 1);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_int_equal(got.packet.ref_count, 2);
  assert_ptr_equal(got.packet.refs[0], got.packet.refs[1]);
  assert_int_equal(got.packet.refs[0]->class->kind, UNS_SHARED_CHANNEL);
  uns_message_deinit(&got);

  uns_frame frame; /* one that is not sent after all counts for nothing */
  assert_int_equal(uns_frame_build(&frame, &f->out, &plain, &packet), UNS_OK);
  assert_int_equal(exported_channels, 2);
  uns_frame_abandon(&frame);
  assert_int_equal(exported_channels, 1);
  uns_packet_deinit(&packet);
  uns_shared_unref(channel);
}

static void what_cannot_leave_is_refused_and_nothing_counted(void **state) {
  fixture *f = *state;
  static const uns_shared_class other_class = {UNS_SHARED_SEARCH_PATH, "search path", free_lent};
  uns_lent *other = lend("", 0);
  other->base.class = &other_class;
  uns_cell *cell = uns_cell_new();
  uns_packet packet;
  fill(&packet, "x", 1);
  add(&packet, uns_shared_ref(cell));
  add(&packet, code_of("code"));
  add(&packet, other);
  assert_int_equal(write_frame(f, &plain, &packet), UNS_ECORRUPT);
  assert_int_equal(f->there.counts[1], 0);
  packet.ref_count = 2;
  uns_message got;
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_int_equal(as_code(&got.packet, 1)->size_bytes, 4);
  uns_message_deinit(&got);
  packet.ref_count = 3;
  uns_packet_deinit(&packet);
  uns_shared_unref(cell);
}

static void many_objects_stay_in_order(void **state) {
  fixture *f = *state;
  enum { COUNT = 3000 };
  uns_packet packet;
  fill(&packet, "x", 1);
  for (int i = 0; i < COUNT; i++) {
    char text[32];
    snprintf(text, sizeof text, "code %d", i % 1000);
    add(&packet, i % 3 == 0 && i >= 1000 ? uns_shared_ref(packet.refs[i % 1000]) : (uns_shared *)code_of(text));
  }
  uns_message got;
  assert_int_equal(write_frame(f, &plain, &packet), UNS_OK);
  assert_int_equal(uns_frame_read(&f->in, f->bytes, f->size, &got), UNS_OK);
  assert_int_equal(got.packet.ref_count, COUNT);
  for (int i = 0; i < COUNT; i++) {
    assert_memory_equal(as_code(&got.packet, (uint32_t)i)->hash, as_code(&packet, (uint32_t)i)->hash, 16);
  }
  uns_message_deinit(&got);
  uns_packet_deinit(&packet);
}

/* A frame with some of everything in it. */
static void write_rich(fixture *f) {
  uns_cell *settled = uns_cell_new();
  uns_packet packet, outcome;
  fill(&outcome, "outcome", 7);
  add(&outcome, lend("lent", 4));
  uns_cell_settle(settled, UNS_CELL_DONE, &outcome);
  fill(&packet, "some values", 11);
  add(&packet, code_of("some code"));
  add(&packet, settled);
  add(&packet, lend("a long string", 13));
  add(&packet, uns_cell_new());
  uns_search_path *path = uns_search_path_from("path\npath");
  uns_message message = {
      .words = {.kind = UNS_FRAME_CALL, .slot = 1}, .texts = {"name", "native"}, .search_path = path};
  f->out.book.forget = true;
  assert_int_equal(write_frame(f, &message, &packet), UNS_OK);
  uns_shared_unref(path);
  uns_packet_deinit(&packet);
}

static void try_reading(fixture *f, const uint8_t *bytes, size_t size) {
  uint8_t *exact = malloc(size == 0 ? 1 : size); /* so that a checker sees every byte read past it */
  memcpy(exact, bytes, size);
  uns_port in;
  uns_port_init(&in, &ops, &f->here);
  uns_message got;
  if (uns_frame_read(&in, exact, size, &got) == UNS_OK) {
    uns_frame_own(&got.packet);
    uns_message_deinit(&got);
  }
  uns_port_deinit(&in);
  free(exact);
}

static void no_bytes_bring_the_reader_down(void **state) {
  fixture *f = *state;
  write_rich(f);
  for (size_t size = 0; size < f->size; size++)
    try_reading(f, f->bytes, size); /* cut short, and the size says so or not */
  uint8_t *copy = malloc(f->size + 1);
  for (size_t at = 0; at < f->size; at++) {
    for (int change = 0; change < 4; change++) {
      memcpy(copy, f->bytes, f->size);
      copy[at] = (uint8_t[]){(uint8_t)(copy[at] ^ 1), (uint8_t)(copy[at] ^ 0x80), 0, 0xff}[change];
      try_reading(f, copy, f->size);
    }
  }
  uint32_t seed = 20221127;
  for (int round = 0; round < 20000; round++) {
    memcpy(copy, f->bytes, f->size);
    seed = seed * 1664525 + 1013904223;
    for (uint32_t changes = seed >> 28; changes > 0; changes--) {
      seed = seed * 1664525 + 1013904223;
      copy[16 + (seed >> 8) % (f->size - 16)] = (uint8_t)seed;
    }
    try_reading(f, copy, f->size);
  }
  free(copy);
}

static void memory_may_run_out_anywhere(void **state) {
  fixture *f = *state;
  uns_search_path *path = uns_search_path_from("path\npath");
  for (long countdown = 1;; countdown++) {
    uns_port_deinit(&f->out);
    uns_port_init(&f->out, &ops, &f->there);
    uns_packet packet;
    fill(&packet, "some values", 11);
    add(&packet, code_of("some code"));
    add(&packet, lend("a long string", 13));
    for (int i = 0; i < 40; i++) add(&packet, code_of((const char[]){(char)('0' + i), 0}));
    uns_message message = {.words = {.kind = UNS_FRAME_CALL}, .texts = {"name"}, .search_path = path};
    uns_frame frame;
    uns_alloc_fail_after(countdown);
    int status = uns_frame_build(&frame, &f->out, &message, &packet);
    uns_alloc_fail_after(0);
    if (status == UNS_OK) {
      uns_frame_abandon(&frame);
      uns_packet_deinit(&packet);
      break;
    }
    assert_int_equal(status, UNS_ENOMEM);
    assert_int_equal(write_frame(f, &message, &packet), UNS_OK); /* as if nothing had been */
    uns_packet_deinit(&packet);
  }
  uns_shared_unref(path);
  write_rich(f);
  for (long countdown = 1;; countdown++) {
    uns_port in;
    uns_message got;
    uns_port_init(&in, &ops, &f->here);
    uns_alloc_fail_after(countdown);
    int status = uns_frame_read(&in, f->bytes, f->size, &got);
    uns_alloc_fail_after(0);
    if (status == UNS_OK) uns_message_deinit(&got);
    uns_port_deinit(&in);
    if (status == UNS_OK) break;
    assert_int_equal(status, UNS_ENOMEM);
  }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(a_call_arrives_as_it_was),
      TEST(the_end_of_a_call_arrives_as_it_was),
      TEST(code_goes_over_once),
      TEST(code_of_an_abandoned_frame_goes_over_again),
      TEST(code_without_end_does_not_pile_up),
    TEST(code_piles_up_for_no_writer_that_never_forgets),
      TEST(code_whose_hash_does_not_fit_is_refused),
      TEST(long_strings_are_gathered_and_read_where_they_lie),
      TEST(cells_keep_their_identity),
      TEST(outcomes_go_along_even_in_circles),
      TEST(channels_go_as_numbers),
      TEST(what_cannot_leave_is_refused_and_nothing_counted),
      TEST(many_objects_stay_in_order),
      TEST(no_bytes_bring_the_reader_down),
      TEST(memory_may_run_out_anywhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
