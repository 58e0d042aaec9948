/* The unsync program: argv to host/cli, the exit code back. */
#include "host/cli.h"

int main(int argc, char **argv) { return uns_cli_main(argc, argv); }
