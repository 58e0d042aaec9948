/*
 * variable: context variables: a value that a task and what it starts later see, and nobody else.
 *
 * A variable is an identity and a default; the values lie with the tasks (loop/context.h). It crosses by its identity. One
 * made while a module loads is named by where that was: it is the same in every state that loads the module. One that the script
 * has given a name is the same wherever that name is given, and native tasks know it by that.
 */
#include <ctype.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "bind/bind.h"
#include "bind/variable.h"
#include "core/codec.h"
#include "core/error.h"
#include "loop/context.h"

#define VARIABLE_TYPE "unsync.Variable"
#define RESTORE_TYPE "unsync.VariableRestore"

enum { VALUE_IDENTITY = 1, VALUE_DEFAULT };
enum { RESTORE_NUMBER = 1, RESTORE_VALUE };

static const char places_key = 0; /* registry: "file:line" -> how many were made there while modules load */
static const char numbers_key = 0; /* registry: identity -> its number in this state, and back: contexts go by numbers */

static const char variable_mark = 0;

static const char nil_mark = 0; /* as a light userdata: a variable is set, to nil */

typedef struct {
  const char *mark; /* &variable_mark: told by it, as futures are */
  uns_runtime *runtime;
  lua_Integer number; /* 0: it is still being read */
  size_t place;       /* where in a context it was found last: most have it there */
} variable;

/* The variable at `index`, or NULL. */
static inline variable *test_variable(lua_State *L, int index) {
  variable *var = lua_touserdata(L, index);
  return var != NULL && lua_rawlen(L, index) == sizeof *var && var->mark == &variable_mark ? var : NULL;
}

static variable *check_variable(lua_State *L, int index) {
  variable *var = test_variable(L, index);
  if (var == NULL || var->number == 0) luaL_typeerror(L, index, VARIABLE_TYPE);
  return var;
}

/* Pushes a variable that has no identity yet. */
static variable *push_variable(lua_State *L, uns_runtime *runtime) {
  variable *var = lua_newuserdatauv(L, sizeof *var, 2);
  *var = (variable){.mark = &variable_mark, .runtime = runtime};
  luaL_setmetatable(L, VARIABLE_TYPE);
  return var;
}

/* The number of the identity on top, which stays. */
static lua_Integer number_of(lua_State *L) {
  luaL_checkstack(L, 4, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &numbers_key);
  lua_pushvalue(L, -2);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_Integer next = (lua_Integer)lua_rawlen(L, -2) + 1;
    lua_pushvalue(L, -3);
    lua_rawseti(L, -3, next);
    lua_pushvalue(L, -3);
    lua_pushinteger(L, next);
    lua_rawset(L, -4);
    lua_pop(L, 2);
    return next;
  }
  lua_Integer number = lua_tointeger(L, -1);
  lua_pop(L, 2);
  return number;
}

static uns_task *check_task(lua_State *L, uns_runtime *runtime) {
  if (runtime->current == NULL) {
    uns_error_raise(L, "EINVAL", "no task runs here: this is a callback of %s",
                    runtime->callback_of != NULL ? runtime->callback_of : "the event loop");
  }
  return runtime->current;
}

/* What the task, which may be NULL, sees of the variable; NULL: its default. */
static const uns_context_value *find_value(const uns_task *task, variable *var) {
  if (task == NULL || task->context == NULL) return NULL;
  return uns_context_find(task->context, var->number, &var->place);
}

/* Pushes a value as it was set. */
static void push_value(lua_State *L, const uns_context_value *value) {
  if (value->ref == LUA_REFNIL) lua_pushnil(L);
  else lua_rawgeti(L, LUA_REGISTRYINDEX, value->ref);
}

/* get() of what is set to nil, or not set, or not found where it was last. */
static __attribute__((noinline)) int get_slowly(lua_State *L) {
  variable *var = check_variable(L, 1);
  const uns_context_value *value = find_value(var->runtime->current, var);
  if (value != NULL) push_value(L, value);
  else lua_getiuservalue(L, 1, VALUE_DEFAULT);
  return 1;
}

/* variable:get() -> value */
static int variable_get(lua_State *L) {
  const variable *var = test_variable(L, 1);
  if (__builtin_expect(var == NULL, 0)) return get_slowly(L);
  const uns_task *task = var->runtime->current;
  const uns_context *context = task != NULL ? task->context : NULL;
  if (context == NULL) {
    lua_getiuservalue(L, 1, VALUE_DEFAULT);
    return 1;
  }
  const uns_context_entry *entry = &context->entries[var->place];
  if (var->place >= context->count || entry->number != var->number || entry->value->ref < 0) return get_slowly(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, entry->value->ref);
  return 1;
}

/* variable:set(value): for this task, and those it starts from now on */
static int variable_set(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const variable *var = check_variable(L, 1);
  luaL_checkany(L, 2);
  lua_settop(L, 2);
  uns_context_set(runtime, L, check_task(L, runtime), var->number);
  return 0;
}

static int restore_close(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (runtime->current == NULL || luaL_testudata(L, 1, RESTORE_TYPE) == NULL) return 0;
  lua_settop(L, 1);
  lua_getiuservalue(L, 1, RESTORE_NUMBER);
  lua_Integer number = lua_tointeger(L, -1);
  if (lua_getiuservalue(L, 1, RESTORE_VALUE) == LUA_TNIL) {
    uns_context_unset(runtime, L, runtime->current, number);
    return 0;
  }
  if (lua_touserdata(L, -1) == &nil_mark) lua_pushnil(L);
  uns_context_set(runtime, L, runtime->current, number);
  return 0;
}

static int after_with(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  return lua_gettop(L) - 1;
}

/* variable:with(value, fn, ...) -> what fn returns: the value is set while it runs */
static int variable_with(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  variable *var = check_variable(L, 1);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  uns_task *task = check_task(L, runtime);
  lua_newuserdatauv(L, 0, 2);
  lua_pushinteger(L, var->number);
  lua_setiuservalue(L, -2, RESTORE_NUMBER);
  const uns_context_value *before = find_value(task, var);
  if (before == NULL) lua_pushnil(L);
  else if (before->ref == LUA_REFNIL) lua_pushlightuserdata(L, (void *)&nil_mark);
  else push_value(L, before);
  lua_setiuservalue(L, -2, RESTORE_VALUE);
  luaL_setmetatable(L, RESTORE_TYPE);
  lua_pushvalue(L, 2);
  uns_context_set(runtime, L, task, var->number);
  lua_replace(L, 1);
  lua_remove(L, 2);
  lua_toclose(L, 1);
  lua_callk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, after_with);
  return after_with(L, LUA_OK, 0);
}

static int variable_equal(lua_State *L) {
  lua_pushboolean(L, check_variable(L, 1)->number == check_variable(L, 2)->number);
  return 1;
}

static int variable_tostring(lua_State *L) {
  check_variable(L, 1);
  lua_getiuservalue(L, 1, VALUE_IDENTITY);
  lua_pushfstring(L, "variable: %s", lua_tostring(L, -1));
  return 1;
}

/* Pushes the name of one made by the main chunk of a file: "@file.lua:3", with a number from the second in that line on. */
static bool push_place(lua_State *L) {
  lua_Debug caller;
  if (!lua_getstack(L, 1, &caller) || !lua_getinfo(L, "Sl", &caller)) return false;
  if (strcmp(caller.what, "main") != 0 || caller.source[0] != '@') return false;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &places_key);
  lua_pushfstring(L, "%s:%d", caller.source, caller.currentline);
  lua_pushvalue(L, -1);
  lua_Integer count = lua_rawget(L, -3) == LUA_TNUMBER ? lua_tointeger(L, -1) + 1 : 1;
  lua_pop(L, 1);
  lua_pushvalue(L, -1);
  lua_pushinteger(L, count);
  lua_rawset(L, -4);
  lua_remove(L, -2);
  if (count > 1) {
    lua_pushfstring(L, "%s#%d", lua_tostring(L, -1), (int)count);
    lua_remove(L, -2);
  }
  return true;
}

/* A name that a script has given: no other identity begins so. */
static bool is_name(const char *identity) {
  if (identity == NULL || !(isalpha((unsigned char)*identity) || *identity == '_')) return false;
  while (isalnum((unsigned char)*identity) || *identity == '_' || *identity == '.') identity++;
  return *identity == '\0';
}

/* var([default [, name]]) -> Variable */
static int core_var(lua_State *L) {
  static atomic_ulong made;
  lua_settop(L, 2);
  bool named = !lua_isnil(L, 2);
  if (named) {
    luaL_checktype(L, 2, LUA_TSTRING);
    luaL_argcheck(L, is_name(lua_tostring(L, 2)) && strlen(lua_tostring(L, 2)) == lua_rawlen(L, 2), 2,
                  "a name is made of letters, digits, _ and ., and begins with a letter or _");
  }
  variable *var = push_variable(L, uns_upvalue_runtime(L));
  lua_insert(L, 2); /* the name, or nil, is on top */
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 2, VALUE_DEFAULT);
  if (!named) lua_pop(L, 1);
  if (!named && !push_place(L))
    lua_pushfstring(L, "%d:%p:%d", (int)getpid(), (void *)L, (int)atomic_fetch_add(&made, 1));
  var->number = number_of(L);
  lua_setiuservalue(L, 2, VALUE_IDENTITY);
  return 1;
}

/* ---- crossing: identity and default ---- */

static int cross_encode(lua_State *L, int index) {
  lua_getiuservalue(L, index, VALUE_IDENTITY);
  lua_getiuservalue(L, index, VALUE_DEFAULT);
  return 2;
}

static int cross_create(lua_State *L, uns_shared *shared) {
  (void)shared;
  push_variable(L, uns_runtime_of(L));
  return 0;
}

static int cross_fill(lua_State *L, int object, int count) {
  variable *var = test_variable(L, object);
  if (var == NULL || count != 2 || lua_type(L, -2) != LUA_TSTRING) return -1;
  lua_setiuservalue(L, object, VALUE_DEFAULT);
  var->number = number_of(L);
  lua_setiuservalue(L, object, VALUE_IDENTITY);
  return 0;
}

static const uns_codec_class cross = {"unsync.var", cross_encode, cross_create, cross_fill};

/* ---- following calls into workers: a call is then one of with_context, with the function behind the values ---- */

static const char with_context_key = 0; /* registry: the C function, as unsync.core has it */

/* `below` values lie under the results. */
static int after_call(lua_State *L, int status, lua_KContext below) {
  (void)status;
  return lua_gettop(L) - (int)below;
}

/* with_context(count, identity, value, ..., fn, ...) -> what fn returns: sets the variables first */
static int core_with_context(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_Integer count = luaL_checkinteger(L, 1);
  luaL_argcheck(L, count >= 0 && 2 * count + 2 <= lua_gettop(L), 1, "out of range");
  uns_task *task = check_task(L, runtime);
  int function = 2 + 2 * (int)count;
  for (int i = 2; i < function; i += 2) {
    luaL_checktype(L, i, LUA_TSTRING);
    lua_pushvalue(L, i);
    lua_Integer number = number_of(L);
    lua_pop(L, 1);
    lua_pushvalue(L, i + 1);
    uns_context_set(runtime, L, task, number);
  }
  int arguments = lua_gettop(L) - function;
  lua_callk(L, arguments, LUA_MULTRET, function - 1, after_call);
  return after_call(L, LUA_OK, function - 1);
}

static bool can_cross(lua_State *L, int index) {
  static const uns_codec_names names = {"value", 1, false};
  int type = lua_type(L, index);
  if (type == LUA_TNIL || type == LUA_TBOOLEAN || type == LUA_TNUMBER || type == LUA_TSTRING) return true;
  uns_packet packet;
  uns_packet_init(&packet);
  int status = uns_codec_encode(L, index, 1, &names, &packet);
  uns_packet_deinit(&packet);
  if (status == UNS_ENOMEM) lua_error(L); /* which says nothing about the value */
  if (status != UNS_OK) lua_pop(L, 1);
  return status == UNS_OK;
}

/* The `i`-th value that the running task sees; NULL: there are no more. Anew each time: what runs between may set others. */
static const uns_context_entry *entry_at(const uns_runtime *runtime, size_t i) {
  const uns_context *context = runtime->current != NULL ? runtime->current->context : NULL;
  return context != NULL && i < context->count ? &context->entries[i] : NULL;
}

/* Pushes the identity of a variable. */
static void push_identity(lua_State *L, lua_Integer number) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &numbers_key);
  lua_rawgeti(L, -1, number);
  lua_remove(L, -2);
}

int uns_variables_insert(lua_State *L, uns_runtime *runtime, bool only_sendable) {
  const uns_context_entry *entry = entry_at(runtime, 0);
  if (entry == NULL) return 0;
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &with_context_key);
  lua_pushinteger(L, 0);
  lua_Integer count = 0;
  for (size_t i = 0; (entry = entry_at(runtime, i)) != NULL; i++) {
    luaL_checkstack(L, 8, NULL);
    push_identity(L, entry->number);
    push_value(L, entry->value);
    if (only_sendable && !can_cross(L, lua_gettop(L))) lua_pop(L, 2);
    else count++;
  }
  if (count == 0) {
    lua_settop(L, top);
    return 0;
  }
  lua_pushinteger(L, count);
  lua_replace(L, top + 2);
  int extra = lua_gettop(L) - top;
  lua_rotate(L, 1, extra);
  return extra;
}

bool uns_variables_push_named(lua_State *L, uns_runtime *runtime) {
  const uns_context_entry *entry = entry_at(runtime, 0);
  if (entry == NULL) return false;
  luaL_checkstack(L, 8, NULL);
  int top = lua_gettop(L);
  bool any = false;
  lua_newtable(L);
  for (size_t i = 0; (entry = entry_at(runtime, i)) != NULL; i++) {
    push_identity(L, entry->number);
    push_value(L, entry->value);
    if (is_name(lua_tostring(L, -2)) && !lua_isnil(L, -1) && can_cross(L, lua_gettop(L))) {
      lua_rawset(L, top + 1);
      any = true;
    } else {
      lua_pop(L, 2);
    }
  }
  lua_settop(L, any ? top + 1 : top);
  return any;
}

static const luaL_Reg methods[] = {{"get", variable_get}, {"set", variable_set}, {"with", variable_with}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__eq", variable_equal}, {"__tostring", variable_tostring}, {NULL, NULL}};
static const luaL_Reg restore_metamethods[] = {{"__close", restore_close}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"var", core_var}, {"with_context", core_with_context}, {NULL, NULL}};

void uns_bind_variable(lua_State *L, uns_runtime *runtime) {
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &places_key);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &numbers_key);
  luaL_newmetatable(L, RESTORE_TYPE);
  uns_bind_functions(L, runtime, restore_metamethods);
  luaL_newmetatable(L, VARIABLE_TYPE);
  uns_bind_functions(L, runtime, metamethods);
  uns_codec_register(L, -1, &cross);
  lua_newtable(L);
  uns_bind_functions(L, runtime, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 2);
  uns_bind_functions(L, runtime, functions);
  lua_getfield(L, -1, "with_context");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &with_context_key);
}
