/* ring: bytes arrive in order and whole, over the end of the memory and back, whatever the other side does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/ring.h"

typedef struct {
  uns_wire host, child; /* two views of the same memory, as in two processes */
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  *state = f;
  int fd = uns_wire_create();
  if (f == NULL || fd < 0 || uns_wire_map(&f->host, fd) != 0 || uns_wire_map(&f->child, fd) != 0) return -1;
  close(fd);
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  uns_wire_unmap(&f->host);
  uns_wire_unmap(&f->child);
  free(f);
  return 0;
}

static void put(uns_ring *ring, const void *bytes, size_t size) {
  assert_true(uns_ring_room(ring) >= (int64_t)size);
  memcpy(uns_ring_place(ring), bytes, size);
  uns_ring_publish(ring, size);
}

static void what_is_written_can_be_read(void **state) {
  fixture *f = *state;
  const uint8_t *bytes;
  assert_int_equal(uns_ring_peek(&f->child.to_child, &bytes), 0);
  assert_false(uns_ring_has_news(&f->child.to_child));
  put(&f->host.to_child, "hello", 5);
  assert_true(uns_ring_has_news(&f->child.to_child));
  assert_int_equal(uns_ring_peek(&f->child.to_child, &bytes), 5);
  assert_memory_equal(bytes, "hello", 5);
  assert_false(uns_ring_consume(&f->child.to_child, 5));
  assert_false(uns_ring_has_news(&f->child.to_child));
  /* the other direction knows nothing of it */
  assert_int_equal(uns_ring_peek(&f->host.to_host, &bytes), 0);
}

static void an_empty_ring_begins_at_its_beginning_again(void **state) {
  fixture *f = *state;
  const uint8_t *first, *bytes;
  put(&f->host.to_child, "one", 3);
  uns_ring_peek(&f->child.to_child, &first);
  uns_ring_consume(&f->child.to_child, 3);
  for (int i = 0; i < 100; i++) {
    put(&f->host.to_child, "more", 4);
    assert_int_equal(uns_ring_peek(&f->child.to_child, &bytes), 4);
    assert_ptr_equal(bytes, first);
    uns_ring_consume(&f->child.to_child, 4);
  }
}

static void what_goes_over_the_end_lies_in_one_piece(void **state) {
  fixture *f = *state;
  const size_t most = UNS_RING_BYTES - 10;
  uint8_t *pattern = malloc(UNS_RING_BYTES);
  for (size_t i = 0; i < UNS_RING_BYTES; i++) pattern[i] = (uint8_t)(i * 31 + i / 251);
  put(&f->host.to_child, pattern, most);
  const uint8_t *bytes;
  assert_int_equal(uns_ring_peek(&f->child.to_child, &bytes), (int64_t)most);
  uns_ring_consume(&f->child.to_child, most - 1); /* not empty, so it goes on where it was */
  put(&f->host.to_child, pattern, 1000);
  assert_int_equal(uns_ring_peek(&f->child.to_child, &bytes), 1001);
  assert_memory_equal(bytes + 1, pattern, 1000);
  free(pattern);
}

static void a_full_ring_has_no_room_and_wakes_its_writer(void **state) {
  fixture *f = *state;
  uns_ring *writer = &f->host.to_child, *reader = &f->child.to_child;
  assert_int_equal(uns_ring_room(writer), UNS_RING_BYTES);
  memset(uns_ring_place(writer), 1, UNS_RING_BYTES);
  uns_ring_publish(writer, UNS_RING_BYTES);
  assert_int_equal(uns_ring_room(writer), 0);
  assert_true(uns_ring_ask_for_room(writer, 0));
  const uint8_t *bytes;
  assert_int_equal(uns_ring_peek(reader, &bytes), UNS_RING_BYTES);
  assert_true(uns_ring_consume(reader, 100)); /* tells once */
  assert_false(uns_ring_consume(reader, 100));
  assert_int_equal(uns_ring_room(writer), 200);
  assert_false(uns_ring_ask_for_room(writer, 0)); /* there is room already */
}

static void senseless_positions_are_found_out(void **state) {
  fixture *f = *state;
  const uint8_t *bytes;
  atomic_store(&f->child.board->to_host.tail, (uint64_t)UNS_RING_BYTES + 1);
  assert_int_equal(uns_ring_peek(&f->host.to_host, &bytes), UNS_RING_BAD);
  atomic_store(&f->child.board->to_host.tail, UINT64_MAX);
  assert_int_equal(uns_ring_peek(&f->host.to_host, &bytes), UNS_RING_BAD);
  atomic_store(&f->child.board->to_child.head, 1);
  assert_int_equal(uns_ring_room(&f->host.to_child), UNS_RING_BAD);
  /* whatever the origin says, the bytes lie in the memory */
  atomic_store(&f->child.board->to_host.tail, 64);
  atomic_store(&f->child.board->to_host.origin, 0x123456789abcdefu);
  assert_int_equal(uns_ring_peek(&f->host.to_host, &bytes), 64);
  assert_true(bytes >= f->host.to_host.data && bytes < f->host.to_host.data + UNS_RING_BYTES);
}

static void the_memory_cannot_be_made_smaller(void **state) {
  (void)state;
  int fd = uns_wire_create();
  assert_true(fd >= 0);
  assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  assert_int_equal(ftruncate(fd, 0), -1);
  assert_int_equal(errno, EPERM);
  close(fd);
}

static void new_memory_takes_the_old_ones_place(void **state) {
  fixture *f = *state;
  put(&f->host.to_child, "old", 3);
  void *base = f->host.base;
  int fd = uns_wire_create();
  assert_int_equal(uns_wire_map(&f->host, fd), 0);
  close(fd);
  assert_ptr_equal(f->host.base, base);
  assert_int_equal(uns_ring_room(&f->host.to_child), UNS_RING_BYTES);
  const uint8_t *bytes;
  assert_int_equal(uns_ring_peek(&f->child.to_child, &bytes), 3); /* who still has it keeps the old one */
}

/* Two threads, or two processes: pieces of odd sizes, more bytes in all than the ring holds many times over. */
enum { STREAM_BYTES = 40 * 1000 * 1000 };

static void write_stream(uns_ring *ring) {
  uint32_t seed = 1;
  for (uint64_t done = 0; done < STREAM_BYTES;) {
    seed = seed * 1664525 + 1013904223;
    size_t size = seed >> 8 & 0xfff;
    if (size > STREAM_BYTES - done) size = (size_t)(STREAM_BYTES - done);
    int64_t room = uns_ring_room(ring);
    if ((int64_t)size > room) {
      sched_yield();
      continue;
    }
    uint8_t *place = uns_ring_place(ring);
    for (size_t i = 0; i < size; i++) place[i] = (uint8_t)((done + i) * 7 >> 3);
    uns_ring_publish(ring, size);
    done += size;
  }
}

static int read_stream(uns_ring *ring) {
  for (uint64_t done = 0; done < STREAM_BYTES;) {
    const uint8_t *bytes;
    int64_t there = uns_ring_peek(ring, &bytes);
    if (there < 0) return 1;
    if (there == 0) sched_yield();
    for (int64_t i = 0; i < there; i++) {
      if (bytes[i] != (uint8_t)((done + (uint64_t)i) * 7 >> 3)) return 2;
    }
    done += (uint64_t)there;
    uns_ring_consume(ring, (size_t)there);
  }
  return 0;
}

static void *stream_writer(void *ring) {
  write_stream(ring);
  return NULL;
}

static void a_stream_arrives_between_threads(void **state) {
  fixture *f = *state;
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, stream_writer, &f->host.to_child), 0);
  assert_int_equal(read_stream(&f->child.to_child), 0);
  pthread_join(thread, NULL);
}

static void a_stream_arrives_between_processes(void **state) {
  fixture *f = *state;
  pid_t pid = fork();
  if (pid == 0) _exit(read_stream(&f->child.to_child));
  write_stream(&f->host.to_child);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(what_is_written_can_be_read),
      TEST(an_empty_ring_begins_at_its_beginning_again),
      TEST(what_goes_over_the_end_lies_in_one_piece),
      TEST(a_full_ring_has_no_room_and_wakes_its_writer),
      TEST(senseless_positions_are_found_out),
      TEST(the_memory_cannot_be_made_smaller),
      TEST(new_memory_takes_the_old_ones_place),
      TEST(a_stream_arrives_between_threads),
      TEST(a_stream_arrives_between_processes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
