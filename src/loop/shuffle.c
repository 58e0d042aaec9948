/*
 * shuffle: ready tasks in an order that depends on a seed, so that a test sees more orders than the one of arrival, and
 * can see each of them again.
 *
 *   - What is ready at the same time may run in any order; what becomes ready later runs later, as ever. A task that
 *     yielded runs behind all that were ready before it: that is what yielding is for.
 *   - The dice are rolled once for each task that is ready beside others: the same seed and the same program make the
 *     same order, as long as nothing from outside (a thread, the network) comes in between.
 */
#include <stdlib.h>

#include "loop/task.h"

/* splitmix64: any state is a good one. */
static uint32_t roll(uns_runtime *runtime) {
  uint64_t z = runtime->shuffle += UINT64_C(0x9e3779b97f4a7c15);
  if (runtime->shuffle == 0) runtime->shuffle = 1; /* 0 is for none */
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (uint32_t)((z ^ (z >> 31)) >> 32);
}

typedef struct {
  uint32_t key, place;
  uns_link *link;
} card;

static int compare(const void *a, const void *b) {
  const card *x = a, *y = b;
  if (x->key != y->key) return x->key < y->key ? -1 : 1;
  return x->place < y->place ? -1 : x->place > y->place;
}

void uns_shuffle(uns_runtime *runtime, uns_link *batch) {
  uint32_t count = 0;
  for (const uns_link *link = batch->next; link != batch; link = link->next) count++;
  if (count < 2) {
    if (count == 1) uns_container_of(batch->next, uns_task, timer.link)->gave_way = false;
    return;
  }
  card *cards = uns_malloc(count * sizeof *cards);
  if (cards == NULL) return; /* they run in the order they came, then */
  uint32_t place = 0, most = 0;
  for (uns_link *link = batch->next; link != batch; link = link->next, place++) {
    uns_task *task = uns_container_of(link, uns_task, timer.link);
    uint32_t key = roll(runtime);
    if (key > most) most = key;
    cards[place] = (card){.key = task->gave_way ? most : key, .place = place, .link = link};
    task->gave_way = false;
  }
  qsort(cards, count, sizeof *cards, compare);
  uns_list_init(batch);
  for (uint32_t i = 0; i < count; i++) {
    uns_list_init(cards[i].link);
    uns_list_push_back(batch, cards[i].link);
  }
  uns_free(cards);
}
