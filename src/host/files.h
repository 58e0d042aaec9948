/*
 * files: what the REPL wants of the file system and Lua cannot do: a history that never blocks, what is in a directory.
 */
#ifndef UNS_FILES_H
#define UNS_FILES_H

#include <lua.h>

/*
 * Sets in the table on top:
 *   read_file(path, most) -> text | nil  the last `most` bytes of a plain file
 *   append(path, text) -> boolean        private to the user; makes the directories
 *   replace(path, text) -> boolean       whole or not at all
 *   list_directory(path) -> names        empty where it cannot be read
 *   is_file(path) -> boolean
 *   modules() -> names                   of what is compiled into the program
 */
void uns_files_set(lua_State *L);

#endif
