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

#endif
