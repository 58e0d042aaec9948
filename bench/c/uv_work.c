/*
 * uv_work: what a call on a thread is measured beside: uv_queue_work, each queued when the one before is done.
 * Prints nanoseconds a call.
 */
#include <stdio.h>
#include <uv.h>

enum { WARM = 500, CALLS = 20000 };

static int done;
static uint64_t from;

static void work(uv_work_t *request) { *(int *)request->data += 1; }

static void after(uv_work_t *request, int status) {
  if (status != 0) return;
  done++;
  if (done == WARM) from = uv_hrtime();
  if (done < WARM + CALLS) uv_queue_work(request->loop, request, work, after);
}

int main(void) {
  uv_loop_t loop;
  uv_work_t request;
  int value = 0;
  if (uv_loop_init(&loop) != 0) return 1;
  request.data = &value;
  if (uv_queue_work(&loop, &request, work, after) != 0) return 1;
  uv_run(&loop, UV_RUN_DEFAULT);
  if (value != WARM + CALLS) return 1;
  printf("%.1f\n", (double)(uv_hrtime() - from) / CALLS);
  return 0;
}
