/* other_abi: built for a version of the ABI that does not exist yet. Must be refused with both versions named. */
#include <unsync_plugin.h>

static int never(unsync_task *t) { return unsync_fail(t, "never", "this must not run"); }

static const unsync_task_def tasks[] = {{"never", never, "must not run", 0}};

UNSYNC_EXTERN_C UNSYNC_PLUGIN_EXPORT const unsync_plugin unsync_plugin_descriptor;
const unsync_plugin unsync_plugin_descriptor = {
    UNSYNC_PLUGIN_ABI + 1, 0, sizeof(unsync_plugin), "other_abi", "1.0", "", tasks, 1, sizeof tasks[0], 0};
