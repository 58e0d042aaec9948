/* seeds DIRECTORY: writes what fuzzing begins with into DIRECTORY/codec, frame and plugin: real packets, real frames, a
   real plugin's head. `make seeds` puts them into spec/corpus. */
#include <sys/stat.h>

#include "codec_target.h"
#include "frame_target.h"
#include "plugin_target.h"

static const char *directory;
static int written;

static void write_seed(const char *name, const uns_packet *packet) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  mkdir(path, 0777);
  snprintf(path, sizeof path, "%s/%s/seed%02d", directory, name, ++written);
  FILE *file = fopen(path, "wb");
  if (file == NULL || fwrite(packet->bytes, 1, packet->size_bytes, file) != packet->size_bytes || fclose(file) != 0) {
    perror(path);
    exit(1);
  }
}

static void add(uns_packet *to, const void *bytes, size_t size) {
  if (size == 0) return;
  uint8_t *room = uns_packet_grow(to, size);
  if (room == NULL) codec_die("no memory");
  memcpy(room, bytes, size);
}

/* ---- packets ---- */

/* Each returns values with something else in them. */
static const char *const values[] = {
    "return",
    "return nil, true, false, 0, 127, 128, -1, -300, 70000, -(1 << 40), 0.5, 1/0, ''",
    "return 'short', ('x'):rep(31), ('x'):rep(32), ('x'):rep(300), 'twice', 'twice', 'twice'",
    "local s = ('l'):rep(4096) return s, {s, s}",
    "local t = {1, 2, nil, 4, x = 1, [0] = 'zero', [1.5] = true} t.self = t return t, t",
    "local t = {} for i = 1, 70 do t[i] = i end for i = 71, 140 do t[i] = i * 300 end for i = 141, 200 do t[i] = i / 4 end return t",
    "local t = {} for i = 1, 8 do t[i] = {id = i, name = 'n' .. i, flag = i % 2 == 0} end return t",
    "local t = {} for i = 1, 80 do t = {t, i} end return t",
    "local a, b, c, d, e, f, g, h = table.unpack(kept) return a, b, c, d, e, f, g, h",
    "local f = functions[2](1) return f, {f}, functions[3](f, f)",
    "local up = {} up[1] = functions[3](up, 2) return functions[7](1, up, 'x', {}, up[1])",
    "return setmetatable({1}, {__index = {2}}), print, string, math.floor, math",
    "local p = setmetatable({1, {2}}, {__unsync_pack = function(v) return functions[4], v[1], v[2] end}) return p, {p}",
    "local u = require 'unsync' return u.resolved(42), u.promise(), u.rejected('x'):catch(print)",
    "local u = require 'unsync' return u.io(functions[8]), u.thread(functions[1], {name = 'n', timeout = 3, limit = 2})",
    "local u = require 'unsync' local v = u.var(1) return v, u.once(functions[1]), u",
    "local u = require 'unsync' local t = {u.cpu(functions[5])} t[t[1]] = t return t",
    "return setmetatable({code = 'x', message = 'y'}, debug.getregistry()['unsync.Error'])",
};

static uint8_t kind_of(const uns_shared *shared) {
  if (shared->class->kind == UNS_SHARED_CELL) {
    return uns_cell_peek((uns_cell *)(void *)shared) == UNS_CELL_PENDING ? CODEC_PENDING : CODEC_SETTLED;
  }
  if (shared->class->kind != UNS_SHARED_CODE) return shared->class->kind == UNS_SHARED_BLOCK ? CODEC_BLOCK : CODEC_LENT;
  const uns_code *code = (const uns_code *)(const void *)shared;
  for (int i = 0; i < CODEC_CODES; i++) {
    if (memcmp(code->hash, codec_world.codes[i]->hash, sizeof code->hash) == 0) return (uint8_t)i;
  }
  return CODEC_DAMAGED;
}

static void write_packets(lua_State *L) {
  static const uns_codec_names names = {"argument", 1, false};
  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
    uns_packet packet, seed;
    uns_packet_init(&packet);
    uns_packet_init(&seed);
    if (luaL_dostring(L, values[i])) codec_die(lua_tostring(L, -1));
    if (uns_codec_encode(L, 1, lua_gettop(L), &names, &packet) != UNS_OK) codec_die(luaL_tolstring(L, -1, NULL));
    if (packet.ref_count > CODEC_REFS) codec_die("too many references");
    uint8_t count = (uint8_t)packet.ref_count;
    add(&seed, &count, 1);
    for (uint32_t k = 0; k < packet.ref_count; k++) {
      uint8_t kind = kind_of(packet.refs[k]);
      add(&seed, &kind, 1);
    }
    add(&seed, packet.bytes, packet.size_bytes);
    write_seed("codec", &seed);
    uns_packet_deinit(&seed);
    uns_packet_deinit(&packet);
    lua_settop(L, 0);
  }
}

/* ---- frames ---- */

static int export_cell(void *owner, uns_cell *cell, uint64_t *id, bool *tell) {
  *id = ++*(uint64_t *)owner;
  *tell = uns_cell_peek(cell) != UNS_CELL_PENDING;
  return UNS_OK;
}
static void unexport_cell(void *owner, uint64_t id, bool told) { (void)owner, (void)id, (void)told; }

static void add_frame(uns_packet *seed, uns_port *port, const uns_message *message, const uns_packet *packet) {
  uns_frame frame;
  if (uns_frame_build(&frame, port, message, packet) != UNS_OK) frame_die("no frame");
  if (frame.size_bytes > UINT16_MAX) frame_die("a frame too large");
  const uint8_t head[] = {0, (uint8_t)frame.size_bytes, (uint8_t)(frame.size_bytes >> 8)};
  add(seed, head, sizeof head);
  uns_frame_copy(&frame, 0, uns_packet_grow(seed, frame.size_bytes), frame.size_bytes);
  uns_frame_done(&frame);
}

static void write_frames(void) {
  static const uns_port_ops ops = {.export_cell = export_cell, .unexport_cell = unexport_cell};
  static const uns_frame_kind kinds[] = {UNS_FRAME_CALL, UNS_FRAME_RESULT, UNS_FRAME_SETTLE, UNS_FRAME_HELLO,
                                         UNS_FRAME_UNREF};
  uint64_t last = 0;
  uns_port port;
  uns_port_init(&port, &ops, &last);
  uns_packet all, packet;
  uns_packet_init(&all);
  uns_packet_init(&packet);
  add(&all, "\0", 1);
  add(&packet, "U\1\0\0\1\0\0\0\0\0\0\0\0\0\0\0\x85", 17);
  const uint8_t objects[] = {0, CODEC_LENT, CODEC_BLOCK, CODEC_PENDING, CODEC_SETTLED, 1, 0};
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    uns_message message = {
        .words = {.kind = kinds[i], .slot = 1, .id = 7, .sequence = 9, .state = 1, .error_code = "ENOENT"}};
    for (int k = 0; k < UNS_TEXTS; k++) message.texts[k] = "text";
    for (size_t k = 0; k < sizeof objects && i < 3; k++) {
      if (uns_packet_add_ref(&packet, codec_object(objects[k])) < 0) frame_die("no memory");
    }
    uns_packet seed;
    uns_packet_init(&seed);
    add(&seed, "\0", 1);
    add_frame(&seed, &port, &message, &packet);
    write_seed("frame", &seed);
    uns_packet_deinit(&seed);
    add_frame(&all, &port, &message, &packet);
    while (packet.ref_count > 0) uns_shared_unref(packet.refs[--packet.ref_count]);
  }
  write_seed("frame", &all);
  uns_packet_deinit(&all);
  uns_packet_deinit(&packet);
  uns_port_deinit(&port);
  const uint8_t ring[] = {128, 0, 5, 0, 100, 0,  4, 0, 50, 0,  0, 4, 255, 0, 4, 0, 9, 1, 2,
                          1,   7, 1, 0, 1,   90, 1, 4, 0,  40, 0, 1, 2,   3, 0, 6, 0, 0};
  uns_packet seed;
  uns_packet_init(&seed);
  add(&seed, ring, sizeof ring);
  write_seed("frame", &seed);
  uns_packet_deinit(&seed);
}

/* ---- plugins ---- */

static void write_plugins(const char *program) {
  uint8_t bytes[PLUGIN_HEAD + 900];
  memset(bytes, 2, PLUGIN_HEAD); /* "good", and all as it should be */
  FILE *file = fopen(program, "rb");
  if (file == NULL || fread(bytes + PLUGIN_HEAD, 1, sizeof bytes - PLUGIN_HEAD, file) != sizeof bytes - PLUGIN_HEAD) {
    perror(program);
    exit(1);
  }
  fclose(file);
  uns_packet seed;
  uns_packet_init(&seed);
  add(&seed, bytes, sizeof bytes);
  write_seed("plugin", &seed);
  bytes[9] = bytes[11] = 3;
  seed.size_bytes = 0;
  add(&seed, bytes, PLUGIN_HEAD + 70);
  write_seed("plugin", &seed);
  uns_packet_deinit(&seed);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: seeds DIRECTORY SHARED-OBJECT\n");
    return 2;
  }
  directory = argv[1];
  mkdir(directory, 0777);
  codec_open();
  uns_state_free(codec_world.runtime);
  codec_open_state(codec_functions);
  write_packets(codec_world.runtime->L);
  write_frames();
  codec_close();
  write_plugins(argv[2]);
  return 0;
}
