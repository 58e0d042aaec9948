#include "loop/party.h"

int uns_parties_init(uns_parties *parties) {
  uns_list_init(&parties->list);
  return uv_mutex_init(&parties->lock);
}

/* The script's own state may outlive it. */
void uns_parties_deinit(uns_parties *parties) {
  uns_link *link;
  while ((link = uns_list_pop_front(&parties->list)) != NULL) {
    uns_runtime *runtime = uns_container_of(link, uns_runtime, party.link);
    runtime->party.parties = NULL;
    runtime->mailbox->alive = NULL;
  }
  uv_mutex_destroy(&parties->lock);
}

void uns_party_join(uns_parties *parties, uns_runtime *runtime, bool script) {
  runtime->party.parties = parties;
  runtime->mailbox->alive = &parties->alive;
  atomic_store(&runtime->party.at_work, script);
  if (script) uns_alive_enter(&parties->alive);
  uv_mutex_lock(&parties->lock);
  uns_list_push_back(&parties->list, &runtime->party.link);
  uv_mutex_unlock(&parties->lock);
}

void uns_party_leave(uns_runtime *runtime) {
  uns_parties *parties = runtime->party.parties;
  if (parties == NULL) return;
  uv_mutex_lock(&parties->lock);
  uns_list_remove(&runtime->party.link);
  uv_mutex_unlock(&parties->lock);
  runtime->party.parties = NULL;
}

void uns_party_rest(uns_runtime *runtime) {
  uns_parties *parties = runtime->party.parties;
  uv_mutex_lock(&parties->lock);
  runtime->party.quiet = true;
  uv_mutex_unlock(&parties->lock);
  uns_mailbox_rest(runtime->mailbox);
}

void uns_party_rise(uns_runtime *runtime) {
  uns_parties *parties = runtime->party.parties;
  uns_mailbox_awake(runtime->mailbox);
  uv_mutex_lock(&parties->lock); /* somebody may be looking at us */
  runtime->party.quiet = false;
  uv_mutex_unlock(&parties->lock);
}

bool uns_parties_freeze(uns_parties *parties) {
  uv_mutex_lock(&parties->lock);
  bool still = atomic_load(&parties->alive.count) == 0;
  for (uns_link *link = parties->list.next; still && link != &parties->list; link = link->next) {
    uns_runtime *runtime = uns_container_of(link, uns_runtime, party.link);
    if (!atomic_load(&runtime->party.at_work)) continue;
    still = runtime->party.quiet && !uns_mailbox_has_mail(runtime->mailbox);
  }
  if (!still) uv_mutex_unlock(&parties->lock);
  return still;
}

void uns_parties_thaw(uns_parties *parties) { uv_mutex_unlock(&parties->lock); }

uns_runtime *uns_parties_next(uns_parties *parties, const uns_runtime *runtime) {
  const uns_link *link = runtime != NULL ? runtime->party.link.next : parties->list.next;
  for (; link != &parties->list; link = link->next) {
    uns_runtime *found = uns_container_of(link, uns_runtime, party.link);
    if (found->party.quiet && atomic_load(&found->party.at_work)) return found;
  }
  return NULL;
}
