/* declaration: what a wrapped function was declared to be; for the callable, for calls that leave, and for placing. */
#ifndef UNS_DECLARATION_H
#define UNS_DECLARATION_H

#include "exec/executors.h"
#include "loop/runtime.h"

typedef struct {
  uns_function *function; /* one reference, owned; NULL while half-built */
  const char *name;       /* interned */
  uns_kind kind;          /* how its calls run; `here` besides */
  uns_kind declared_kind; /* what was asked for when it was declared */
  bool named;             /* by opts.name, so that it can be placed */
  bool here;              /* thread or cpu, but placed on io: with copies, as if it had left */
  uint64_t timeout_ns;    /* the nearer of the two timeouts; 0: none */
  bool limited;
  bool plain; /* io, and neither limited nor timed */
  uns_runtime *runtime;
} uns_declaration;

/* Pushes one that is half-built. */
uns_declaration *uns_declaration_push(lua_State *L, uns_runtime *runtime);
/* Takes over what its function says, in the form in which a call asks. */
void uns_declaration_take_options(uns_declaration *declared);
/*
 * From the arguments (fn [, opts]) of io, thread and cpu makes the declaration, placed where the rules have it. Returns its
 * index; `fn` stays at 1. Raises for what cannot be declared so, and names the argument or the option.
 */
int uns_declare(lua_State *L, uns_kind kind);
/* Places the declaration at `index` by `rules`, or only looks whether it can be; raises where it cannot. */
void uns_declaration_place(lua_State *L, int index, const char *rules, bool only_check);
/* Makes the class. May raise. */
void uns_declaration_open(lua_State *L);

#endif
