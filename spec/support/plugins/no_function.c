/* no_function: one of its tasks is a name without a function. */
#include <unsync_plugin.h>

static const unsync_task_def tasks[] = {{"hollow", 0, "nothing behind it", 0}};

UNSYNC_PLUGIN("no_function", "1.0", "Hollow", tasks)
