/*
 * zlib: compression over zlib, as native tasks. Bytes of any size go in and come out without a copy between.
 *
 *     local unsync = require "unsync"
 *     local compress, decompress = unsync.cpu("zlib.compress"), unsync.cpu("zlib.decompress")
 *     local small = compress(("unsync "):rep(1e6), {level = 9}):await()
 *     print(#small, #decompress(small):await())
 *
 *     cc -shared -fPIC -O2 -o plugins/zlib.so zlib.c -lz
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <unsync_plugin.h>
#include <zlib.h>

/* How much zlib is given at a time, so that the token is looked at every few milliseconds. */
enum { PIECE_BYTES = 256 * 1024 };

typedef struct format {
  const char *name;
  int window_bits; /* zlib's: 15 its own wrapping, 31 that of gzip, -15 none */
} format;

static const format formats[] = {{"zlib", 15}, {"gzip", 31}, {"raw", -15}};

/* options.format; 0 after a failure */
static int window_bits(unsync_task *t, unsync_value options) {
  unsync_value field = unsync_field(t, options, "format");
  if (field.type == UNSYNC_NIL) return formats[0].window_bits;
  const char *name = unsync_text(t, field);
  if (name == NULL) return 0;
  for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
    if (strcmp(name, formats[i].name) == 0) return formats[i].window_bits;
  unsync_fail_arg(t, 2, "no format is called '%s': it is zlib, gzip or raw", name);
  return 0;
}

static int fail_zlib(unsync_task *t, int number, const z_stream *stream) {
  if (number == Z_MEM_ERROR) return unsync_fail(t, "ENOMEM", "zlib: not enough memory");
  return unsync_fail(t, "zlib", "zlib: %s", stream->msg != NULL ? stream->msg : zError(number));
}

/* Gives `stream` its next piece of the `left` bytes that it has not been given yet. */
static void feed(z_stream *stream, size_t *left) {
  uInt piece = *left < PIECE_BYTES ? (uInt)*left : PIECE_BYTES;
  stream->avail_in += piece;
  *left -= piece;
}

/* compress(bytes [, {level =, format =}]) */
static int task_compress(unsync_task *t) {
  size_t size = 0;
  const char *bytes = unsync_arg_string(t, 1, &size);
  unsync_value options = unsync_arg(t, 2), field = unsync_field(t, options, "level");
  int64_t level = field.type == UNSYNC_NIL ? Z_DEFAULT_COMPRESSION : unsync_integer(t, field);
  int bits = window_bits(t, options);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  if (level < -1 || level > 9) return unsync_fail_arg(t, 2, "level %lld is not from 0 to 9", (long long)level);

  z_stream stream;
  memset(&stream, 0, sizeof stream);
  int state = deflateInit2(&stream, (int)level, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY);
  if (state != Z_OK) return fail_zlib(t, state, &stream);
  /* Room for the worst case at once: pages that stay untouched cost nothing. */
  size_t room = deflateBound(&stream, size), left = size, used = 0;
  int result = UNSYNC_FAILED;
  char *packed = unsync_alloc_bytes(t, room);
  if (packed == NULL) goto done;
  stream.next_in = (Bytef *)bytes; /* zlib reads it only; without ZLIB_CONST its type does not say so */
  do {
    if (unsync_cancelled(t)) {
      result = UNSYNC_CANCELLED;
      goto done;
    }
    feed(&stream, &left);
    do {
      uInt piece = room - used < PIECE_BYTES ? (uInt)(room - used) : PIECE_BYTES;
      stream.next_out = (Bytef *)packed + used;
      stream.avail_out = piece;
      state = deflate(&stream, left == 0 ? Z_FINISH : Z_NO_FLUSH);
      if (state == Z_STREAM_ERROR) {
        fail_zlib(t, state, &stream);
        goto done;
      }
      used += piece - stream.avail_out;
    } while (stream.avail_out == 0 && state != Z_STREAM_END && used < room);
    unsync_progress(t, (double)(size - left), (double)size);
  } while (left > 0);
  if (state == Z_STREAM_END) result = unsync_put_bytes(t, packed, used);
  else fail_zlib(t, Z_BUF_ERROR, &stream);

done:
  deflateEnd(&stream);
  return result;
}

/* decompress(bytes [, {max =, format =}]) */
static int task_decompress(unsync_task *t) {
  size_t size = 0;
  const char *bytes = unsync_arg_string(t, 1, &size);
  unsync_value options = unsync_arg(t, 2), field = unsync_field(t, options, "max");
  int64_t max = field.type == UNSYNC_NIL ? INT64_MAX : unsync_integer(t, field);
  int bits = window_bits(t, options);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  if (max < 0) return unsync_fail_arg(t, 2, "max is negative");

  z_stream stream;
  memset(&stream, 0, sizeof stream);
  int state = inflateInit2(&stream, bits);
  if (state != Z_OK) return fail_zlib(t, state, &stream);
  /* How much comes out is not known: a buffer of our own grows, and the result takes it over as it is. */
  size_t room = size < PIECE_BYTES ? PIECE_BYTES : size * 2, left = size, used = 0;
  int result = UNSYNC_FAILED;
  char *plain = malloc(room);
  stream.next_in = (Bytef *)bytes;
  while (plain != NULL && state != Z_STREAM_END) {
    if (unsync_cancelled(t)) {
      result = UNSYNC_CANCELLED;
      goto done;
    }
    if (stream.avail_in == 0) {
      if (left == 0) {
        unsync_fail(t, "zlib", "zlib: the data end too early");
        goto done;
      }
      feed(&stream, &left);
    }
    if (used == room) {
      char *larger = realloc(plain, room * 2);
      if (larger == NULL) break;
      plain = larger;
      room *= 2;
    }
    uInt piece = room - used < PIECE_BYTES ? (uInt)(room - used) : PIECE_BYTES;
    stream.next_out = (Bytef *)plain + used;
    stream.avail_out = piece;
    state = inflate(&stream, Z_NO_FLUSH);
    if (state != Z_OK && state != Z_STREAM_END && state != Z_BUF_ERROR) {
      if (state == Z_NEED_DICT) unsync_fail(t, "zlib", "zlib: the data need a dictionary");
      else fail_zlib(t, state, &stream);
      goto done;
    }
    used += piece - stream.avail_out;
    if (used > (uint64_t)max) {
      unsync_fail(t, "too_large", "more than %lld bytes come out", (long long)max);
      goto done;
    }
    unsync_progress(t, (double)(size - left - stream.avail_in), (double)size);
  }
  if (plain == NULL || state != Z_STREAM_END) {
    unsync_fail(t, "ENOMEM", "zlib: not enough memory");
  } else {
    result = unsync_put_foreign(t, plain, used, free, plain);
    plain = NULL; /* given away, in any case */
  }

done:
  free(plain);
  inflateEnd(&stream);
  return result;
}

/* crc32(bytes [, start]) */
static int task_crc32(unsync_task *t) {
  size_t size = 0;
  const char *bytes = unsync_arg_string(t, 1, &size);
  uLong sum = (uLong)unsync_opt_integer(t, 2, 0);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  for (size_t at = 0; at < size;) {
    uInt piece = size - at < PIECE_BYTES ? (uInt)(size - at) : PIECE_BYTES;
    if (unsync_cancelled(t)) return UNSYNC_CANCELLED;
    sum = crc32(sum, (const Bytef *)bytes + at, piece);
    at += piece;
  }
  return unsync_put_integer(t, (int64_t)sum);
}

static const unsync_task_def tasks[] = {
    {"compress", task_compress, "compress(bytes [, {level = 0..9, format = zlib|gzip|raw}]) -> bytes", 0},
    {"decompress", task_decompress, "decompress(bytes [, {max = bytes, format = zlib|gzip|raw}]) -> bytes", 0},
    {"crc32", task_crc32, "crc32(bytes [, start = 0]) -> integer", 0},
};

UNSYNC_PLUGIN("zlib", "1.0", "Compression over zlib", tasks)
