/* unknown_flag: one of its tasks asks for something that this host does not know. */
#include <unsync_plugin.h>

static int one(unsync_task *t) { return unsync_put_integer(t, 1); }

static const unsync_task_def tasks[] = {{"one", one, "one() -> 1", 1u << 30}};

UNSYNC_PLUGIN("unknown_flag", "1.0", "From the future", tasks)
