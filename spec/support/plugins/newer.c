/* newer: relies on more functions than this host has. */
#define UNSYNC_PLUGIN_NEEDS (sizeof(unsync_api) + sizeof(void *))
#include <unsync_plugin.h>

static int never(unsync_task *t) { return unsync_fail(t, "never", "this must not run"); }

static const unsync_task_def tasks[] = {{"never", never, "must not run", 0}};

UNSYNC_PLUGIN("newer", "1.0", "From the future", tasks)
