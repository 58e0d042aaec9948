/* no_descriptor: a shared object that is no plugin. */
int no_descriptor(void);
int no_descriptor(void) { return 1; }
