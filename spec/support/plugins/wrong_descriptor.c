/* wrong_descriptor: what should be the descriptor is a function. */
int unsync_plugin_descriptor(void);
int unsync_plugin_descriptor(void) { return 1; }
