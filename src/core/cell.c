#include "core/cell.h"

static void cell_free(uns_shared *object);
static const uns_shared_class cell_class = {UNS_SHARED_CELL, "future", cell_free};

/* Lets go of what the outcome of `cell` refers to. Cells whose last reference that was go to `dead`, linked by `watchers`. */
static void drop_outcome(uns_cell *cell, uns_link **dead) {
  uns_packet *outcome = &cell->outcome;
  for (uint32_t i = 0; i < outcome->ref_count; i++) {
    uns_shared *shared = outcome->refs[i];
    if (shared == &cell->base) continue; /* not counted */
    if (shared->class != &cell_class) {
      uns_shared_unref(shared);
    } else if (uns_shared_drop(shared)) {
      uns_link *link = &uns_container_of(shared, uns_cell, base)->watchers; /* nobody watches what nobody holds */
      link->next = *dead;
      *dead = link;
    }
  }
  outcome->ref_count = 0;
  uns_packet_deinit(outcome);
}

/* One future may hold the next, in a chain of any length: without recursion. */
static void cell_free(uns_shared *object) {
  uns_link *dead = &uns_container_of(object, uns_cell, base)->watchers;
  dead->next = NULL;
  while (dead != NULL) {
    uns_cell *cell = uns_container_of(dead, uns_cell, watchers);
    dead = dead->next;
    if (cell->remote != NULL) cell->remote->drop(cell->remote, cell);
    if (cell->workplace.mailbox != NULL) uns_mailbox_unref(cell->workplace.mailbox);
    drop_outcome(cell, &dead);
    uv_mutex_destroy(&cell->lock);
    uns_free(cell);
  }
}

/* A future may be settled with itself: that reference is not counted, else it would never go. The lock held. */
static void uncount_own(uns_cell *cell) {
  for (uint32_t i = 0; i < cell->outcome.ref_count; i++) {
    if (cell->outcome.refs[i] == &cell->base) uns_shared_drop(&cell->base); /* whoever settles holds one more */
  }
}

uns_cell *uns_cell_new(void) {
  uns_cell *cell = uns_malloc(sizeof *cell);
  if (cell == NULL) return NULL;
  if (uv_mutex_init(&cell->lock) != 0) {
    uns_free(cell);
    return NULL;
  }
  uns_shared_init(&cell->base, &cell_class);
  cell->state = UNS_CELL_PENDING;
  uns_packet_init(&cell->outcome);
  uns_list_init(&cell->watchers);
  cell->remote = NULL;
  cell->remote_id = 0;
  atomic_init(&cell->looked_at, false);
  cell->task = cell->job = NULL;
  cell->workplace = (uns_cell_workplace){.mailbox = NULL};
  cell->by_task = false;
  return cell;
}

bool uns_cell_bind(uns_cell *cell, uns_cell_remote *remote, uint64_t id) {
  uv_mutex_lock(&cell->lock);
  bool bound = cell->remote == NULL && cell->state == UNS_CELL_PENDING;
  if (bound) {
    cell->remote = remote;
    cell->remote_id = id;
  }
  uv_mutex_unlock(&cell->lock);
  return bound;
}

void uns_cell_look_at(uns_cell *cell) {
  if (atomic_exchange_explicit(&cell->looked_at, true, memory_order_relaxed)) return;
  uv_mutex_lock(&cell->lock);
  uns_cell_remote *remote = cell->remote;
  uv_mutex_unlock(&cell->lock);
  if (remote != NULL) remote->looked_at(remote, cell);
}

bool uns_cell_is_remote(uns_cell *cell) {
  uv_mutex_lock(&cell->lock);
  bool remote = cell->remote != NULL;
  uv_mutex_unlock(&cell->lock);
  return remote;
}

bool uns_cell_settle(uns_cell *cell, uns_cell_state state, uns_packet *outcome) {
  uv_mutex_lock(&cell->lock);
  uns_cell_remote *remote = cell->state == UNS_CELL_PENDING ? cell->remote : NULL;
  uv_mutex_unlock(&cell->lock);
  if (remote != NULL) return remote->settle(remote, cell, state, outcome);
  return uns_cell_settle_here(cell, state, outcome);
}

bool uns_cell_settle_here(uns_cell *cell, uns_cell_state state, uns_packet *outcome) {
  uns_mailbox *workplace = NULL;
  uv_mutex_lock(&cell->lock);
  bool first = cell->state == UNS_CELL_PENDING;
  if (first) {
    uns_packet_move(&cell->outcome, outcome);
    uncount_own(cell);
    cell->state = state;
    workplace = cell->workplace.mailbox;
    cell->workplace.mailbox = NULL;
    /* Told under the lock: a watcher that is unwatched at this moment must know that its notice is on its way. */
    uns_link *link;
    while ((link = uns_list_pop_front(&cell->watchers)) != NULL) {
      uns_cell_watcher *watcher = uns_container_of(link, uns_cell_watcher, link);
      uns_mailbox_post(watcher->mailbox, &watcher->mail);
    }
  }
  uv_mutex_unlock(&cell->lock);
  if (workplace != NULL) uns_mailbox_unref(workplace);
  if (!first) uns_packet_deinit(outcome);
  return first;
}

void uns_cell_set_workplace(uns_cell *cell, const uns_cell_workplace *place) {
  cell->workplace = *place;
  uns_mailbox_ref(place->mailbox);
}

void uns_cell_stop_free(uns_cell_stop *stop) {
  uns_packet_deinit(&stop->reason);
  uns_shared_unref(stop->cell);
  uns_free(stop);
}

/* Do more watch it than those? The lock held. */
static bool has_others(const uns_cell *cell, uint32_t watchers) {
  const uns_link *link = cell->watchers.next;
  while (watchers > 0 && link != &cell->watchers) {
    link = link->next;
    watchers--;
  }
  return link != &cell->watchers;
}

bool uns_cell_is_watched(uns_cell *cell) {
  uv_mutex_lock(&cell->lock);
  bool watched = has_others(cell, cell->workplace.watchers);
  uv_mutex_unlock(&cell->lock);
  return watched;
}

/* Puts a request into the mailbox, of which a reference is taken over. UNS_OK or UNS_ENOMEM. */
static int post_stop(uns_cell *cell, uns_mailbox *mailbox, uns_stop how, uns_packet *reason) {
  uns_cell_stop *stop = uns_malloc(sizeof *stop);
  if (stop != NULL) {
    stop->mail.deliver = cell->workplace.deliver;
    stop->cell = uns_shared_ref(cell);
    stop->how = how;
    uns_packet_init(&stop->reason);
    uns_packet_move(&stop->reason, reason);
    uns_mailbox_post(mailbox, &stop->mail);
  } else {
    uns_packet_deinit(reason);
  }
  uns_mailbox_unref(mailbox);
  return stop != NULL ? UNS_OK : UNS_ENOMEM;
}

bool uns_cell_stop_work_here(uns_cell *cell, uns_stop how, uint32_t watchers, uns_packet *reason, int *status) {
  uns_mailbox *mailbox = NULL;
  uv_mutex_lock(&cell->lock);
  bool wanted = how == UNS_STOP_UNWANTED && has_others(cell, watchers + cell->workplace.watchers);
  if (cell->workplace.mailbox != NULL && !wanted) mailbox = uns_mailbox_ref(cell->workplace.mailbox);
  uv_mutex_unlock(&cell->lock);
  *status = UNS_OK;
  if (mailbox == NULL) uns_packet_deinit(reason);
  else *status = post_stop(cell, mailbox, how, reason);
  return mailbox != NULL && *status == UNS_OK;
}

bool uns_cell_stop_work(uns_cell *cell, uns_stop how, uns_packet *reason, int *status) {
  uv_mutex_lock(&cell->lock);
  bool pending = cell->state == UNS_CELL_PENDING, here = cell->workplace.mailbox != NULL;
  uns_cell_remote *remote = cell->remote;
  bool wanted = how == UNS_STOP_UNWANTED && has_others(cell, 1);
  uv_mutex_unlock(&cell->lock);
  bool elsewhere = pending && !here && remote != NULL && cell->by_task;
  if (!elsewhere) return uns_cell_stop_work_here(cell, how, 1, reason, status);
  if (!wanted) return remote->stop(remote, cell, how, reason, status);
  uns_packet_deinit(reason);
  *status = UNS_OK;
  return false;
}

uns_cell_state uns_cell_peek(uns_cell *cell) {
  uv_mutex_lock(&cell->lock);
  uns_cell_state state = cell->state;
  uv_mutex_unlock(&cell->lock);
  return state;
}

void uns_cell_watch(uns_cell *cell, uns_cell_watcher *watcher) {
  uns_list_init(&watcher->link);
  uv_mutex_lock(&cell->lock);
  if (cell->state == UNS_CELL_PENDING) uns_list_push_back(&cell->watchers, &watcher->link);
  else uns_mailbox_post(watcher->mailbox, &watcher->mail);
  uv_mutex_unlock(&cell->lock);
}

bool uns_cell_unwatch(uns_cell *cell, uns_cell_watcher *watcher) {
  uv_mutex_lock(&cell->lock);
  bool listed = !uns_list_empty(&watcher->link);
  if (listed) uns_list_remove(&watcher->link);
  uv_mutex_unlock(&cell->lock);
  return listed;
}
