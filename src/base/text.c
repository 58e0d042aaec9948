#include "base/text.h"

#include <stdio.h>

void uns_text_add_list(uns_text *text, const char *format, va_list arguments) {
  if (text->lost) return;
  va_list again;
  va_copy(again, arguments);
  int size = vsnprintf(NULL, 0, format, arguments);
  char *bytes = size < 0 ? NULL : uns_realloc(text->bytes, text->size_bytes + (size_t)size + 1);
  if (bytes != NULL) {
    vsnprintf(bytes + text->size_bytes, (size_t)size + 1, format, again);
    text->bytes = bytes;
    text->size_bytes += (size_t)size;
  } else {
    uns_free(text->bytes);
    *text = (uns_text){.lost = true};
  }
  va_end(again);
}

void uns_text_add(uns_text *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  uns_text_add_list(text, format, arguments);
  va_end(arguments);
}
