#include "core/stats.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum {
  SUB_BITS = 3,  /* eight buckets for each doubling */
  FIRST_BIT = 7, /* what is shorter than 128 ns is in the first bucket */
  LAST_BIT = 43, /* what is longer than two hours in the last */
  BUCKETS = ((LAST_BIT - FIRST_BIT) << SUB_BITS) + 1,
  NAME_MAX_BYTES = 64,
  FUNCTIONS_MAX = 1000, /* what comes later is counted as one function */
  SLOTS = 4096          /* of the hash table */
};

typedef struct {
  uint64_t count, longest_ns;
  uint32_t buckets[BUCKETS];
} histogram;

typedef struct {
  uns_kind kind;
  char name[NAME_MAX_BYTES];
  uint64_t ends[3]; /* by uns_call_end */
  histogram queued, ran;
} entry;

struct uns_stats {
  uv_mutex_t lock; /* guards what follows */
  uint64_t workers[UNS_KIND_CPU + 1], sent, returned;
  entry *entries[FUNCTIONS_MAX + UNS_KIND_CPU + 1]; /* owned; behind the many, those for the rest of each kind */
  uint32_t count;
  uint16_t slots[SLOTS]; /* index in `entries` + 1; 0: free */
};

/* ---- histograms ---- */

static unsigned bucket_of(uint64_t ns) {
  if (ns >> FIRST_BIT == 0) return 0;
  unsigned bit = 63 - (unsigned)__builtin_clzll(ns); /* the highest that is set */
  if (bit >= LAST_BIT) return BUCKETS - 1;
  unsigned sub = (unsigned)(ns >> (bit - SUB_BITS)) & ((1u << SUB_BITS) - 1);
  return ((bit - FIRST_BIT) << SUB_BITS) + sub + 1;
}

/* The middle of a bucket. */
static uint64_t middle_of(unsigned bucket) {
  if (bucket == 0) return 1ull << (FIRST_BIT - 1);
  unsigned bit = FIRST_BIT + ((bucket - 1) >> SUB_BITS), sub = (bucket - 1) & ((1u << SUB_BITS) - 1);
  uint64_t width = 1ull << (bit - SUB_BITS);
  return (1ull << bit) + sub * width + width / 2;
}

static void note(histogram *times, uint64_t ns) {
  times->count++;
  if (ns > times->longest_ns) times->longest_ns = ns;
  times->buckets[bucket_of(ns)]++;
}

static void merge(histogram *into, const histogram *from) {
  into->count += from->count;
  if (from->longest_ns > into->longest_ns) into->longest_ns = from->longest_ns;
  for (unsigned i = 0; i < BUCKETS; i++) into->buckets[i] += from->buckets[i];
}

/* What `share` of them (in hundredths) stay below. */
static uint64_t quantile(const histogram *times, unsigned share) {
  uint64_t wanted = (times->count * share + 99) / 100, seen = 0;
  for (unsigned i = 0; i < BUCKETS; i++) {
    seen += times->buckets[i];
    if (seen >= wanted && seen > 0) {
      uint64_t middle_ns = middle_of(i);
      return middle_ns < times->longest_ns ? middle_ns : times->longest_ns;
    }
  }
  return 0;
}

/* ---- counting ---- */

uns_stats *uns_stats_new(void) {
  uns_stats *stats = uns_calloc(1, sizeof *stats);
  if (stats == NULL) return NULL;
  if (uv_mutex_init(&stats->lock) == 0) return stats;
  uns_free(stats);
  return NULL;
}

void uns_stats_free(uns_stats *stats) {
  if (stats == NULL) return;
  for (size_t i = 0; i < sizeof stats->entries / sizeof *stats->entries; i++) uns_free(stats->entries[i]);
  uv_mutex_destroy(&stats->lock);
  uns_free(stats);
}

static entry *entry_new(uns_kind kind, const char *name) {
  entry *made = uns_calloc(1, sizeof *made);
  if (made == NULL) return NULL;
  made->kind = kind;
  strncpy(made->name, name, sizeof made->name - 1);
  return made;
}

/* All that found no place of their own. */
static entry *rest_of(uns_stats *stats, uns_kind kind) {
  entry **rest = &stats->entries[FUNCTIONS_MAX + kind];
  if (*rest == NULL) *rest = entry_new(kind, "(others)");
  return *rest;
}

/* The function's entry, made at its first call; NULL without memory. The lock held. */
static entry *entry_of(uns_stats *stats, uns_kind kind, const char *name) {
  uint32_t hash = 2166136261u + (uint32_t)kind;
  for (size_t i = 0; i < NAME_MAX_BYTES - 1 && name[i] != '\0'; i++) hash = (hash ^ (unsigned char)name[i]) * 16777619u;
  uint32_t slot = hash % SLOTS;
  for (; stats->slots[slot] != 0; slot = (slot + 1) % SLOTS) {
    entry *known = stats->entries[stats->slots[slot] - 1];
    if (known->kind == kind && strncmp(known->name, name, NAME_MAX_BYTES - 1) == 0) return known;
  }
  if (stats->count == FUNCTIONS_MAX) return rest_of(stats, kind);
  entry *made = entry_new(kind, name);
  if (made == NULL) return NULL;
  stats->entries[stats->count++] = made;
  stats->slots[slot] = (uint16_t)stats->count;
  return made;
}

void uns_stats_call(uns_stats *stats, uns_kind kind, const char *name, uns_call_end end, uint64_t queued_ns,
                    uint64_t ran_ns) {
  uv_mutex_lock(&stats->lock);
  entry *counted = entry_of(stats, kind, name);
  if (counted != NULL) {
    counted->ends[end]++;
    if (queued_ns != UINT64_MAX) note(&counted->queued, queued_ns);
    if (ran_ns != UINT64_MAX) note(&counted->ran, ran_ns);
  }
  uv_mutex_unlock(&stats->lock);
}

void uns_stats_worker(uns_stats *stats, uns_kind kind) {
  uv_mutex_lock(&stats->lock);
  stats->workers[kind]++;
  uv_mutex_unlock(&stats->lock);
}

void uns_stats_bytes(uns_stats *stats, uint64_t sent, uint64_t returned) {
  uv_mutex_lock(&stats->lock);
  stats->sent += sent;
  stats->returned += returned;
  uv_mutex_unlock(&stats->lock);
}

/* ---- printing ---- */

static const char *const kind_names[] = {"io", "thread", "cpu"};

enum { COLUMN_BYTES = 16 };

/* "1.25 ms": three digits, and a unit that fits. */
static void format_time(char *text, bool known, uint64_t ns) {
  static const struct {
    uint64_t ns;
    const char *name;
  } units[] = {{1000000000, "s"}, {1000000, "ms"}, {1000, "us"}, {1, "ns"}};
  if (!known) {
    snprintf(text, COLUMN_BYTES, "-");
    return;
  }
  size_t unit = 0;
  while (unit < 3 && ns < units[unit].ns) unit++;
  double value = (double)ns / (double)units[unit].ns;
  snprintf(text, COLUMN_BYTES, "%.*f %s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, units[unit].name);
}

static void format_bytes(char *text, uint64_t bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
  double value = (double)bytes;
  size_t unit = 0;
  for (; value >= 1024 && unit < 3; unit++) value /= 1024;
  snprintf(text, COLUMN_BYTES, "%.*f %s", unit == 0 || value >= 99.95 ? 0 : 1, value, units[unit]);
}

static uint64_t calls_of(const entry *counted) { return counted->ends[0] + counted->ends[1] + counted->ends[2]; }

static void print_line(FILE *file, const char *name, const entry *counted) {
  char times[6][COLUMN_BYTES];
  static const unsigned shares[] = {50, 95};
  for (size_t i = 0; i < 2; i++) {
    const histogram *of = i == 0 ? &counted->queued : &counted->ran;
    for (size_t j = 0; j < 2; j++) format_time(times[i * 3 + j], of->count > 0, quantile(of, shares[j]));
    format_time(times[i * 3 + 2], of->count > 0, of->longest_ns);
  }
  char clean[NAME_MAX_BYTES]; /* a name is whatever the script says */
  size_t length = 0;
  for (; name[length] != '\0'; length++) clean[length] = (unsigned char)name[length] < ' ' ? '?' : name[length];
  clean[length] = '\0';
  fprintf(file, "%-28s %-6s %8llu %7llu %9llu %8s %8s %8s %8s %8s %8s\n", clean, kind_names[counted->kind],
          (unsigned long long)calls_of(counted), (unsigned long long)counted->ends[UNS_CALL_FAILED],
          (unsigned long long)counted->ends[UNS_CALL_CANCELLED], times[0], times[1], times[2], times[3], times[4],
          times[5]);
}

/* By executor, then by the number of calls. */
static int before(const void *a, const void *b) {
  const entry *one = *(const entry *const *)a, *other = *(const entry *const *)b;
  if (one->kind != other->kind) return one->kind < other->kind ? -1 : 1;
  uint64_t calls = calls_of(one), others = calls_of(other);
  return calls != others ? (calls > others ? -1 : 1) : strcmp(one->name, other->name);
}

/* The functions of one kind, from `sorted[from]` on, and where there are several of them all as one. Returns the next. */
static size_t print_kind(FILE *file, entry **sorted, size_t from, size_t count) {
  size_t next = from;
  entry *all = entry_new(sorted[from]->kind, "");
  for (; next < count && sorted[next]->kind == sorted[from]->kind; next++) {
    print_line(file, sorted[next]->name, sorted[next]);
    if (all == NULL) continue;
    for (size_t i = 0; i < 3; i++) all->ends[i] += sorted[next]->ends[i];
    merge(&all->queued, &sorted[next]->queued);
    merge(&all->ran, &sorted[next]->ran);
  }
  if (all != NULL && next - from > 1) print_line(file, "(all)", all);
  uns_free(all);
  return next;
}

void uns_stats_print(uns_stats *stats, FILE *file) {
  uv_mutex_lock(&stats->lock);
  entry *sorted[sizeof stats->entries / sizeof *stats->entries];
  size_t count = 0;
  for (size_t i = 0; i < sizeof stats->entries / sizeof *stats->entries; i++) {
    if (stats->entries[i] != NULL) sorted[count++] = stats->entries[i];
  }
  qsort(sorted, count, sizeof *sorted, before);
  fprintf(file, "%-28s %-6s %8s %7s %9s %26s %26s\n", "unsync: statistics", "", "", "", "", "queue wait  ",
          "run time  ");
  fprintf(file, "%-28s %-6s %8s %7s %9s %8s %8s %8s %8s %8s %8s\n", "function", "on", "calls", "failed", "cancelled",
          "median", "p95", "max", "median", "p95", "max");
  for (size_t i = 0; i < count;) i = print_kind(file, sorted, i, count);
  char sent[COLUMN_BYTES], returned[COLUMN_BYTES];
  format_bytes(sent, stats->sent);
  format_bytes(returned, stats->returned);
  fprintf(file, "workers started: %llu thread%s, %llu process%s; crossed: %s to them, %s back\n",
          (unsigned long long)stats->workers[UNS_KIND_THREAD], stats->workers[UNS_KIND_THREAD] == 1 ? "" : "s",
          (unsigned long long)stats->workers[UNS_KIND_CPU], stats->workers[UNS_KIND_CPU] == 1 ? "" : "es", sent,
          returned);
  uv_mutex_unlock(&stats->lock);
}
