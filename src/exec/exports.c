/*
 * exports: futures and channels of the host that worker processes hold: cells, and shared channels, for which a child has a
 * number.
 *
 *   - An export counts what was sent to the child and is not given back, and, since a number may also come back on
 *     another stream than the news that it was dropped, how often it came.
 *   - Whoever writes or reads a frame adds to them; they are told and cleared away by the supervisor alone.
 */
#include <string.h>

#include "core/tags.h"
#include "exec/worker_process.h"

/* Numbers that the child itself gave to cells of its own. */
static const uint64_t child_made = (uint64_t)1 << 63;

struct uns_export {
  uns_cell_watcher watcher;
  uns_child *child;            /* borrowed; not to be touched once `dead` */
  uns_cell *cell;              /* one reference; or NULL, and then: */
  uns_shared_channel *channel; /* one reference */
  uint64_t id;
  uint64_t held;       /* references that the child holds or that are on their way there */
  uint64_t sent, seen; /* how often the child sent the number, by its own account; how often it came */
  bool told;           /* the child knows the outcome, or it is on its way there */
  bool announced;      /* by a frame of its own: the child may keep the number for a reference that never comes */
  bool watched;        /* the watcher is listed, or its notice on the way */
  bool dead;           /* gone from the tables; freed with its notice */
  uns_export *next_by_id, *next_by_object;
};

/* ---- exports: the tables ---- */

int uns_exports_init(uns_exports *exports) {
  memset(exports, 0, sizeof *exports);
  return uv_mutex_init(&exports->lock);
}

static uint32_t id_place(const uns_exports *exports, uint64_t id) {
  return (uint32_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (exports->size - 1);
}

static const void *object_of(const uns_export *export) {
  return export->cell != NULL ? (const void *)export->cell : (const void *)export->channel;
}

static uint32_t object_place(const uns_exports *exports, const void *object) {
  return id_place(exports, (uintptr_t)object >> 4);
}

static uns_export *find_id(const uns_exports *exports, uint64_t id) {
  if (exports->size == 0) return NULL;
  uns_export *found = exports->by_id[id_place(exports, id)];
  while (found != NULL && found->id != id) found = found->next_by_id;
  return found;
}

static uns_export *find_object(const uns_exports *exports, const void *object) {
  if (exports->size == 0) return NULL;
  uns_export *found = exports->by_object[object_place(exports, object)];
  while (found != NULL && object_of(found) != object) found = found->next_by_object;
  return found;
}

static void link_in(uns_exports *exports, uns_export *export) {
  uns_export **id = &exports->by_id[id_place(exports, export->id)];
  uns_export **object = &exports->by_object[object_place(exports, object_of(export))];
  export->next_by_id = *id;
  export->next_by_object = *object;
  *id = *object = export;
}

static bool grow_tables(uns_exports *exports) {
  if (exports->count < exports->size) return true;
  uns_exports larger = *exports;
  larger.size = exports->size == 0 ? 16 : exports->size * 2;
  larger.by_id = uns_calloc(larger.size, sizeof *larger.by_id);
  larger.by_object = uns_calloc(larger.size, sizeof *larger.by_object);
  if (larger.by_id == NULL || larger.by_object == NULL) {
    uns_free(larger.by_id);
    uns_free(larger.by_object);
    return false;
  }
  for (uint32_t i = 0; i < exports->size; i++) {
    for (uns_export *export = exports->by_id[i], *next; export != NULL; export = next) {
      next = export->next_by_id;
      link_in(&larger, export);
    }
  }
  uns_free(exports->by_id);
  uns_free(exports->by_object);
  exports->by_id = larger.by_id;
  exports->by_object = larger.by_object;
  exports->size = larger.size;
  return true;
}

static void on_settled(uns_mail *mail, void *receiver);
static void on_stop(uns_mail *mail, void *receiver);

/* Takes over the caller's reference to one of the two, the other being NULL, where it succeeds. */
static uns_export *add_export(uns_child *child, uns_cell *cell, uns_shared_channel *channel, uint64_t id) {
  uns_exports *exports = &child->exports;
  uns_export *export = grow_tables(exports) ? uns_calloc(1, sizeof *export) : NULL;
  if (export == NULL) return NULL;
  export->child = child;
  export->cell = cell;
  export->channel = channel;
  export->id = id;
  export->watcher.mail.deliver = on_settled;
  export->watcher.mailbox = uns_supervisor_mailbox(child->pool->supervisor);
  uns_list_init(&export->watcher.link);
  link_in(exports, export);
  exports->count++;
  return export;
}

static void link_out(uns_exports *exports, uns_export *export) {
  uns_export **at = &exports->by_id[id_place(exports, export->id)];
  while (*at != export) at = &(*at)->next_by_id;
  *at = export->next_by_id;
  at = &exports->by_object[object_place(exports, object_of(export))];
  while (*at != export) at = &(*at)->next_by_object;
  *at = export->next_by_object;
  exports->count--;
}

/* Out of the tables already, and without the lock, since cells have locks of their own. */
static void drop_export(uns_export *export) {
  if (export->channel != NULL) {
    uns_shared_unref(export->channel);
    uns_free(export);
    return;
  }
  uns_cell *cell = export->cell;
  export->cell = NULL;
  bool notice_comes = export->watched && !uns_cell_unwatch(cell, &export->watcher);
  if (notice_comes) export->dead = true;
  else uns_free(export);
  uns_shared_unref(cell);
}

static void watch(uns_export *export) {
  if (export->watched) return;
  export->watched = true;
  uns_cell_watch(export->cell, &export->watcher);
}

static bool is_stale(const uns_export *export) { return export->held == 0 && export->seen == export->sent; }

void uns_exports_deinit(uns_exports *exports) {
  uns_free(exports->by_id);
  uns_free(exports->by_object);
  uv_mutex_destroy(&exports->lock);
}

/* ---- exports: what a frame says of them ---- */

static int export_cell(void *owner, uns_cell *cell, uint64_t *id, bool *tell) {
  uns_child *child = owner;
  uns_exports *exports = &child->exports;
  uv_mutex_lock(&exports->lock);
  uns_export *export = find_object(exports, cell);
  if (export == NULL) {
    export = add_export(child, uns_shared_ref(cell), NULL, exports->last_id + 1);
    if (export == NULL) {
      uv_mutex_unlock(&exports->lock);
      uns_shared_unref(cell);
      return UNS_ENOMEM;
    }
    exports->last_id++;
  }
  export->held++;
  *id = export->id;
  *tell = false;
  if (!export->told) {
    *tell = export->told = uns_cell_peek(cell) != UNS_CELL_PENDING;
    if (!*tell) watch(export);
  }
  uv_mutex_unlock(&exports->lock);
  return UNS_OK;
}

/* The lock held: one reference was sent in vain. NULL: the child has given it back before it came. It is mad. */
static uns_export *take_back(uns_exports *exports, uint64_t id) {
  uns_export *export = find_id(exports, id);
  if (export == NULL || export->held == 0) return NULL;
  export->held--;
  if (is_stale(export)) exports->stale++;
  return export;
}

static void unexport_cell(void *owner, uint64_t id, bool told) {
  uns_child *child = owner;
  uns_exports *exports = &child->exports;
  uv_mutex_lock(&exports->lock);
  uns_export *export = take_back(exports, id);
  if (export != NULL && told) {
    export->told = false;
    if (export->held > 0) watch(export); /* those it has are told another way */
  }
  uv_mutex_unlock(&exports->lock);
}

/* The lock held. An export that the child speaks of; one that it made itself may be news. */
static int known_export(uns_child *child, uint64_t id, bool by_task, uns_export **found) {
  uns_exports *exports = &child->exports;
  *found = find_id(exports, id);
  if (*found != NULL) return (*found)->cell != NULL ? UNS_OK : UNS_ECORRUPT;
  if ((id & child_made) == 0) return UNS_ECORRUPT;
  uns_cell *cell = uns_cell_new();
  if (cell == NULL) return UNS_ENOMEM;
  cell->by_task = by_task;
  const uns_cell_workplace there = {
      .mailbox = uns_supervisor_mailbox(child->pool->supervisor), .deliver = on_stop, .keeper = child, .watchers = 1};
  if (by_task) uns_cell_set_workplace(cell, &there);
  *found = add_export(child, cell, NULL, id);
  if (*found == NULL) {
    uns_shared_unref(cell);
    return UNS_ENOMEM;
  }
  (*found)->held = 1; /* its own */
  watch(*found);
  return UNS_OK;
}

/* The lock held: the child has sent the number. */
static void note_seen(uns_child *child, uns_export *export) {
  export->seen++;
  if (!is_stale(export)) return;
  child->exports.stale++;
  uns_mailbox_wake(uns_supervisor_mailbox(child->pool->supervisor));
}

static int import_cell(void *owner, uint64_t id, bool by_task, uns_cell **cell) {
  uns_child *child = owner;
  uns_exports *exports = &child->exports;
  uns_export *export;
  uv_mutex_lock(&exports->lock);
  int status = known_export(child, id, by_task, &export);
  if (status == UNS_OK) {
    *cell = uns_shared_ref(export->cell);
    note_seen(child, export);
  }
  uv_mutex_unlock(&exports->lock);
  return status;
}

/* Only settled cells of the child's own come with their outcome, and those have no number: it is mad, and not believed. */
static void import_outcome(void *owner, uns_cell *cell, uint64_t id, uns_cell_state state, uns_packet *outcome) {
  (void)owner, (void)cell, (void)id, (void)state;
  uns_packet_deinit(outcome);
}

static int export_channel(void *owner, uns_shared_channel *channel, uint64_t *id) {
  uns_child *child = owner;
  uns_exports *exports = &child->exports;
  uv_mutex_lock(&exports->lock);
  uns_export *export = find_object(exports, channel);
  if (export == NULL) export = add_export(child, NULL, uns_shared_ref(channel), exports->last_id + 1);
  if (export == NULL) {
    uv_mutex_unlock(&exports->lock);
    uns_shared_unref(channel);
    return UNS_ENOMEM;
  }
  if (export->id == exports->last_id + 1) exports->last_id++;
  export->held++;
  *id = export->id;
  uv_mutex_unlock(&exports->lock);
  return UNS_OK;
}

static void unexport_channel(void *owner, uint64_t id) {
  uns_child *child = owner;
  uns_exports *exports = &child->exports;
  uv_mutex_lock(&exports->lock);
  take_back(exports, id);
  uv_mutex_unlock(&exports->lock);
}

static int import_channel(void *owner, uint64_t id, uns_shared_channel **channel) {
  uns_child *child = owner;
  uns_exports *exports = &child->exports;
  uv_mutex_lock(&exports->lock);
  uns_export *export = find_id(exports, id);
  bool fine = export != NULL && export->channel != NULL;
  if (fine) {
    *channel = uns_shared_ref(export->channel);
    note_seen(child, export);
  }
  uv_mutex_unlock(&exports->lock);
  return fine ? UNS_OK : UNS_ECORRUPT;
}

const uns_port_ops uns_exports_ops = {export_cell,    unexport_cell,    import_cell,   import_outcome,
                                      export_channel, unexport_channel, import_channel};

uns_shared_channel *uns_exports_channel(uns_child *child, uint64_t id) {
  uns_exports *exports = &child->exports;
  uv_mutex_lock(&exports->lock);
  uns_export *export = find_id(exports, id);
  uns_shared_channel *channel = export != NULL && export->channel != NULL ? uns_shared_ref(export->channel) : NULL;
  uv_mutex_unlock(&exports->lock);
  return channel;
}

int uns_exports_add_channel(uns_child *child, uint64_t id, uns_shared_channel *channel) {
  uns_exports *exports = &child->exports;
  int status = UNS_ECORRUPT;
  uv_mutex_lock(&exports->lock);
  if ((id & child_made) != 0 && find_id(exports, id) == NULL) {
    uns_export *export = add_export(child, NULL, channel, id);
    if (export != NULL) export->held = 1; /* its own */
    status = export != NULL ? UNS_OK : UNS_ENOMEM;
  }
  uv_mutex_unlock(&exports->lock);
  return status;
}

/* ---- telling ---- */

static void send_word(uns_child *child, uns_frame_kind kind, uint64_t id, uint64_t count, bool first) {
  uns_message message = {.words = {.kind = kind, .id = id, .count = count, .first = first}};
  uns_service_must_send(child, &message, NULL);
}

/* Tells the child how a cell ended. */
static void tell(uns_child *child, uns_cell *cell, uint64_t id) {
  static const uns_packet nothing;
  uns_message message = {.words = {.kind = UNS_FRAME_SETTLED, .id = id, .state = (uint32_t)uns_cell_peek(cell)}};
  int status = uns_service_send(child, &message, &cell->outcome);
  if (status == UNS_ECORRUPT) { /* something in it cannot leave this process */
    message.words.state = UNS_CELL_FAILED;
    status = uns_service_send(child, &message, &nothing);
  }
  if (status == UNS_ENOMEM) uns_child_condemn(child, "there was not enough memory to answer it");
}

/* A cell that the child holds has settled. */
static void on_settled(uns_mail *mail, void *receiver) {
  uns_export *export = uns_container_of(uns_container_of(mail, uns_cell_watcher, mail), uns_export, watcher);
  if (export->dead) {
    uns_free(export);
    return;
  }
  if (receiver == NULL) return;
  uns_child *child = export->child;
  uv_mutex_lock(&child->exports.lock);
  export->watched = false;
  bool wanted = !export->told && export->held > 0;
  if (wanted) export->told = export->announced = true;
  uns_cell *cell = uns_shared_ref(export->cell);
  uint64_t id = export->id;
  uv_mutex_unlock(&child->exports.lock);
  if (wanted) tell(child, cell, id);
  uns_shared_unref(cell);
}

/* Somebody wants the work to be stopped that the child does for a cell which it has made. */
static void on_stop(uns_mail *mail, void *receiver) {
  uns_cell_stop *stop = uns_container_of(mail, uns_cell_stop, mail);
  uns_child *child = stop->cell->workplace.keeper;
  uns_message message = {.words = {.kind = UNS_FRAME_STOP, .first = stop->how == UNS_STOP_UNWANTED}};
  if (receiver != NULL) message.words.id = uns_exports_made_there(child, stop->cell);
  if (message.words.id != 0) {
    int status = uns_service_send(child, &message, &stop->reason);
    if (status == UNS_ECORRUPT) status = uns_service_send(child, &message, NULL); /* the reason cannot leave us */
    if (status == UNS_ENOMEM) uns_child_condemn(child, "there was not enough memory to ask it to stop");
  }
  uns_cell_stop_free(stop);
}

uns_cell *uns_exports_find(uns_child *child, uint64_t id) {
  uv_mutex_lock(&child->exports.lock);
  const uns_export *export = find_id(&child->exports, id);
  uns_cell *cell = export != NULL && export->cell != NULL ? uns_shared_ref(export->cell) : NULL;
  uv_mutex_unlock(&child->exports.lock);
  return cell;
}

uint64_t uns_exports_made_there(uns_child *child, const uns_cell *cell) {
  uv_mutex_lock(&child->exports.lock);
  const uns_export *export = find_object(&child->exports, cell);
  uint64_t id = export != NULL && (export->id & child_made) != 0 ? export->id : 0;
  uv_mutex_unlock(&child->exports.lock);
  return id;
}

/* The child gives back what it had; or something was sent in vain. */
void uns_exports_sweep(uns_child *child) {
  uns_exports *exports = &child->exports;
  uns_export *stale = NULL;
  uv_mutex_lock(&exports->lock);
  for (uint32_t i = 0; i < exports->size && exports->stale > 0; i++) {
    for (uns_export *export = exports->by_id[i], *next; export != NULL; export = next) {
      next = export->next_by_id;
      if (!is_stale(export)) continue;
      link_out(exports, export);
      export->next_by_id = stale;
      stale = export;
    }
  }
  exports->stale = 0;
  uv_mutex_unlock(&exports->lock);
  while (stale != NULL) {
    uns_export *export = stale;
    stale = export->next_by_id;
    if (export->announced) send_word(child, UNS_FRAME_FORGET, export->id, 0, false);
    drop_export(export);
  }
}

int uns_exports_give_back(uns_child *child, const struct uns_message_words *words) {
  uns_exports *exports = &child->exports;
  uns_export *export;
  uv_mutex_lock(&exports->lock);
  export = find_id(exports, words->id); /* a channel's, too */
  int status = export != NULL ? UNS_OK : known_export(child, words->id, false, &export);
  if (status == UNS_OK && words->count > export->held) status = UNS_ECORRUPT;
  bool stale = false, again = false;
  if (status == UNS_OK) {
    export->held -= words->count;
    export->sent += words->request;
    stale = is_stale(export);
    if (stale) link_out(exports, export);
    again = !stale && export->held > 0 && export->told; /* what is on its way finds that the child has forgotten all */
    if (again) export->announced = true;
  }
  uns_cell *cell = again ? uns_shared_ref(export->cell) : NULL;
  uv_mutex_unlock(&exports->lock);
  if (again) tell(child, cell, words->id);
  uns_shared_unref(cell);
  if (!stale) return status;
  if (export->announced) send_word(child, UNS_FRAME_FORGET, export->id, 0, false);
  drop_export(export);
  return UNS_OK;
}

int uns_exports_look_at(uns_child *child, const struct uns_message_words *words) {
  uns_exports *exports = &child->exports;
  uns_export *export;
  uv_mutex_lock(&exports->lock);
  int status = known_export(child, words->id, false, &export);
  if (status == UNS_OK) atomic_store_explicit(&export->cell->looked_at, true, memory_order_relaxed);
  uv_mutex_unlock(&exports->lock);
  if (status == UNS_OK) send_word(child, UNS_FRAME_ANSWER, words->request, 0, true);
  return status;
}

int uns_exports_stop(uns_child *child, uns_message *message) {
  int status = uns_frame_own(&message->packet);
  if (status != UNS_OK) return status;
  uns_cell *cell = uns_exports_find(child, message->words.id);
  if (cell == NULL) return UNS_ECORRUPT;
  uns_stop how = message->words.first ? UNS_STOP_UNWANTED : UNS_STOP;
  bool asked = uns_cell_stop_work_here(cell, how, 1, &message->packet, &status);
  uns_shared_unref(cell);
  if (status == UNS_OK) send_word(child, UNS_FRAME_ANSWER, message->words.request, 0, asked);
  return status;
}

int uns_exports_settle(uns_child *child, uns_message *message) {
  uns_exports *exports = &child->exports;
  const struct uns_message_words *words = &message->words;
  if (words->state < UNS_CELL_DONE || words->state > UNS_CELL_CANCELLED) return UNS_ECORRUPT;
  int status = uns_frame_own(&message->packet);
  if (status != UNS_OK) return status;
  uns_export *export;
  uv_mutex_lock(&exports->lock);
  status = known_export(child, words->id, words->by_task != 0, &export);
  /* What a task of ours is to settle is nobody else's to settle. */
  if (status == UNS_OK && (export->id & child_made) == 0 && export->cell->by_task) status = UNS_ECORRUPT;
  uns_cell *cell = status == UNS_OK ? uns_shared_ref(export->cell) : NULL;
  uv_mutex_unlock(&exports->lock);
  if (status != UNS_OK) return status;
  bool first = uns_cell_settle(cell, (uns_cell_state)words->state, &message->packet);
  uv_mutex_lock(&exports->lock);
  export = find_id(exports, words->id); /* nobody but this thread removes one */
  bool wanted = !first && !export->told;
  if (wanted) export->announced = true;
  export->told = true;
  uv_mutex_unlock(&exports->lock);
  if (wanted) tell(child, cell, words->id); /* before the answer: who asks then sees how it ended */
  uns_shared_unref(cell);
  send_word(child, UNS_FRAME_ANSWER, words->request, 0, first);
  return UNS_OK;
}

/* Writes a `crashed` error and no traceback, as the codec would. */
static int write_crash(uns_packet *packet) {
  static const char text[] = "crashed: the worker process whose task was to settle this has ended";
  static const char class[] = "unsync.Error";
  uint8_t bytes[256], *to = bytes + UNS_HEADER_BYTES;
  const uint32_t fields = 2;
  *to++ = UNS_TAG_RECORD | UNS_META_BIT;
  memcpy(to, &fields, sizeof fields);
  to += sizeof fields;
  const char *const words[] = {"code", "crashed", "message", text};
  for (int i = 0; i < 4; i++) {
    size_t length = strlen(words[i]);
    *to++ = UNS_TAG_STRING;
    *to++ = (uint8_t)length;
    memcpy(to, words[i], length);
    to += length;
  }
  *to++ = UNS_TAG_NAMED;
  *to++ = 0;
  *to++ = UNS_TAG_NIL;
  uns_write_header(bytes, 2, (uint64_t)(to - bytes));
  *to++ = 1;
  *to++ = 0;
  *to++ = sizeof class - 1;
  memcpy(to, class, sizeof class - 1);
  to += sizeof class - 1;
  uint8_t *room = uns_packet_grow(packet, (size_t)(to - bytes));
  if (room == NULL) return UNS_ENOMEM;
  memcpy(room, bytes, (size_t)(to - bytes));
  return UNS_OK;
}

/* Nobody else will ever settle what the dead child's tasks were to. */
static void orphan(const uns_export *export) {
  if (export->cell == NULL) return;
  if ((export->id & child_made) == 0 || !export->cell->by_task) return;
  uns_packet outcome;
  uns_packet_init(&outcome);
  write_crash(&outcome); /* without memory: a failure without an error value */
  uns_cell_settle(export->cell, UNS_CELL_FAILED, &outcome);
}

void uns_exports_clear(uns_child *child) {
  uns_exports *exports = &child->exports;
  for (uint32_t i = 0; i < exports->size; i++) {
    for (;;) {
      uv_mutex_lock(&exports->lock);
      uns_export *export = exports->by_id[i];
      if (export != NULL) link_out(exports, export);
      uv_mutex_unlock(&exports->lock);
      if (export == NULL) break;
      orphan(export);
      drop_export(export);
    }
  }
  exports->stale = 0;
}
