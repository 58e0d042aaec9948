/*
 * embedded: the Lua modules of lua/unsync/, compiled when the program was built (src/tools/embed.c).
 *
 *   - Each is a Lua 5.4 binary chunk with its line information; its chunk name is "@unsync/x.lua".
 *   - Read-only, in order of name, ended by a NULL name. Any thread.
 * Who hands them to `require`: host/modules.c.
 */
#ifndef UNS_EMBEDDED_H
#define UNS_EMBEDDED_H

#include <stddef.h>

typedef struct uns_embedded {
  const char *name;           /* "unsync" for lua/unsync/init.lua, "unsync.x" for lua/unsync/x.lua */
  const unsigned char *bytes; /* `size_bytes` of them, not ended by a zero */
  size_t size_bytes;
} uns_embedded;

extern const uns_embedded uns_embedded_modules[];

#endif
