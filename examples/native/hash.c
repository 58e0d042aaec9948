/*
 * hash: message digests over OpenSSL, as native tasks.
 *
 *     local unsync = require "unsync"
 *     local sha256 = unsync.thread("hash.sha256")
 *     local file = unsync.thread("hash.file")
 *     print(sha256("abc"):await())
 *     local f = file("debian.iso", "sha512")
 *     f:progress(function(done, total) io.write(("\r%3.0f %%"):format(100 * done / total)) end)
 *     print(f:await())
 *
 * It shows: large bytes read where they lie, a file read with progress and cancellation, tables in and out, large bytes
 * as a result without a copy, errors with a code.
 *
 *     cc -shared -fPIC -O2 -o plugins/hash.so hash.c -lcrypto
 */
#define _POSIX_C_SOURCE 200809L /* fileno, fstat: also where the compiler is asked for C alone */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <unsync_plugin.h>

/* Bytes hashed between two looks at the token: well under a millisecond's work, and far above the cost of looking. */
enum { PIECE_BYTES = 256 * 1024 };

static int fail_openssl(unsync_task *t, const char *what) {
  char text[256] = "unknown error";
  unsigned long number = ERR_get_error();
  if (number != 0) ERR_error_string_n(number, text, sizeof text);
  ERR_clear_error();
  return unsync_fail(t, "openssl", "%s: %s", what, text);
}

/* The algorithm of that name, to be freed; NULL after a failure. */
static EVP_MD *fetch(unsync_task *t, const char *name) {
  if (name == NULL) return NULL;
  EVP_MD *algorithm = EVP_MD_fetch(NULL, name, NULL);
  if (algorithm != NULL) return algorithm;
  ERR_clear_error();
  unsync_fail(t, "unknown_algorithm", "no digest is called '%s'", name);
  return NULL;
}

static int put_hex(unsync_task *t, const unsigned char *digest, unsigned size) {
  static const char digits[] = "0123456789abcdef";
  char hex[2 * EVP_MAX_MD_SIZE];
  for (unsigned i = 0; i < size; i++) {
    hex[2 * i] = digits[digest[i] >> 4];
    hex[2 * i + 1] = digits[digest[i] & 15];
  }
  return unsync_put_string(t, hex, 2 * (size_t)size);
}

/* Ends the digest, and puts it. */
static int put_digest(unsync_task *t, EVP_MD_CTX *context) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_DigestFinal_ex(context, digest, &size) == 1) return put_hex(t, digest, size);
  fail_openssl(t, "digest");
  return UNSYNC_FAILED;
}

/* Digests `size` bytes, a piece at a time. */
static int digest_bytes(unsync_task *t, const EVP_MD *algorithm, const char *bytes, size_t size) {
  int result = UNSYNC_FAILED;
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  if (context == NULL || EVP_DigestInit_ex2(context, algorithm, NULL) != 1) {
    fail_openssl(t, "digest");
    goto done;
  }
  for (size_t at = 0; at < size;) {
    size_t piece = size - at < PIECE_BYTES ? size - at : PIECE_BYTES;
    if (unsync_cancelled(t)) {
      result = UNSYNC_CANCELLED;
      goto done;
    }
    if (EVP_DigestUpdate(context, bytes + at, piece) != 1) {
      fail_openssl(t, "digest");
      goto done;
    }
    at += piece;
    unsync_progress(t, (double)at, (double)size);
  }
  result = put_digest(t, context);

done:
  EVP_MD_CTX_free(context);
  return result;
}

static int digest_named(unsync_task *t, const char *name, int index) {
  size_t size = 0;
  const char *bytes = unsync_arg_string(t, index, &size);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  EVP_MD *algorithm = fetch(t, name);
  if (algorithm == NULL) return UNSYNC_FAILED;
  int result = digest_bytes(t, algorithm, bytes, size);
  EVP_MD_free(algorithm);
  return result;
}

static int task_sha256(unsync_task *t) { return digest_named(t, "SHA256", 1); }
static int task_sha512(unsync_task *t) { return digest_named(t, "SHA512", 1); }
static int task_digest(unsync_task *t) { return digest_named(t, unsync_arg_text(t, 1), 2); }

/* Digests what a file holds. */
static int digest_file(unsync_task *t, const EVP_MD *algorithm, const char *path) {
  int result = UNSYNC_FAILED;
  double done = 0, total = 0;
  struct stat info;
  EVP_MD_CTX *context = NULL;
  char *piece = NULL;
  FILE *file = fopen(path, "rbe");
  if (file == NULL || fstat(fileno(file), &info) != 0) {
    unsync_fail_errno(t, errno, path);
    goto done;
  }
  total = S_ISREG(info.st_mode) ? (double)info.st_size : 0;
  setvbuf(file, NULL, _IONBF, 0);             /* the pieces are large: no second buffer */
  piece = unsync_alloc_bytes(t, PIECE_BYTES); /* belongs to the task: nothing to free */
  if (piece == NULL) goto done;
  context = EVP_MD_CTX_new();
  if (context == NULL || EVP_DigestInit_ex2(context, algorithm, NULL) != 1) {
    fail_openssl(t, "digest");
    goto done;
  }
  for (;;) {
    if (unsync_cancelled(t)) {
      result = UNSYNC_CANCELLED;
      goto done;
    }
    size_t size = fread(piece, 1, PIECE_BYTES, file);
    if (size == 0) break;
    if (EVP_DigestUpdate(context, piece, size) != 1) {
      fail_openssl(t, "digest");
      goto done;
    }
    done += (double)size;
    unsync_progress(t, done, total);
  }
  if (ferror(file)) {
    unsync_fail_errno(t, errno, path);
    goto done;
  }
  result = put_digest(t, context);

done:
  EVP_MD_CTX_free(context);
  if (file != NULL) fclose(file);
  return result;
}

static int task_file(unsync_task *t) {
  const char *path = unsync_arg_text(t, 1);
  EVP_MD *algorithm = fetch(t, unsync_opt_text(t, 2, "SHA256"));
  int result = unsync_failed(t) ? UNSYNC_FAILED : digest_file(t, algorithm, path);
  EVP_MD_free(algorithm);
  return result;
}

/* {"a", "b"} -> {a = "1f…", b = "90…"} */
static int task_all(unsync_task *t) {
  unsync_value list = unsync_arg_table(t, 1);
  EVP_MD *algorithm = fetch(t, unsync_opt_text(t, 2, "SHA256"));
  int result = unsync_failed(t) ? UNSYNC_FAILED : UNSYNC_OK;
  unsync_begin_table(t);
  size_t count = unsync_length(t, list);
  for (size_t i = 1; result == UNSYNC_OK && i <= count; i++) {
    size_t size = 0;
    unsync_value element = unsync_element(t, list, (int64_t)i);
    const char *bytes = unsync_string(t, element, &size);
    if (bytes == NULL) {
      result = UNSYNC_FAILED;
    } else {
      unsync_pair(t); /* the next two values are a key and what is under it */
      unsync_put_value(t, element);
      result = digest_bytes(t, algorithm, bytes, size);
    }
  }
  EVP_MD_free(algorithm);
  return result == UNSYNC_OK ? unsync_end_table(t) : result;
}

static int task_hmac(unsync_task *t) {
  size_t key_size = 0, size = 0;
  const char *name = unsync_arg_text(t, 1);
  const char *key = unsync_arg_string(t, 2, &key_size);
  const char *bytes = unsync_arg_string(t, 3, &size);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  if (key_size > 0x7fffffff) return unsync_fail_arg(t, 2, "the key is too long: %zu bytes", key_size);
  EVP_MD *algorithm = fetch(t, name);
  if (algorithm == NULL) return UNSYNC_FAILED;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned digest_size = 0;
  int result = UNSYNC_FAILED;
  if (HMAC(algorithm, key, (int)key_size, (const unsigned char *)bytes, size, digest, &digest_size) == NULL)
    fail_openssl(t, "hmac");
  else result = put_hex(t, digest, digest_size);
  EVP_MD_free(algorithm);
  return result;
}

/* Random bytes, written straight into what becomes the result. */
static int task_random(unsync_task *t) {
  int64_t size = unsync_arg_integer(t, 1);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  if (size < 0 || size > INT64_C(1) << 40) return unsync_fail_arg(t, 1, "size out of range");
  char *bytes = unsync_alloc_bytes(t, (size_t)size);
  if (bytes == NULL) return UNSYNC_FAILED;
  for (int64_t at = 0; at < size;) {
    int piece = size - at < PIECE_BYTES ? (int)(size - at) : PIECE_BYTES;
    if (unsync_cancelled(t)) return UNSYNC_CANCELLED;
    if (RAND_bytes((unsigned char *)bytes + at, piece) != 1) return fail_openssl(t, "random");
    at += piece;
  }
  return unsync_put_bytes(t, bytes, (size_t)size);
}

static void put_name(EVP_MD *algorithm, void *t) { unsync_put_text((unsync_task *)t, EVP_MD_get0_name(algorithm)); }

static int task_algorithms(unsync_task *t) {
  unsync_begin_table(t);
  EVP_MD_do_all_provided(NULL, put_name, t);
  return unsync_end_table(t);
}

static const unsync_task_def tasks[] = {
    {"sha256", task_sha256, "sha256(bytes) -> hex: the SHA-256 digest of a string", 0},
    {"sha512", task_sha512, "sha512(bytes) -> hex: the SHA-512 digest of a string", 0},
    {"digest", task_digest, "digest(algorithm, bytes) -> hex: any digest that OpenSSL knows", 0},
    {"file", task_file, "file(path [, algorithm = \"SHA256\"]) -> hex: of what a file holds; reports progress", 0},
    {"all", task_all, "all({bytes, ...} [, algorithm]) -> {[bytes] = hex, ...}: of many strings", 0},
    {"hmac", task_hmac, "hmac(algorithm, key, bytes) -> hex: a keyed digest", 0},
    {"random", task_random, "random(size) -> bytes: random bytes, good enough for keys", 0},
    {"algorithms", task_algorithms, "algorithms() -> {name, ...}: what `digest` knows", 0},
};

UNSYNC_PLUGIN("hash", "1.0", "Message digests over OpenSSL", tasks)
