/*
 * embed: compiles Lua modules while the program is built, and writes them as one C file.
 *
 *   embed OUTPUT.c ROOT ROOT/unsync/init.lua ROOT/unsync/x.lua ... [ROOT ROOT/...]
 *
 *   - A word that does not end in .lua is the root of those that follow.
 *   - A module is named by its path below its root: unsync/init.lua is "unsync", unsync/x.lua "unsync.x".
 *   - Line information stays in, and the chunk is named "@unsync/x.lua", so that a traceback reads as ever.
 *   - OUTPUT is put in place whole or not at all; a syntax error ends the build with Lua's own message.
 * What reads the result: host/modules.c, by host/embedded.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lauxlib.h"
#include "lua.h"

typedef struct {
  FILE *file;
  size_t size_bytes;
} sink;

static const char *program;

static _Noreturn void die(const char *subject, const char *reason) {
  fprintf(stderr, "%s: %s: %s\n", program, subject, reason);
  exit(EXIT_FAILURE);
}

static int write_bytes(lua_State *L, const void *data, size_t size_bytes, void *context) {
  (void)L;
  sink *out = context;
  const unsigned char *byte = data;
  for (size_t i = 0; i < size_bytes; i++) {
    if (fprintf(out->file, "%s%u,", out->size_bytes % 24 == 0 ? "\n  " : "", byte[i]) < 0) return 1;
    out->size_bytes++;
  }
  return 0;
}

static int is_module(const char *path) {
  size_t length = strlen(path);
  return length > 4 && strcmp(path + length - 4, ".lua") == 0;
}

/* "unsync/http/client.lua" becomes "unsync.http.client", "unsync/init.lua" becomes "unsync". Owned by the caller. */
static char *module_name(const char *path) {
  size_t length = strlen(path);
  if (length < 5 || strcmp(path + length - 4, ".lua") != 0) die(path, "not a .lua file");
  char *name = malloc(length + 1);
  if (name == NULL) die(path, "not enough memory");
  memcpy(name, path, length + 1);
  name[length - 4] = '\0';
  for (char *c = name; *c != '\0'; c++)
    if (*c == '/') *c = '.';
  size_t stem = length - 4;
  if (stem > 5 && strcmp(name + stem - 5, ".init") == 0) name[stem - 5] = '\0';
  return name;
}

/* The file's text; a zero is put after it. Owned by the caller. */
static char *read_file(const char *path, size_t *size_bytes) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) die(path, strerror(errno));
  if (fseek(file, 0, SEEK_END) != 0) die(path, strerror(errno));
  long size = ftell(file);
  if (size < 0) die(path, strerror(errno));
  rewind(file);
  char *text = malloc((size_t)size + 1);
  if (text == NULL) die(path, "not enough memory");
  if (fread(text, 1, (size_t)size, file) != (size_t)size) die(path, "could not be read");
  fclose(file);
  text[size] = '\0';
  *size_bytes = (size_t)size;
  return text;
}

/* Writes one module's array; returns its size. */
static size_t compile(FILE *out, const char *path, const char *below, int index) {
  size_t text_bytes;
  char *text = read_file(path, &text_bytes);
  char *chunk = malloc(strlen(below) + 2);
  if (chunk == NULL) die(path, "not enough memory");
  chunk[0] = '@';
  strcpy(chunk + 1, below);
  lua_State *L = luaL_newstate();
  if (L == NULL) die(path, "not enough memory");
  if (luaL_loadbufferx(L, text, text_bytes, chunk, "t") != LUA_OK) die(path, lua_tostring(L, -1));
  sink bytes = {out, 0};
  fprintf(out, "/* %s */\nstatic const unsigned char module_%d[] = {", below, index);
  if (lua_dump(L, write_bytes, &bytes, 0) != 0) die(path, "could not be written");
  fprintf(out, "\n};\n\n");
  lua_close(L);
  free(chunk);
  free(text);
  return bytes.size_bytes;
}

int main(int argc, char **argv) {
  program = argv[0];
  if (argc < 3) die("usage", "embed OUTPUT.c ROOT FILE...");
  const char *output = argv[1], *root = argv[2];
  char **files = argv + 3;
  int count = argc - 3;

  char *part = malloc(strlen(output) + sizeof ".part");
  size_t *sizes = calloc((size_t)count + 1, sizeof *sizes);
  char **names = calloc((size_t)count + 1, sizeof *names);
  if (part == NULL || sizes == NULL || names == NULL) die(output, "not enough memory");
  strcpy(part, output);
  strcat(part, ".part");
  FILE *out = fopen(part, "wb");
  if (out == NULL) die(part, strerror(errno));

  fprintf(out, "/* Made by src/tools/embed.c from lua/. */\n#include \"host/embedded.h\"\n\n");
  for (int i = 0; i < count; i++) {
    if (!is_module(files[i])) {
      root = files[i];
      continue;
    }
    size_t root_length = strlen(root);
    if (strncmp(files[i], root, root_length) != 0 || files[i][root_length] != '/') die(files[i], "not below the root");
    names[i] = module_name(files[i] + root_length + 1);
    sizes[i] = compile(out, files[i], files[i] + root_length + 1, i);
  }
  fprintf(out, "const uns_embedded uns_embedded_modules[] = {\n");
  for (int i = 0; i < count; i++) {
    if (names[i] == NULL) continue;
    fprintf(out, "  {\"%s\", module_%d, %zu},\n", names[i], i, sizes[i]);
    free(names[i]);
  }
  fprintf(out, "  {NULL, NULL, 0}\n};\n");

  if (ferror(out) || fclose(out) != 0) die(part, "could not be written");
  if (rename(part, output) != 0) die(output, strerror(errno));
  free(part);
  free(sizes);
  free(names);
  return EXIT_SUCCESS;
}
