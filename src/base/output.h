/*
 * output: whether what was printed has got out, in the host and in its worker processes alike.
 */
#ifndef UNS_OUTPUT_H
#define UNS_OUTPUT_H

/*
 * Flushes stdout. 0, or an errno if anything that was ever written to it is lost; -1: the reason is not known any more.
 * The thread that ends the program, or a call.
 */
int uns_output_flush(void);
/* The reason in words. */
const char *uns_output_problem(int number);

#endif
