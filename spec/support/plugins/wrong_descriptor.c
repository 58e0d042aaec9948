/* wrong_descriptor: what should be the descriptor is a function. */
__attribute__((visibility("default"))) int unsync_plugin_descriptor(void);
int unsync_plugin_descriptor(void) { return 1; }
