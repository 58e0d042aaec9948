/*
 * sleepers: what 100,000 sleeping tasks are measured beside: as many uv_timer_t of one second in one loop.
 * Prints the seconds beyond that one, the making and the closing of the timers included.
 */
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

enum { TIMERS = 100000 };

static void on_timer(uv_timer_t *timer) { uv_close((uv_handle_t *)timer, NULL); }

int main(void) {
  uv_loop_t loop;
  uv_timer_t *timers = calloc(TIMERS, sizeof *timers);
  if (timers == NULL || uv_loop_init(&loop) != 0) return 1;
  uint64_t from = uv_hrtime();
  for (size_t i = 0; i < TIMERS; i++) {
    uv_timer_init(&loop, &timers[i]);
    if (uv_timer_start(&timers[i], on_timer, 1000, 0) != 0) return 1;
  }
  uv_run(&loop, UV_RUN_DEFAULT);
  printf("%.9f\n", (double)(uv_hrtime() - from) / 1e9 - 1);
  uv_loop_close(&loop);
  free(timers);
  return 0;
}
