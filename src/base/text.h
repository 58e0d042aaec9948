/*
 * text: a text under construction, as long as it needs to be. Error messages of the C side, above all.
 */
#ifndef UNS_TEXT_H
#define UNS_TEXT_H

#include <stdarg.h>

#include "base/base.h"

/* All zero: empty. Without memory it loses all that it had, is `lost`, and stays so. */
typedef struct uns_text {
  char *bytes;       /* owned, to be freed with uns_free; NULL: empty or lost */
  size_t size_bytes; /* without the zero at the end */
  bool lost;
} uns_text;

/* Adds to its end, as printf. */
void uns_text_add(uns_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void uns_text_add_list(uns_text *text, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));

#endif
