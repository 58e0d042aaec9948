/* processes COUNT SCRIPT [ARG...]: runs a script in a host that has so many worker processes, for rows that compare. */
#include <stdio.h>
#include <stdlib.h>

#include <unsync.h>

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: processes COUNT SCRIPT [ARG...]\n");
    return 2;
  }
  unsync_options options = {.size = sizeof options, .processes = atoi(argv[1])};
  unsync_host *host;
  if (unsync_host_new(&host, &options) != 0) return 1;
  int status = unsync_host_run(host, argv[2], argc - 3, (const char *const *)argv + 3, 0);
  if (status != 0) fprintf(stderr, "%s: %s\n", unsync_code_text(status), unsync_host_error(host));
  unsync_host_free(host);
  return status == 0 ? 0 : 1;
}
