/*
 * parent_cells: futures of the host that this worker process knows, and its own that the host does: a stand-in for each.
 *
 *   - A stand-in settles when the host says so; whoever settles it here asks the host, which knows who was first.
 *   - A number is counted each time it comes and each time it goes, and what is held is given back with the last stand-in,
 *     since news of it and frames that carry it travel on different streams.
 *   - A cell that was made here becomes a stand-in when it first goes over while it is pending.
 * The way to the host: parent.c. The host's side: exports.c.
 */
#include "exec/parent_inside.h"

/* A cell of the host that is known here. */
typedef struct proxy {
  uint64_t id;
  uns_cell *cell;  /* the stand-in; not counted: it tells us when it goes. NULL: only `early` */
  uns_cell *early; /* one reference: it settled before a reference to it had arrived */
  uint64_t held;   /* references that came and are not given back */
  uint64_t sent;   /* how often its number went to the host */
} proxy;

/* A new stand-in for `id`, pending. */
static uns_cell *stand_in(uns_parent *parent, uint64_t id, bool by_task) {
  uns_cell *cell = uns_cell_new();
  if (cell == NULL) return NULL;
  cell->by_task = by_task;
  uns_cell_bind(cell, &parent->remote, id);
  return cell;
}

/* The lock held. */
static proxy *add_proxy(uns_parent *parent, uint64_t id) {
  proxy *added = uns_calloc(1, sizeof *added);
  if (added == NULL) return NULL;
  added->id = id;
  if (uns_table_put(&parent->proxies, id, added)) return added;
  uns_free(added);
  return NULL;
}

/* The number of a stand-in; 0: it is a cell of this process alone. */
static uint64_t number_of(const uns_parent *parent, uns_cell *cell) {
  uv_mutex_lock(&cell->lock);
  uint64_t id = cell->remote == &parent->remote ? cell->remote_id : 0;
  uv_mutex_unlock(&cell->lock);
  return id;
}

static int export_cell(void *owner, uns_cell *cell, uint64_t *id, bool *tell) {
  uns_parent *parent = owner;
  *tell = false;
  uv_mutex_lock(&parent->lock);
  *id = number_of(parent, cell);
  if (*id != 0) {
    proxy *known = uns_table_get(&parent->proxies, *id);
    known->sent++;
    uv_mutex_unlock(&parent->lock);
    return UNS_OK;
  }
  int status = UNS_OK;
  if (uns_cell_peek(cell) == UNS_CELL_PENDING) {
    /* From now on the host's is the real one, and settling goes there. */
    proxy *made = add_proxy(parent, UNS_PARENT_MADE_HERE | (parent->last_made + 1));
    if (made == NULL) {
      status = UNS_ENOMEM;
    } else if (uns_cell_bind(cell, &parent->remote, made->id)) {
      parent->last_made++;
      made->cell = cell;
      made->held = made->sent = 1;
      *id = made->id;
    } else { /* settled in this moment */
      uns_table_take(&parent->proxies, made->id);
      uns_free(made);
    }
  }
  uv_mutex_unlock(&parent->lock);
  *tell = status == UNS_OK && *id == 0;
  return status;
}

static void unexport_cell(void *owner, uint64_t id, bool told) {
  uns_parent *parent = owner;
  (void)told;
  if (id == 0) return;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  known->sent--;
  uv_mutex_unlock(&parent->lock);
}

static int import_cell(void *owner, uint64_t id, bool by_task, uns_cell **cell) {
  uns_parent *parent = owner;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  if (known == NULL) known = add_proxy(parent, id);
  if (known != NULL && known->cell != NULL && uns_shared_try_ref(known->cell)) {
    *cell = known->cell;
  } else if (known != NULL && known->early != NULL) {
    *cell = known->cell = known->early;
    known->early = NULL;
  } else if (known != NULL) { /* the last stand-in, if there was one, is going; it will find itself replaced */
    uns_cell *fresh = stand_in(parent, id, by_task);
    if (fresh != NULL) *cell = known->cell = fresh;
    else known = NULL;
  }
  if (known != NULL) known->held++;
  uv_mutex_unlock(&parent->lock);
  return known != NULL ? UNS_OK : UNS_ENOMEM;
}

static void import_outcome(void *owner, uns_cell *cell, uint64_t id, uns_cell_state state, uns_packet *outcome) {
  (void)owner;
  (void)id;
  uns_cell_settle_here(cell, state, outcome);
}

const uns_port_ops uns_parent_ops = {export_cell,
                                     unexport_cell,
                                     import_cell,
                                     import_outcome,
                                     uns_parent_export_channel,
                                     uns_parent_unexport_channel,
                                     uns_parent_import_channel};

/* The last reference to a stand-in is gone: the host may let go, too. */
static void drop(uns_cell_remote *remote, uns_cell *cell) {
  uns_parent *parent = uns_container_of(remote, uns_parent, remote);
  uns_message message = {.words = {.kind = UNS_FRAME_UNREF, .id = cell->remote_id}};
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, cell->remote_id);
  bool ours = known != NULL && (known->cell == cell || known->cell == NULL);
  if (ours) {
    message.words.count = known->held;
    message.words.request = known->sent;
    known->held = known->sent = 0;
    known->cell = NULL;
    if (known->early == NULL) uns_free(uns_table_take(&parent->proxies, known->id));
  }
  uv_mutex_unlock(&parent->lock);
  if (ours) uns_parent_send(parent, &message, NULL);
}

/* Asks the host, and waits for what it says: it knows who was first. */
static bool ask_to_settle(uns_parent *parent, uns_message *message, const uns_packet *outcome) {
  uns_message answer;
  int status = uns_parent_ask(parent, message, outcome, &answer);
  if (status == UNS_ENOMEM || status == UNS_ECORRUPT) {
    message->words.state = UNS_CELL_FAILED;
    status = uns_parent_ask(parent, message, NULL, &answer);
  }
  bool first = status == UNS_OK && answer.words.first != 0;
  if (status == UNS_OK) uns_message_deinit(&answer);
  return first;
}

/* The host has to know before it hears how the call has ended, for that may be the end of the script. */
static void looked_at(uns_cell_remote *remote, uns_cell *cell) {
  uns_parent *parent = uns_container_of(remote, uns_parent, remote);
  uns_message message = {.words = {.kind = UNS_FRAME_LOOKED, .id = cell->remote_id}};
  uns_message answer;
  if (uns_parent_ask(parent, &message, NULL, &answer) == UNS_OK) uns_message_deinit(&answer);
}

static bool settle(uns_cell_remote *remote, uns_cell *cell, uns_cell_state state, uns_packet *outcome) {
  uns_parent *parent = uns_container_of(remote, uns_parent, remote);
  uns_message message = {
      .words = {.kind = UNS_FRAME_SETTLE, .id = cell->remote_id, .state = state, .by_task = cell->by_task}};
  if (ask_to_settle(parent, &message, outcome)) return uns_cell_settle_here(cell, state, outcome);
  uns_packet_deinit(outcome);
  return false;
}

/* The host's to be asked: when it has answered, the request is where it belongs, and comes before the end of this call. */
static bool stop_work(uns_cell_remote *remote, uns_cell *cell, uns_stop how, uns_packet *reason, int *status) {
  uns_parent *parent = uns_container_of(remote, uns_parent, remote);
  uns_message message = {.words = {.kind = UNS_FRAME_STOP, .id = cell->remote_id, .first = how == UNS_STOP_UNWANTED}};
  uns_message answer;
  *status = uns_parent_ask(parent, &message, reason, &answer);
  if (*status == UNS_ECORRUPT) *status = uns_parent_ask(parent, &message, NULL, &answer); /* then without the reason */
  uns_packet_deinit(reason);
  if (*status != UNS_OK) return false;
  bool asked = answer.words.first != 0;
  uns_message_deinit(&answer);
  return asked;
}

/* The host wants the work behind a cell of ours to be stopped. */
int uns_parent_on_stop(uns_parent *parent, uns_message *message) {
  uns_cell *cell = NULL;
  int status = uns_frame_own(&message->packet);
  if (status != UNS_OK) return status;
  uv_mutex_lock(&parent->lock);
  const proxy *known = uns_table_get(&parent->proxies, message->words.id);
  if (known != NULL && known->cell != NULL && uns_shared_try_ref(known->cell)) cell = known->cell;
  uv_mutex_unlock(&parent->lock);
  uns_stop how = message->words.first ? UNS_STOP_UNWANTED : UNS_STOP;
  if (cell != NULL) uns_cell_stop_work_here(cell, how, 0, &message->packet, &status);
  uns_shared_unref(cell);
  return status;
}

/* The host says how a cell has ended. */
int uns_parent_on_settled(uns_parent *parent, uns_message *message) {
  uint64_t id = message->words.id;
  uns_cell_state state = (uns_cell_state)message->words.state;
  uns_cell *cell = NULL, *early = NULL;
  if (uns_frame_own(&message->packet) != UNS_OK) return UNS_ENOMEM;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  if (known != NULL && known->cell != NULL && uns_shared_try_ref(known->cell)) {
    cell = known->cell;
  } else if (known == NULL || known->early == NULL) {
    early = stand_in(parent, id, false);
    if (early != NULL && known == NULL) known = add_proxy(parent, id);
    if (early != NULL && known != NULL) { /* settled before anybody can see it */
      uns_cell_settle_here(early, state, &message->packet);
      known->early = early;
      known->cell = NULL;
      early = NULL;
    } else {
      known = NULL;
    }
  }
  uv_mutex_unlock(&parent->lock);
  if (cell != NULL) uns_cell_settle_here(cell, state, &message->packet);
  uns_shared_unref(cell);
  uns_shared_unref(early);
  return known != NULL ? UNS_OK : UNS_ENOMEM;
}

void uns_parent_on_forget(uns_parent *parent, uint64_t id) {
  uns_cell *early = NULL;
  uv_mutex_lock(&parent->lock);
  proxy *known = uns_table_get(&parent->proxies, id);
  if (known != NULL && known->cell == NULL) {
    early = known->early;
    uns_free(uns_table_take(&parent->proxies, id));
  }
  uv_mutex_unlock(&parent->lock);
  uns_shared_unref(early);
}

uint32_t uns_parent_find_cells(uns_parent *parent, uns_quiet_cell *cells) {
  uint32_t count = 0;
  uv_mutex_lock(&parent->lock);
  for (uint32_t i = 0; i < parent->proxies.size && count < UNS_QUIET_EDGES_MAX; i++) {
    const proxy *known = parent->proxies.entries[i].value;
    if (known == NULL || known->cell == NULL || (known->id & UNS_PARENT_MADE_HERE) == 0) continue;
    uns_cell *cell = known->cell; /* whose last step is to tell us, under our lock */
    if (cell->task == NULL || uns_cell_peek(cell) != UNS_CELL_PENDING || !uns_shared_try_ref(cell)) continue;
    cells[count++] = (uns_quiet_cell){cell, known->id};
  }
  uv_mutex_unlock(&parent->lock);
  return count;
}

const void *uns_parent_task_behind(const uns_parent *parent, uint64_t id) {
  const proxy *known = uns_table_get(&parent->proxies, id);
  return known != NULL && known->cell != NULL ? known->cell->task : NULL;
}

/* ---- beginning and end ---- */

void uns_parent_cells_init(uns_parent *parent) {
  parent->remote.settle = settle;
  parent->remote.stop = stop_work;
  parent->remote.looked_at = looked_at;
  parent->remote.drop = drop;
}

void uns_parent_cells_deinit(uns_parent *parent) {
  for (uint32_t i = 0; i < parent->proxies.size; i++) {
    proxy *known = parent->proxies.entries[i].value;
    if (known == NULL) continue;
    if (known->early != NULL) {
      known->early->remote = NULL; /* nobody is left to be told */
      uns_shared_unref(known->early);
    }
    uns_free(known);
  }
  uns_free(parent->proxies.entries);
}
