/* duplicate: two of its tasks have one name. */
#include <unsync_plugin.h>

static int one(unsync_task *t) { return unsync_put_integer(t, 1); }
static int two(unsync_task *t) { return unsync_put_integer(t, 2); }

static const unsync_task_def tasks[] = {{"first", one, NULL, 0}, {"twice", one, NULL, 0}, {"twice", two, NULL, 0}};

UNSYNC_PLUGIN("duplicate", "1.0", "Has a name twice", tasks)
