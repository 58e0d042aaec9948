/*
 * codec_decode_names: what a packet calls by its name: modules, and what they hold. The names lie in a table at its end.
 *
 * How a name is found for something: codec_names.c.
 */
#include <lauxlib.h>

#include "base/base.h"
#include "core/codec_decoder.h"

/* A text with its size before it. False: there is none. */
static bool read_text(const uint8_t **at, const uint8_t *end, const char **text, size_t *size_bytes) {
  uint64_t size;
  if (!uns_read_varint(at, end, &size) || size > (size_t)(end - *at)) return false;
  *text = (const char *)*at;
  *size_bytes = (size_t)size;
  *at += size;
  return true;
}

static bool read_name(const uint8_t **at, const uint8_t *end, uns_name *to) {
  to->met = false;
  return read_text(at, end, &to->module, &to->module_size) && read_text(at, end, &to->field, &to->field_size);
}

static void read_names(uns_decoder *d) {
  const uint8_t *at = d->end, *end = d->packet->bytes + d->packet->size_bytes;
  uint64_t count;
  if (at == end || !uns_read_varint(&at, end, &count)) uns_decoder_corrupt(d, "no names");
  if (count > (size_t)(end - at) / 2 || count == 0) uns_decoder_corrupt(d, "too many names");
  size_t few = sizeof d->few_names / sizeof d->few_names[0];
  uns_name *names = count <= few ? d->few_names : uns_malloc((size_t)count * sizeof *names);
  if (names == NULL) uns_decoder_no_memory(d);
  d->names = names;
  for (size_t i = 0; i < count; i++) {
    if (!read_name(&at, end, &names[i])) uns_decoder_corrupt(d, "bad name");
  }
  d->name_count = (size_t)count;
}

void uns_push_named(uns_decoder *d) {
  lua_State *L = d->L;
  uint64_t index = take_varint(d);
  if (d->names == NULL) read_names(d);
  if (index >= d->name_count) uns_decoder_corrupt(d, "bad name");
  luaL_checkstack(L, 10, NULL);
  uns_name *one = &d->names[index];
  if (one->met && !lua_isnil(L, UNS_SLOT_NAMED) && lua_rawgeti(L, UNS_SLOT_NAMED, (lua_Integer)index + 1) != LUA_TNIL)
    return;
  if (one->met && !lua_isnil(L, UNS_SLOT_NAMED)) lua_pop(L, 1);
  uns_codec_push_named(L, one->module, one->module_size, one->field, one->field_size);
  if (one->met) {
    uns_decoder_push_slot(d, UNS_SLOT_NAMED);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (lua_Integer)index + 1);
    lua_pop(L, 1);
  }
  one->met = true;
}

int uns_codec_modules(lua_State *L, const uns_packet *packet) {
  uns_codec *codec = uns_codec_of(L);
  uint32_t values;
  size_t end;
  if (packet->bytes == NULL || !uns_read_header(packet->bytes, packet->size_bytes, &values, &end)) return 0;
  const uint8_t *at = packet->bytes + end, *stop = packet->bytes + packet->size_bytes;
  uint64_t names;
  if (at == stop || !uns_read_varint(&at, stop, &names)) return 0;
  int first = lua_gettop(L) + 1, count = 0;
  for (uint64_t i = 0; i < names; i++) {
    uns_name name;
    if (!read_name(&at, stop, &name)) break;
    if (name.module_size == 0) continue;
    if (!lua_checkstack(L, 10)) break;
    lua_pushlstring(L, name.module, name.module_size);
    lua_rawgeti(L, LUA_REGISTRYINDEX, codec->loaded);
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);
    bool known = lua_toboolean(L, -1);
    lua_pop(L, 2);
    for (int k = first; !known && k < first + count; k++) known = lua_rawequal(L, k, -1);
    if (known) lua_pop(L, 1);
    else count++;
  }
  return count;
}
