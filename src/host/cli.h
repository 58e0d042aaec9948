/*
 * cli: the command line of the program: options, script, exit code.
 */
#ifndef UNS_CLI_H
#define UNS_CLI_H

/* Runs the program with main's arguments; its exit code. Once per process, on the main thread. */
int uns_cli_main(int argc, char **argv);

#endif
