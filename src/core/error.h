/*
 * error: errors of the runtime as Lua values: tables with `code`, `message` and what else belongs, of the class
 * "unsync.Error", whose tostring reads well. User errors are never wrapped in them.
 */
#ifndef UNS_ERROR_H
#define UNS_ERROR_H

#include <lua.h>

/* Once per state: makes the class and leaves its metatable on the stack. */
void uns_error_open(lua_State *L);

/* Pushes an error with `code` and a formatted message (lua_pushfstring's directives). */
void uns_error_push(lua_State *L, const char *code, const char *format, ...);
/* Pushes an error for errno `number`: code "ENOENT" and the like, message "what: No such file or directory". */
void uns_error_push_errno(lua_State *L, int number, const char *what);
/* Raises one. The position of the caller, outside our own modules, is put before the message where Lua code
   called. */
__attribute__((noreturn)) int uns_error_raise(lua_State *L, const char *code, const char *format, ...);
/* Pushes `text`, from uns_malloc, and frees it, also where this raises for want of memory. */
void uns_error_push_text(lua_State *L, char *text);
/* True if the value at `index` is a table of the class; with `code` not NULL, of that code. */
int uns_error_is(lua_State *L, int index, const char *code);

#endif
