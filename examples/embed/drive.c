/*
 * A program with a loop of its own, which turns a host among what else it looks after; and a thread of its own, which
 * settles a promise of the script's.
 *
 *     cc drive.c $(pkg-config --cflags --libs unsync lua5.4) -lpthread && ./a.out
 *
 *     script: the program says hello after 0.1 s
 *     script: slept
 *     program: the script has ended, the pipe was read 3 times meanwhile
 */
#include <lua.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <unsync.h>

static const char script[] =
    "local unsync = require 'unsync'\n"
    "greeting = unsync.promise()\n"
    "unsync.spawn(function() print('script: the program says ' .. greeting:await() .. ' after 0.1 s') end)\n"
    "unsync.sleep(0.2)\n"
    "print('script: slept')\n";

static void sleep_ms(long ms) {
  nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* On the host's thread, in its next turn. */
static void greet(lua_State *L, void *context) {
  if (L == NULL) return; /* the host has ended before */
  lua_getglobal(L, "greeting");
  lua_getfield(L, -1, "resolve");
  lua_insert(L, -2);
  lua_pushstring(L, context);
  lua_call(L, 2, 0);
  lua_getglobal(L, "release");
  lua_call(L, 0, 0);
}

/* Some other thread of the program's. */
static void *work(void *host) {
  static char greeting[] = "hello";
  sleep_ms(100);
  unsync_host_post(host, greet, greeting);
  return NULL;
}

/* Something else that the loop looks after: a pipe that is written to now and then. */
static void *chatter(void *pipe_end) {
  for (int i = 0; i < 3; i++) {
    sleep_ms(20);
    if (write(*(int *)pipe_end, ".", 1) != 1) break;
  }
  return NULL;
}

/* release(): the promise is settled; who settles it is not needed any more */
static int release(lua_State *L) {
  unsync_host_release(lua_touserdata(L, lua_upvalueindex(1)));
  return 0;
}

int main(void) {
  unsync_host *host;
  int pipe_ends[2], reads = 0;
  if (pipe(pipe_ends) != 0 || unsync_host_new(&host, NULL) != 0) return 1;
  lua_State *L = unsync_host_lua(host);
  lua_pushlightuserdata(L, host);
  lua_pushcclosure(L, release, 1);
  lua_setglobal(L, "release");

  unsync_host_hold(host); /* the greeting comes from outside: waiting for it is no deadlock */
  unsync_host_start_string(host, script, strlen(script), "=script", 0, NULL);
  pthread_t worker, chatterer;
  if (pthread_create(&worker, NULL, work, host) != 0) return 1;
  if (pthread_create(&chatterer, NULL, chatter, &pipe_ends[1]) != 0) return 1;

  int status;
  while ((status = unsync_host_turn(host)) == UNSYNC_AGAIN) {
    struct pollfd watched[] = {{.fd = unsync_host_fd(host), .events = POLLIN}, {.fd = pipe_ends[0], .events = POLLIN}};
    poll(watched, 2, unsync_host_timeout_ms(host));
    char byte;
    if (watched[1].revents != 0 && read(pipe_ends[0], &byte, 1) == 1) reads++;
  }
  if (status != 0) fprintf(stderr, "%s\n%s\n", unsync_code_text(status), unsync_host_error(host));
  else printf("program: the script has ended, the pipe was read %d times meanwhile\n", reads);

  pthread_join(worker, NULL);
  pthread_join(chatterer, NULL);
  return unsync_host_free(host) == 0 && status == 0 ? 0 : 1;
}
