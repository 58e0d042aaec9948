/*
 * parent_channels: a worker process's way to channels. All that are shared are the host's, those too that only threads of
 * this process share: here are stand-ins, and waits that are told by the host.
 *
 *   - `lock` guards the tables, and what a wait was told, until its owner has ended it. Nothing is sent under it.
 *   - What can be waited for is asked for and told later; all else is a question whose asker waits for the answer.
 * Next door: parent.c, whose part this is. The host's side: channels.c.
 */
#ifndef UNS_PARENT_CHANNELS_H
#define UNS_PARENT_CHANNELS_H

#include "exec/parent.h"
#include "exec/table.h"

typedef struct uns_parent_channels {
  uns_channel_remote remote;
  uns_parent *parent;
  uv_mutex_t lock;
  uns_table known; /* by the host's number */
  uns_table waits; /* uns_channel_wait * by its number: those that the host has not told anything */
} uns_parent_channels;

/* 0, or a negative code. */
int uns_parent_channels_init(uns_parent_channels *channels, uns_parent *parent);
void uns_parent_channels_deinit(uns_parent_channels *channels);
/* The host tells a wait something. The listening thread. */
void uns_parent_channels_told(uns_parent_channels *channels, uns_message *message);
/* It lends an item. UNS_OK or a negative code. The same thread. */
int uns_parent_channels_ahead(uns_parent_channels *channels, uns_message *message);

/* For uns_parent_ops. */
int uns_parent_export_channel(void *owner, uns_shared_channel *channel, uint64_t *id);
void uns_parent_unexport_channel(void *owner, uint64_t id);
int uns_parent_import_channel(void *owner, uint64_t id, uns_shared_channel **channel);

/* parent.c. */

uns_parent_channels *uns_parent_channels_of(uns_parent *parent);
/* UNS_OK or a negative code. Any thread, as the following. */
int uns_parent_send(uns_parent *parent, const uns_message *message, const uns_packet *packet);
/* Sends it with a number of its own, and waits for the answer, which is to be deinit'ed after UNS_OK. Not the listener. */
int uns_parent_ask(uns_parent *parent, uns_message *message, const uns_packet *packet, uns_message *answer);
/* True: the item lent in that place is ours. */
bool uns_parent_claim(uns_parent *parent, uint32_t slot, uint64_t number);
/* A number that nobody has: `made`: for something that was made here. */
uint64_t uns_parent_number(uns_parent *parent, bool made);

#endif
