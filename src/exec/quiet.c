/*
 * quiet: what a worker process says of its states while they stand still: silence.h. On the thread that listens to the host.
 */
#include <string.h>

#include "exec/silence.h"

typedef struct {
  uns_quiet_report report;
  uns_quiet_edge edges[UNS_QUIET_EDGES_MAX];
  uns_text texts;
} description;

static uns_quiet_who who(description *all, uns_task *task, uns_task *chain_from) {
  if (task == NULL) return (uns_quiet_who){.task = 0};
  uns_quiet_who found = {.since_ns = uns_task_since_ns(task),
                         .runtime = (uintptr_t)uns_runtime_of(task->co),
                         .task = task->id,
                         .wait = task->wait,
                         .text_at = (uint32_t)all->texts.size_bytes};
  uns_deadlock_add_chain(&all->texts, chain_from, true);
  found.text_bytes = (uint32_t)(all->texts.size_bytes - found.text_at);
  return found;
}

/* The chain from `start` on. */
static void add_edge(description *all, uns_quiet_from kind, uint64_t from, uns_task *start) {
  if (start == NULL || start->state != UNS_TASK_PARKED || all->report.edge_count == UNS_QUIET_EDGES_MAX) return;
  uns_quiet_edge edge = {.from_kind = kind, .from = from};
  uns_chain_link end;
  uns_task *in_cycle = uns_chain_follow(start, true, &end);
  edge.to_kind = in_cycle != NULL ? UNS_BEHIND_TASK : end.kind == UNS_BEHIND_TASK ? UNS_BEHIND_NOBODY : end.kind;
  if (edge.to_kind == UNS_BEHIND_JOB) edge.to = end.job->id;
  if (edge.to_kind == UNS_BEHIND_CELL) edge.to = end.cell->remote_id;
  uns_task *youngest = in_cycle != NULL ? in_cycle : uns_chain_youngest(start);
  edge.youngest = who(all, youngest, in_cycle != NULL ? in_cycle : start);
  all->edges[all->report.edge_count++] = edge;
}

int uns_quiet_describe(uns_parties *parties, uns_runtime *main, const uns_quiet_cell *cells, uint32_t cell_count,
                       uns_packet *packet) {
  description *all = uns_calloc(1, sizeof *all);
  if (all == NULL) return UNS_ENOMEM;
  uns_task *cause = uns_deadlock_find_cause(parties), *youngest = uns_deadlock_find_youngest(parties);
  all->report.cause = who(all, cause, cause);
  all->report.youngest = who(all, youngest, youngest);
  if (main != NULL) add_edge(all, UNS_QUIET_ROOT, 0, uns_chain_root(main));
  for (uint32_t i = 0; i < cell_count; i++) add_edge(all, UNS_QUIET_CELL, cells[i].id, cells[i].cell->task);
  all->report.text_bytes = (uint32_t)all->texts.size_bytes;
  size_t edge_bytes = all->report.edge_count * sizeof *all->edges;
  uint8_t *to = all->texts.lost ? NULL
                                : uns_packet_grow(packet, sizeof all->report + edge_bytes + all->report.text_bytes);
  if (to != NULL) {
    memcpy(to, &all->report, sizeof all->report);
    memcpy(to + sizeof all->report, all->edges, edge_bytes);
    if (all->report.text_bytes > 0)
      memcpy(to + sizeof all->report + edge_bytes, all->texts.bytes, all->report.text_bytes);
  }
  uns_free(all->texts.bytes);
  uns_free(all);
  return to != NULL ? UNS_OK : UNS_ENOMEM;
}
