/* misnamed: its file's name is not its own. Can be loaded by its path only. */
#include <unsync_plugin.h>

static int one(unsync_task *t) { return unsync_put_integer(t, 1); }

static const unsync_task_def tasks[] = {{"one", one, "one() -> 1", 0}};

UNSYNC_PLUGIN("other_name", "1.0", "Its file is misnamed.so", tasks)
