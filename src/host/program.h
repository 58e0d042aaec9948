/*
 * program: where the unsync program is, which worker processes are started from.
 */
#ifndef UNS_PROGRAM_H
#define UNS_PROGRAM_H

/* Where this process is the unsync program: itself. UNSYNC_WORKER goes first, unless the process has rights that who started
   it has not. Owned by the caller; NULL: not known. */
char *uns_program_self(void);
/*
 * Where it is not: what UNSYNC_WORKER names, else `told` (may be NULL), else what lies beside the file that holds this
 * code, a library or an embedder with it in, or in the bin/ of the tree that this is installed in. Absolute, so that
 * the process may change its directory later. Owned by the caller; NULL: not found.
 */
char *uns_program_find(const char *told);

/* A copy, in uns_malloc's memory, of a path, without links and relative parts, which another working directory would
   change; as it is where nothing is there. NULL without memory (errno ENOMEM). */
char *uns_program_absolute(const char *path);

#endif
