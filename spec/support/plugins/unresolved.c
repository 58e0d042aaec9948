/* unresolved: needs a function that no library has. The dynamic linker refuses it. */
#include <unsync_plugin.h>

int this_function_is_nowhere(void);

static int one(unsync_task *t) { return unsync_put_integer(t, this_function_is_nowhere()); }

static const unsync_task_def tasks[] = {{"one", one, "one() -> ?", 0}};

UNSYNC_PLUGIN("unresolved", "1.0", "Lacks a symbol", tasks)
