#include "loop/runtime.h"

#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "core/error.h"
#include "core/job.h"
#include "loop/chain.h"
#include "loop/party.h"
#include "loop/task.h"
#include "loop/test_clock.h"

/* Registry keys, by address. */
static const char runtime_key = 0, names_key = 0;

static void on_mail(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  uns_runtime *runtime = poll->data;
  uint64_t count;
  while (read(runtime->mailbox->fd, &count, sizeof count) < 0 && errno == EINTR) continue;
  uns_mailbox_awake(runtime->mailbox); /* the mail itself is taken by the turn */
}

static bool deliver_mail(uns_runtime *runtime);

static void on_uv_timer(uv_timer_t *timer) { uns_runtime_stir(timer->data); }

/* More than one core to run on: what we spin for may come from another one. */
static bool other_core_allowed(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 1;
}

static int open_registry(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  lua_pushlightuserdata(L, runtime);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
  void *arena;
  if (lua_getallocf(L, &arena) == uns_arena_allocate) ((uns_arena *)arena)->own[UNS_ARENA_OWN_RUNTIME] = runtime;
  lua_createtable(L, 16, 0);
  runtime->pins_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &names_key);
  uns_error_open(L);
  uns_future_open(L, runtime);
  return 0;
}

/* Pushes a userdata that has room for a runtime, anchored for as long as the state lives. */
static int new_in_state(lua_State *L) {
  lua_newuserdatauv(L, sizeof(uns_runtime), 0);
  lua_pushvalue(L, -1);
  luaL_ref(L, LUA_REGISTRYINDEX); /* for good: functions refer to it as an upvalue that is no value to Lua */
  return 1;
}

/* Zeroed memory for a runtime, or NULL. */
static uns_runtime *allocate(lua_State *L, bool in_state) {
  if (!in_state) return uns_calloc(1, sizeof(uns_runtime));
  lua_pushcfunction(L, new_in_state);
  uns_runtime *runtime = lua_pcall(L, 0, 1, 0) == LUA_OK ? lua_touserdata(L, -1) : NULL;
  lua_pop(L, 1);
  if (runtime == NULL) return NULL;
  memset(runtime, 0, sizeof *runtime);
  runtime->in_state = true;
  return runtime;
}

static int init_loop(uv_loop_t *loop) {
  loop->backend_fd = -1;
  int status = uv_loop_init(loop);
#if UV_VERSION_HEX < 0x012d00 /* which forgets it where something fails behind it */
  if (status != 0 && loop->backend_fd >= 0) close(loop->backend_fd);
#endif
  return status;
}

static void give_back(uns_runtime *runtime) {
  if (!runtime->in_state) uns_free(runtime);
}

uns_runtime *uns_runtime_new(lua_State *L, struct uns_executors *executors, bool in_state) {
  uns_runtime *runtime = allocate(L, in_state);
  if (runtime == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  runtime->L = L;
  runtime->running = L;
  atomic_init(&runtime->due_hint_ns, UINT64_MAX);
  runtime->now_ns = uns_clock_ns(); /* what starts before the first turn has an age, too */
  runtime->stride = 1;
  uns_timer_queue_init(&runtime->timers);
  runtime->executors = executors;
  runtime->spin.allowed = other_core_allowed();
  uns_list_init(&runtime->ready);
  uns_list_init(&runtime->tasks);
  uns_list_init(&runtime->idle);
  uns_list_init(&runtime->callbacks);
  uns_list_init(&runtime->sources);
  uns_list_init(&runtime->closers);
  uns_list_init(&runtime->idle_jobs);
  uns_list_init(&runtime->idle_scopes);
  uns_list_init(&runtime->unwanted);
  uns_list_init(&runtime->failures);
  uns_list_init(&runtime->holding);
  uns_list_init(&runtime->held_closer.link);
  uns_list_init(&runtime->permits);
  uns_list_init(&runtime->permits_apart);
  uns_list_init(&runtime->party.link);
  int status = init_loop(&runtime->loop);
  if (status != 0) {
    give_back(runtime);
    errno = -status;
    return NULL;
  }
  runtime->loop.data = runtime;
  runtime->mailbox = uns_mailbox_new();
  if (runtime->mailbox == NULL) {
    int saved = errno;
    uv_loop_close(&runtime->loop);
    give_back(runtime);
    errno = saved;
    return NULL;
  }
  uv_timer_init(&runtime->loop, &runtime->uv_timer);
  runtime->uv_timer.data = runtime;
  status = uv_poll_init(&runtime->loop, &runtime->mail_poll, runtime->mailbox->fd);
  if (status == 0) {
    runtime->mail_poll.data = runtime;
    uv_unref((uv_handle_t *)&runtime->uv_timer);
    uv_unref((uv_handle_t *)&runtime->mail_poll);
    status = uv_poll_start(&runtime->mail_poll, UV_READABLE, on_mail);
  }
  if (status == 0) {
    lua_pushcfunction(L, open_registry);
    lua_pushlightuserdata(L, runtime);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK) return runtime;
    lua_pop(L, 1);
    status = UV_ENOMEM;
  }
  runtime->closing = true; /* there is no task yet */
  uns_runtime_free(runtime);
  errno = -status;
  return NULL;
}

static void close_handle(uv_handle_t *handle, void *unused) {
  (void)unused;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void uns_runtime_close(uns_runtime *runtime) {
  if (runtime->closing) return;
  runtime->closing = true;
  runtime->current = NULL;
  runtime->cancel_job = NULL; /* the executors are gone */
  if (runtime->drop_permits != NULL) runtime->drop_permits(runtime);
  uns_tasks_deinit(runtime);
  for (uns_link *link; !uns_list_empty(&runtime->closers);) {
    link = runtime->closers.prev;
    uns_list_remove(link);
    uns_closer *closer = uns_container_of(link, uns_closer, link);
    closer->close(closer, runtime);
  }
}

/* The jobs' ends too: futures that somebody's finalizer may still look at must not point to jobs that are gone. */
static int deliver_last(lua_State *L) {
  deliver_mail(lua_touserdata(L, 1));
  return 0;
}

void uns_runtime_free(uns_runtime *runtime) {
  if (runtime == NULL) return;
  uns_party_leave(runtime);
  if (runtime->in_state) {
    lua_State *L = runtime->L;
    lua_pushcfunction(L, deliver_last);
    lua_pushlightuserdata(L, runtime);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  }
  uv_walk(&runtime->loop, close_handle, NULL);
  while (uv_run(&runtime->loop, UV_RUN_DEFAULT) != 0) continue; /* close callbacks */
  uv_loop_close(&runtime->loop);
  uns_mailbox_close(runtime->mailbox);
  uns_mailbox_unref(runtime->mailbox);
  runtime->mailbox = NULL;
  uns_shared_unref(runtime->search_path);
  uns_free(runtime->placement);
  runtime->placement = NULL;
  uns_timer_queue_deinit(&runtime->timers);
  for (uns_link *link; (link = uns_list_pop_front(&runtime->idle_jobs)) != NULL;)
    uns_job_free(uns_container_of(link, uns_job, link));
  uns_cancel_scopes_deinit(runtime);
  uns_sites_deinit(runtime);
  uns_free(runtime->idle_group);
  runtime->idle_group = NULL;
  uns_free(runtime->free_pins);
  runtime->free_pins = NULL;
  runtime->pin_capacity = runtime->free_pin_count = 0;
  uns_test_clock_free(runtime);
  give_back(runtime);
}

uns_runtime *uns_runtime_of(lua_State *L) {
  void *arena;
  if (lua_getallocf(L, &arena) == uns_arena_allocate) return ((const uns_arena *)arena)->own[UNS_ARENA_OWN_RUNTIME];
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key);
  uns_runtime *runtime = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return runtime;
}

const char *uns_runtime_intern(uns_runtime *runtime, lua_State *L, const char *name) {
  if (runtime->interned != NULL && strcmp(runtime->interned, name) == 0) return runtime->interned;
  luaL_checkstack(L, 3, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &names_key);
  const char *kept;
  lua_pushstring(L, name);
  if (lua_rawget(L, -2) != LUA_TSTRING) {
    lua_pop(L, 1);
    kept = lua_pushstring(L, name);
    lua_pushvalue(L, -1);
    lua_rawset(L, -3); /* the table holds the string, and strings do not move */
    lua_pushnil(L);
  } else {
    kept = lua_tostring(L, -1); /* a long name is another object each time: the one that is held counts */
  }
  lua_pop(L, 2);
  runtime->interned = kept;
  return kept;
}

/* intern_site(runtime) */
static int intern_site(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  struct uns_last_site *site = &runtime->last_site;
  lua_pushfstring(L, "%s:%d", site->source, site->line);
  site->text = uns_runtime_intern(runtime, L, lua_tostring(L, -1));
  return 0;
}

const char *uns_runtime_site(uns_runtime *runtime, lua_State *L) {
  enum { LEVELS = 16 };
  struct uns_last_site *last = &runtime->last_site;
  lua_Debug frame;
  for (int level = 1; level < LEVELS && lua_getstack(L, level, &frame) != 0; level++) { /* 0 is the C function that asks */
    lua_getinfo(L, level == 1 ? "Sl" : "S", &frame);
    if (*frame.what == 'C' || strncmp(frame.source, "@unsync/", 8) == 0) continue;
    if (level > 1) lua_getinfo(L, "l", &frame); /* only now: to find a line takes longer than all the rest */
    if (frame.currentline <= 0) continue;
    if (frame.currentline == last->line && last->text != NULL && strcmp(frame.short_src, last->source) == 0)
      return last->text;
    if (!lua_checkstack(runtime->L, 3)) return NULL;
    last->line = frame.currentline;
    last->text = NULL;
    memcpy(last->source, frame.short_src, sizeof last->source);
    lua_pushcfunction(runtime->L, intern_site);
    lua_pushlightuserdata(runtime->L, runtime);
    if (lua_pcall(runtime->L, 1, 0, 0) != LUA_OK) lua_pop(runtime->L, 1);
    return last->text;
  }
  return NULL;
}

/* As many pins may be free as there ever were: to free one cannot fail. */
static bool more_pins(uns_runtime *runtime) {
  size_t capacity = runtime->pin_capacity == 0 ? 64 : 2 * runtime->pin_capacity;
  if (capacity > INT_MAX) return false;
  int *free_pins = uns_realloc(runtime->free_pins, capacity * sizeof *free_pins);
  if (free_pins == NULL) return false;
  runtime->free_pins = free_pins;
  runtime->pin_capacity = capacity;
  return true;
}

int uns_runtime_pin(uns_runtime *runtime, lua_State *L) {
  bool fresh = runtime->free_pin_count == 0;
  if (fresh && (size_t)runtime->last_pin == runtime->pin_capacity && !more_pins(runtime))
    return luaL_error(L, "not enough memory");
  int pin = fresh ? runtime->last_pin + 1 : runtime->free_pins[runtime->free_pin_count - 1];
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->pins_ref);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, pin);
  lua_pop(L, 2);
  if (fresh) runtime->last_pin = pin; /* only now: rawseti may have raised */
  else runtime->free_pin_count--;
  return pin;
}

/* pin(value) -> its pin */
static int pin_value(lua_State *L) {
  lua_settop(L, 1);
  lua_pushinteger(L, uns_runtime_pin(uns_runtime_of(L), L));
  return 1;
}

int uns_runtime_try_pin(lua_State *L) {
  if (!lua_checkstack(L, 2)) {
    lua_pop(L, 1);
    return 0;
  }
  lua_pushcfunction(L, pin_value);
  lua_insert(L, -2);
  int pin = lua_pcall(L, 1, 1, 0) == LUA_OK ? (int)lua_tointeger(L, -1) : 0;
  lua_pop(L, 1);
  return pin;
}

void uns_runtime_push_pins(uns_runtime *runtime, lua_State *L) { lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->pins_ref); }

void uns_runtime_push_pin(uns_runtime *runtime, lua_State *L, int pin) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->pins_ref);
  lua_rawgeti(L, -1, pin);
  lua_replace(L, -2);
}

void uns_runtime_unpin(uns_runtime *runtime, int pin) {
  if (runtime->free_pin_count == runtime->pin_capacity) return; /* the runtime has been freed; the state is about to be */
  lua_State *L = runtime->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->pins_ref);
  lua_pushnil(L);
  lua_rawseti(L, -2, pin);
  lua_pop(L, 1);
  runtime->free_pins[runtime->free_pin_count++] = pin;
}

static bool deliver_mail(uns_runtime *runtime) {
  uns_mail *mail = uns_mailbox_take(runtime->mailbox);
  if (mail == NULL) return false;
  while (mail != NULL) {
    uns_mail *next = mail->next; /* deliver may free the mail */
    mail->deliver(mail, runtime);
    mail = next;
  }
  return true;
}

void uns_runtime_report(uns_runtime *runtime, const char *text) {
  if (runtime->report != NULL) {
    runtime->report(runtime, text);
    return;
  }
  fflush(stdout);
  fprintf(stderr, "unsync: %s\n", text);
}

void uns_runtime_call_soon(uns_runtime *runtime, uns_callback *callback) {
  uns_runtime_stir(runtime);
  if (uns_list_empty(&callback->link)) uns_list_push_back(&runtime->callbacks, &callback->link);
}

static bool run_callbacks(uns_runtime *runtime) {
  uns_link *link = uns_list_pop_front(&runtime->callbacks);
  if (link == NULL) return false;
  for (; link != NULL; link = uns_list_pop_front(&runtime->callbacks)) {
    uns_callback *callback = uns_container_of(link, uns_callback, link);
    callback->run(callback, runtime);
  }
  return true;
}

static bool poll_sources(uns_runtime *runtime) {
  bool found = false;
  for (uns_link *link = runtime->sources.next; link != &runtime->sources;) {
    uns_source *source = uns_container_of(link, uns_source, link);
    link = link->next;
    found |= source->poll(source, runtime);
  }
  return found;
}

static bool source_crowded(const uns_runtime *runtime) {
  for (const uns_link *link = runtime->sources.next; link != &runtime->sources; link = link->next) {
    if (uns_container_of(link, uns_source, link)->crowded) return true;
  }
  return false;
}

/* How long it may sleep, of `left_ns`. */
static uint64_t dozing_ns(const uns_runtime *runtime, uint64_t left_ns) {
  for (const uns_link *link = runtime->sources.next; link != &runtime->sources; link = link->next) {
    if (uns_container_of(link, uns_source, link)->dozes && left_ns > UNS_DOZE_NS) left_ns = UNS_DOZE_NS;
  }
  return left_ns;
}

static bool source_busy(const uns_runtime *runtime) {
  for (const uns_link *link = runtime->sources.next; link != &runtime->sources; link = link->next) {
    if (uns_container_of(link, uns_source, link)->busy) return true;
  }
  return false;
}

/* What came from elsewhere. */
static bool take_news(uns_runtime *runtime) {
  bool found = deliver_mail(runtime);
  if (!uns_list_empty(&runtime->sources)) found |= poll_sources(runtime);
  return found;
}

/* Arms the one uv timer for the nearest deadline; rounded up, since a timer must never fire early. */
static void arm_uv_timer(uns_runtime *runtime, uint64_t left_ns) {
  if (left_ns == UINT64_MAX) {
    uv_timer_stop(&runtime->uv_timer);
    return;
  }
  uv_update_time(&runtime->loop);
  uv_timer_start(&runtime->uv_timer, on_uv_timer, (left_ns + 999999) / 1000000, 0);
}

/* News is expected soon: looks for it for about as long as a sleep and a wake-up would take. */
static bool spin(uns_runtime *runtime) {
  if (!uns_spin_begin(&runtime->spin)) return false;
  bool hit = false;
  do {
    for (int i = 0; i < 32 && !hit; i++) {
      if (uns_mailbox_has_mail(runtime->mailbox)) hit = deliver_mail(runtime);
      if (!hit && !uns_list_empty(&runtime->sources)) hit = poll_sources(runtime);
      uns_spin_pause();
    }
  } while (uns_spin_on(&runtime->spin) && !hit);
  uns_spin_end(&runtime->spin, hit);
  return hit;
}

/* Something of our own is under way, and may come at any moment. */
static bool own_flight(uns_runtime *runtime) {
  return runtime->pending > runtime->asked || uv_loop_alive(&runtime->loop) ||
         (runtime->busy != NULL && runtime->busy(runtime));
}

/* Something is under way, here or elsewhere. */
static bool in_flight(uns_runtime *runtime) {
  return runtime->asked > 0 || source_busy(runtime) || own_flight(runtime);
}

static bool time_helps(const uns_runtime *runtime) {
  return runtime->timers.count > runtime->limit_timers ||
         (runtime->test_clock != NULL && uns_test_clock_goes(runtime->test_clock));
}

/*
 * Only other states can wake this one. A test clock that jumps counts for nothing there where those hold it up: once all of them
 * stand still it is told to jump. A worker process has no say in that: the host alone knows of all.
 */
static bool waits_for_others(uns_runtime *runtime) {
  if (runtime->party.parties == NULL || own_flight(runtime)) return false;
  if (runtime->timers.count > runtime->limit_timers) return false;
  const uns_test_clock *clock = runtime->test_clock;
  if (clock == NULL || !uns_test_clock_goes(clock)) return true;
  return uns_test_clock_held_up(clock) && runtime->channel_remote == NULL;
}

/* Something may happen. Whether other states will go on, all of them know together: loop/party.h. */
static bool hope(uns_runtime *runtime) {
  return time_helps(runtime) || in_flight(runtime) || uns_chain_leads_elsewhere(runtime);
}

/* Asks all sources to wake the loop through its mailbox, or to do so no more. False: it must not sleep. */
static bool sources_fall_asleep(uns_runtime *runtime, bool asleep) {
  bool may = true;
  for (uns_link *link = runtime->sources.next; link != &runtime->sources; link = link->next) {
    uns_source *source = uns_container_of(link, uns_source, link);
    if (source->fall_asleep != NULL && !source->fall_asleep(source, asleep)) may = false;
  }
  return may;
}

/* Where only unreferenced handles are left, which is the rule here, uv_run would do nothing at all. */
static void turn_uv(uns_runtime *runtime, uv_run_mode mode) {
  runtime->in_uv = true;
  uv_ref((uv_handle_t *)&runtime->mail_poll);
  uv_run(&runtime->loop, mode);
  uv_unref((uv_handle_t *)&runtime->mail_poll);
  runtime->in_uv = false;
}

static void sleep_in_kernel(uns_runtime *runtime) {
  uint64_t left_ns = uns_timers_left(runtime); /* of now: the turn may have taken its time */
  arm_uv_timer(runtime, left_ns);
  if (runtime->before_sleep != NULL && runtime->before_sleep(runtime)) {
    turn_uv(runtime, UV_RUN_NOWAIT);
    return;
  }
  if (!uns_list_empty(&runtime->ready)) return; /* before_sleep woke somebody */
  if (runtime->lend != NULL) runtime->lend(runtime, true);
  bool tired = uns_list_empty(&runtime->ready); /* where no more may wait, lending has woken one with the error `limit` */
  if (tired && uns_mailbox_fall_asleep(runtime->mailbox) && sources_fall_asleep(runtime, true)) {
    if (dozing_ns(runtime, left_ns) < left_ns) arm_uv_timer(runtime, UNS_DOZE_NS);
    bool quiet = waits_for_others(runtime);
    if (quiet) uns_party_rest(runtime);
    turn_uv(runtime, UV_RUN_ONCE);
    if (quiet) uns_party_rise(runtime);
  }
  uns_mailbox_awake(runtime->mailbox);
  sources_fall_asleep(runtime, false);
  if (runtime->lend != NULL) runtime->lend(runtime, false);
  uns_runtime_tell_awake(runtime);
}

static bool something_ready(uns_runtime *runtime) {
  return !uns_list_empty(&runtime->ready) || !uns_list_empty(&runtime->callbacks) ||
         uns_mailbox_has_mail(runtime->mailbox);
}

/* The last resort, before what waits is told that it waits for ever. */
static bool lend_anyway(uns_runtime *runtime) {
  return runtime->limited_count > 0 && runtime->lend_permits(runtime, true);
}

bool uns_runtime_hopeful(uns_runtime *runtime) {
  return something_ready(runtime) || hope(runtime) || lend_anyway(runtime);
}

int uns_runtime_fall_asleep(uns_runtime *runtime) {
  if (something_ready(runtime)) return 0;
  turn_uv(runtime, UV_RUN_NOWAIT); /* hands new descriptors to the kernel, too */
  /* After it: what falls due in it is for a nested loop, which nobody would look at any more. */
  if (runtime->before_sleep != NULL && runtime->before_sleep(runtime)) return 0;
  if (something_ready(runtime)) return 0;
  if (runtime->test_clock != NULL && uns_test_clock_move(runtime, in_flight(runtime))) return 0;
  uint64_t left_ns = uns_timers_left(runtime);
  if (left_ns == 0) return 0;
  if (!uns_mailbox_fall_asleep(runtime->mailbox) || !sources_fall_asleep(runtime, true)) {
    uns_runtime_awake(runtime);
    return 0;
  }
  left_ns = dozing_ns(runtime, left_ns);
  uv_ref((uv_handle_t *)&runtime->mail_poll); /* libuv would not sleep for what it does not count */
  int timeout_ms = uv_backend_timeout(&runtime->loop);
  uv_unref((uv_handle_t *)&runtime->mail_poll);
  if (left_ns != UINT64_MAX) {
    uint64_t left_ms = (left_ns + 999999) / 1000000;
    if (timeout_ms < 0 || left_ms < (uint64_t)timeout_ms) timeout_ms = left_ms < INT_MAX ? (int)left_ms : INT_MAX;
  }
  if (timeout_ms == 0) uns_runtime_awake(runtime);
  return timeout_ms;
}

void uns_runtime_awake(uns_runtime *runtime) {
  uns_mailbox_awake(runtime->mailbox);
  sources_fall_asleep(runtime, false);
}

bool uns_runtime_turn(uns_runtime *runtime, bool wait) {
  uns_task *outer = runtime->current; /* a wait on the main thread turns the loop from inside */
  runtime->current = NULL;
  atomic_store_explicit(&runtime->turn_ns, uns_clock_ns(), memory_order_relaxed);
  runtime->now_ns = runtime->test_clock == NULL ? uns_runtime_turn_ns(runtime) : uns_now_ns(runtime);
  if (__builtin_expect(runtime->look_wanted, 0)) runtime->look(runtime, runtime->L);
  bool worked = take_news(runtime);
  uns_timers_run(runtime, &worked);
  worked |= uns_tasks_run(runtime);
  worked |= run_callbacks(runtime);
  if (__builtin_expect(runtime->limited_count > 0, 0) && !worked) worked = runtime->lend_permits(runtime, false);
  bool alive = true;
  if (worked || !wait || !uns_list_empty(&runtime->ready)) { /* more may be ready by now */
    bool asked = !wait && uns_list_empty(&runtime->ready); /* else there will be a sleep, which looks, too */
    if (asked || uns_runtime_turn_ns(runtime) - runtime->polled_ns >= UNS_POLL_NS) {
      runtime->polled_ns = uns_runtime_turn_ns(runtime);
      if (runtime->before_sleep != NULL) runtime->before_sleep(runtime);
      turn_uv(runtime, UV_RUN_NOWAIT);
    }
  } else if (__builtin_expect(runtime->test_clock != NULL, 0) && uns_test_clock_move(runtime, in_flight(runtime))) {
    worked = true; /* all wait, and time has passed */
  } else if ((runtime->pending > runtime->pending_io || source_busy(runtime)) && !source_crowded(runtime) &&
             spin(runtime)) {
    worked = true;
  } else if (hope(runtime)) {
    sleep_in_kernel(runtime);
  } else {
    alive = lend_anyway(runtime);
  }
  runtime->current = outer;
  return alive;
}
