#include "base/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int uns_output_flush(void) {
  if (fflush(stdout) != 0) return errno;
  if (!ferror(stdout)) return 0;
  return write(STDOUT_FILENO, "", 0) < 0 ? errno : -1; /* what print has flushed itself: some files still say why */
}

const char *uns_output_problem(int number) {
  return number > 0 ? strerror(number) : "some of what was written before is lost";
}
