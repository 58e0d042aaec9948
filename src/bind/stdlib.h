/*
 * stdlib: Lua's own functions that must know tasks, put in the place of the stock ones.
 *
 * Each behaves as the stock function in all else: results, messages, positions, names in errors.
 *   - A replaced function that has nothing to do here calls the stock one by its C pointer, in its own frame: so a
 *     message still names the function and the line that the script called. Nothing is lost but a compare.
 *   - What somebody else has put in a library's place (a Lua function, a closure) is left alone.
 *   - Installing twice in one state does nothing the second time.
 * Each subject has a file: coroutine.c, protect.c, sort.c, gsub.c, require.c, output.c, shell.c, popen.c.
 */
#ifndef UNS_STDLIB_H
#define UNS_STDLIB_H

#include "bind/bind.h"

/* Installs all of them but coroutine.*, in the tables of package.loaded. May raise. */
void uns_bind_stdlib(lua_State *L, uns_runtime *runtime);

/* Gives `to` the debug hook of `from` (none included), as debug.sethook or C has set it. Raises without memory. */
void uns_stdlib_inherit_hook(lua_State *from, lua_State *to);

/* ---- for the files of this room ---- */

/* The registry's key for the io library's default output, a file. */
#define UNS_STDLIB_OUTPUT_KEY "_IO_output"

/* Pushes the library `name` ("_G" too) out of package.loaded, or pushes nothing and returns false. */
bool uns_stdlib_push_library(lua_State *L, const char *name);

/*
 * Replaces entries of the table on top by closures over the runtime (upvalue 1) and the stock function (upvalue 2).
 * An entry that is no plain C function is left alone.
 */
void uns_stdlib_replace(lua_State *L, uns_runtime *runtime, const luaL_Reg *functions);

/* A C function that keeps nothing in upvalues, as nearly all of Lua's own: it runs in any frame. */
bool uns_stdlib_is_plain(lua_State *L, int index);

/* Runs the stock function in the frame of its replacement: to be returned from it, with the arguments untouched. */
static inline int uns_stdlib_stock(lua_State *L) { return lua_tocfunction(L, lua_upvalueindex(2))(L); }

/* True where a wait in `L` would suspend it, by yielding or, on the main thread, by turning the loop. */
bool uns_stdlib_can_wait(uns_runtime *runtime, lua_State *L);

/*
 * Barriers: functions of ours that let a wait through where stock Lua has a C boundary. To a coroutine.yield of the
 * script it must still be one. How many such frames there are is counted, in runtime->barriers, so that a yield pays
 * for a look at its stack only while there are any.
 *
 * Each has a block, a userdata whose first member is this, in a slot of its frame.
 */
typedef struct uns_barrier {
  const void *tag; /* &uns_barrier_tag: tells a block from what else may lie in the slot */
  bool left;       /* the frame does not count any more */
} uns_barrier;

extern const char uns_barrier_tag;

/* Pushes, once per state, a metatable for blocks. */
void uns_stdlib_push_barrier_meta(lua_State *L, uns_runtime *runtime);
/* The userdata at `block` gets the metatable at `meta` and is to be closed: the frame is left, however that happens. */
void uns_stdlib_enter_barrier(lua_State *L, uns_runtime *runtime, int block, int meta);
/* What closing a block does; once is enough. */
void uns_stdlib_leave_barrier(uns_runtime *runtime, uns_barrier *block);
/* True if a frame of L is such a barrier. */
bool uns_stdlib_behind_barrier(lua_State *L, const uns_runtime *runtime);
/* `co` has failed. Its frames stand until it is closed, which may be never: leaves its barriers now. Raises nothing. */
void uns_stdlib_leave_dead(lua_State *L, uns_runtime *runtime, lua_State *co);

/* The slots of the blocks. */
enum { UNS_SORT_BLOCK = 3, UNS_GSUB_BLOCK = 6, UNS_REQUIRE_BLOCK = 3 };
/* bind/require.c: a module is no longer under way; its block is at `index`. Raises nothing. */
void uns_require_leave(lua_State *L, int index);

/* The barriers themselves. */
int uns_table_sort(lua_State *L);
int uns_string_gsub(lua_State *L);
int uns_require(lua_State *L);
int uns_run_closers(lua_State *co);

void uns_bind_protect(lua_State *L, uns_runtime *runtime);
void uns_bind_sort(lua_State *L, uns_runtime *runtime);
void uns_bind_gsub(lua_State *L, uns_runtime *runtime);
void uns_bind_require(lua_State *L, uns_runtime *runtime);
void uns_bind_output(lua_State *L, uns_runtime *runtime);
void uns_bind_shell(lua_State *L, uns_runtime *runtime);
void uns_bind_popen(lua_State *L, uns_runtime *runtime);

#endif
