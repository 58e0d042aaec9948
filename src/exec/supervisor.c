#include "exec/supervisor.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

typedef struct timer {
  uint64_t due_ns, order; /* equal ones in the order they were asked for */
  void (*callback)(void *argument);
  void *argument;
} timer;

struct uns_supervisor {
  uns_mailbox *mailbox; /* one reference */
  int poll_fd;
  pthread_t thread;
  uv_mutex_t lock;
  uv_cond_t called; /* `running` changed */
  timer *timers;    /* a binary heap; owned */
  size_t timer_count, timer_capacity;
  uint64_t timer_order;
  uint64_t sleeps_until_ns; /* while it sleeps: when it will look at the timers again */
  void *running;            /* the argument of the callback that runs now */
  bool stop;
  uns_link sweeps;
};

/* ---- timers, under the lock ---- */

static bool before(const timer *a, const timer *b) {
  return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void swap(timer *a, timer *b) {
  timer kept = *a;
  *a = *b;
  *b = kept;
}

static void sift_up(timer *timers, size_t place) {
  while (place > 0 && before(&timers[place], &timers[(place - 1) / 2])) {
    swap(&timers[place], &timers[(place - 1) / 2]);
    place = (place - 1) / 2;
  }
}

static void sift_down(timer *timers, size_t count, size_t place) {
  for (;;) {
    size_t least = place, left = 2 * place + 1;
    if (left < count && before(&timers[left], &timers[least])) least = left;
    if (left + 1 < count && before(&timers[left + 1], &timers[least])) least = left + 1;
    if (least == place) return;
    swap(&timers[place], &timers[least]);
    place = least;
  }
}

static void take_timer(uns_supervisor *supervisor, size_t place) {
  supervisor->timers[place] = supervisor->timers[--supervisor->timer_count];
  if (place == supervisor->timer_count) return;
  sift_down(supervisor->timers, supervisor->timer_count, place);
  sift_up(supervisor->timers, place);
}

int uns_supervisor_after(uns_supervisor *supervisor, uint64_t delay_ns, void (*callback)(void *argument),
                         void *argument) {
  uint64_t now = uns_clock_ns();
  uint64_t due_ns = delay_ns > UINT64_MAX - now ? UINT64_MAX : now + delay_ns;
  uv_mutex_lock(&supervisor->lock);
  if (supervisor->timer_count == supervisor->timer_capacity) {
    size_t capacity = supervisor->timer_capacity == 0 ? 8 : supervisor->timer_capacity * 2;
    timer *timers = uns_realloc(supervisor->timers, capacity * sizeof *timers);
    if (timers == NULL) {
      uv_mutex_unlock(&supervisor->lock);
      return -1;
    }
    supervisor->timers = timers;
    supervisor->timer_capacity = capacity;
  }
  supervisor->timers[supervisor->timer_count] = (timer){due_ns, supervisor->timer_order++, callback, argument};
  sift_up(supervisor->timers, supervisor->timer_count++);
  bool wake = due_ns < supervisor->sleeps_until_ns;
  if (wake) supervisor->sleeps_until_ns = 0; /* one wake-up is enough */
  uv_mutex_unlock(&supervisor->lock);
  if (wake) uns_mailbox_wake(supervisor->mailbox);
  return 0;
}

void uns_supervisor_forget(uns_supervisor *supervisor, void *argument) {
  uv_mutex_lock(&supervisor->lock);
  for (size_t i = 0; i < supervisor->timer_count;) {
    if (supervisor->timers[i].argument == argument) {
      take_timer(supervisor, i);
      i = 0; /* the heap was moved about */
    } else {
      i++;
    }
  }
  if (!pthread_equal(pthread_self(), supervisor->thread)) {
    while (supervisor->running == argument) uv_cond_wait(&supervisor->called, &supervisor->lock);
  }
  uv_mutex_unlock(&supervisor->lock);
}

/* Calls what is due. False: it shall end. */
static bool call_back(uns_supervisor *supervisor) {
  uv_mutex_lock(&supervisor->lock);
  supervisor->sleeps_until_ns = 0;
  uint64_t now = uns_clock_ns();
  while (!supervisor->stop && supervisor->timer_count > 0 && supervisor->timers[0].due_ns <= now) {
    timer due = supervisor->timers[0];
    take_timer(supervisor, 0);
    supervisor->running = due.argument;
    uv_mutex_unlock(&supervisor->lock);
    due.callback(due.argument);
    uv_mutex_lock(&supervisor->lock);
    supervisor->running = NULL;
    uv_cond_broadcast(&supervisor->called);
  }
  bool go_on = !supervisor->stop;
  uv_mutex_unlock(&supervisor->lock);
  return go_on;
}

/* Milliseconds to sleep, rounded up; -1: for ever. */
static int time_to_sleep(uns_supervisor *supervisor) {
  int timeout_ms = -1;
  uv_mutex_lock(&supervisor->lock);
  supervisor->sleeps_until_ns = UINT64_MAX;
  if (supervisor->stop) {
    timeout_ms = 0;
  } else if (supervisor->timer_count > 0) {
    uint64_t now = uns_clock_ns(), due_ns = supervisor->timers[0].due_ns;
    uint64_t left_ms = due_ns <= now ? 0 : (due_ns - now + 999999) / 1000000;
    timeout_ms = left_ms > INT_MAX ? INT_MAX : (int)left_ms;
    supervisor->sleeps_until_ns = due_ns;
  }
  uv_mutex_unlock(&supervisor->lock);
  return timeout_ms;
}

/* ---- the thread ---- */

static void take_mail(uns_supervisor *supervisor) {
  for (uns_mail *mail = uns_mailbox_take(supervisor->mailbox); mail != NULL;) {
    uns_mail *next = mail->next;
    mail->deliver(mail, supervisor);
    mail = next;
  }
}

static void sweep_all(uns_supervisor *supervisor) {
  for (uns_link *link = supervisor->sweeps.next; link != &supervisor->sweeps;) {
    uns_sweep *sweep = uns_container_of(link, uns_sweep, link);
    link = link->next;
    sweep->sweep(sweep);
  }
}

static void *supervise(void *argument) {
  uns_supervisor *supervisor = argument;
  struct epoll_event events[32];
  while (call_back(supervisor)) {
    take_mail(supervisor);
    int timeout_ms = time_to_sleep(supervisor);
    if (!uns_mailbox_fall_asleep(supervisor->mailbox)) timeout_ms = 0;
    int count = epoll_wait(supervisor->poll_fd, events, sizeof events / sizeof *events, timeout_ms);
    uns_mailbox_awake(supervisor->mailbox);
    bool woken = false;
    for (int i = 0; i < count; i++) {
      uns_watch *watch = events[i].data.ptr;
      if (watch == NULL) {
        uint64_t wakes;
        while (read(supervisor->mailbox->fd, &wakes, sizeof wakes) < 0 && errno == EINTR) continue;
        woken = true;
      } else if (watch->fd >= 0) { /* not unwatched by one that was ready with it */
        watch->ready(watch, events[i].events);
      }
    }
    if (woken) sweep_all(supervisor);
  }
  return NULL;
}

static int start_thread(uns_supervisor *supervisor) {
  sigset_t all, kept;
  sigfillset(&all); /* signals are for the main thread */
  pthread_sigmask(SIG_SETMASK, &all, &kept);
  int status = pthread_create(&supervisor->thread, NULL, supervise, supervisor);
  pthread_sigmask(SIG_SETMASK, &kept, NULL);
  return status;
}

uns_supervisor *uns_supervisor_new(void) {
  int status = ENOMEM;
  uns_supervisor *supervisor = uns_calloc(1, sizeof *supervisor);
  if (supervisor == NULL) goto no_memory;
  uns_list_init(&supervisor->sweeps);
  if (uv_mutex_init(&supervisor->lock) != 0) goto no_lock;
  if (uv_cond_init(&supervisor->called) != 0) goto no_cond;
  supervisor->mailbox = uns_mailbox_new();
  status = errno;
  if (supervisor->mailbox == NULL) goto no_mailbox;
  supervisor->poll_fd = epoll_create1(EPOLL_CLOEXEC);
  status = errno;
  if (supervisor->poll_fd < 0) goto no_poll;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll_ctl(supervisor->poll_fd, EPOLL_CTL_ADD, supervisor->mailbox->fd, &event) != 0) {
    status = errno;
    goto no_thread;
  }
  status = start_thread(supervisor);
  if (status == 0) return supervisor;
no_thread:
  close(supervisor->poll_fd);
no_poll:
  uns_mailbox_unref(supervisor->mailbox);
no_mailbox:
  uv_cond_destroy(&supervisor->called);
no_cond:
  uv_mutex_destroy(&supervisor->lock);
no_lock:
  uns_free(supervisor);
no_memory:
  errno = status;
  return NULL;
}

void uns_supervisor_free(uns_supervisor *supervisor) {
  if (supervisor == NULL) return;
  uv_mutex_lock(&supervisor->lock);
  supervisor->stop = true;
  uv_mutex_unlock(&supervisor->lock);
  uns_mailbox_wake(supervisor->mailbox);
  pthread_join(supervisor->thread, NULL);
  uns_mailbox_close(supervisor->mailbox);
  close(supervisor->poll_fd);
  uns_mailbox_unref(supervisor->mailbox);
  uv_cond_destroy(&supervisor->called);
  uv_mutex_destroy(&supervisor->lock);
  uns_free(supervisor->timers);
  uns_free(supervisor);
}

uns_mailbox *uns_supervisor_mailbox(uns_supervisor *supervisor) { return supervisor->mailbox; }

/* ---- what it looks after ---- */

static int control(uns_supervisor *supervisor, int operation, uns_watch *watch, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = watch};
  if (epoll_ctl(supervisor->poll_fd, operation, watch->fd, &event) != 0) return -1;
  watch->events = events;
  return 0;
}

int uns_supervisor_watch(uns_supervisor *supervisor, uns_watch *watch, int fd, uint32_t events) {
  watch->fd = fd;
  if (control(supervisor, EPOLL_CTL_ADD, watch, events) == 0) return 0;
  watch->fd = -1;
  return -1;
}

int uns_supervisor_rewatch(uns_supervisor *supervisor, uns_watch *watch, uint32_t events) {
  return events == watch->events ? 0 : control(supervisor, EPOLL_CTL_MOD, watch, events);
}

void uns_supervisor_unwatch(uns_supervisor *supervisor, uns_watch *watch) {
  if (watch->fd < 0) return;
  epoll_ctl(supervisor->poll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
  watch->fd = -1;
}

void uns_supervisor_add_sweep(uns_supervisor *supervisor, uns_sweep *sweep) {
  uns_list_push_back(&supervisor->sweeps, &sweep->link);
}
