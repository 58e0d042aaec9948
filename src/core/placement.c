#include "core/placement.h"

#include <string.h>

/* "pattern", KIND_FOLLOWS, a letter, RULE_ENDS: as no pattern holds such bytes, nothing needs to be escaped. */
enum { KIND_FOLLOWS = '\x1f', RULE_ENDS = '\x1e' };

static const struct {
  const char *name;
  uns_kind kind;
  char letter;
} kinds[] = {{"io", UNS_KIND_IO, 'i'}, {"thread", UNS_KIND_THREAD, 't'}, {"cpu", UNS_KIND_CPU, 'c'}};
enum { KINDS = sizeof kinds / sizeof *kinds };

const char uns_placement_patterns[] = "a name, a prefix with '*' at its end, '*.io', '*.thread' or '*.cpu'";

bool uns_placement_kind(const char *name, size_t length, uns_kind *kind) {
  for (size_t i = 0; i < KINDS; i++) {
    if (strlen(kinds[i].name) != length || memcmp(kinds[i].name, name, length) != 0) continue;
    *kind = kinds[i].kind;
    return true;
  }
  return false;
}

/* Is it "*.cpu" and the like? */
static bool is_executor(const char *pattern, size_t length, uns_kind *kind) {
  return length > 2 && memcmp(pattern, "*.", 2) == 0 && uns_placement_kind(pattern + 2, length - 2, kind);
}

bool uns_placement_is_pattern(const char *pattern, size_t length) {
  uns_kind kind;
  for (size_t i = 0; i < length; i++) {
    if ((unsigned char)pattern[i] < ' ' || pattern[i] == 0x7f) return false;
  }
  if (is_executor(pattern, length, &kind)) return true;
  const char *star = memchr(pattern, '*', length);
  return length > 0 && (star == NULL || star == pattern + length - 1);
}

/* ---- the text ---- */

typedef struct {
  const char *pattern;
  size_t length;
  uns_kind kind;
  const char *end; /* of the whole rule */
} rule;

/* The rule at `text`; false: there is none. What came from elsewhere may be anything. */
static bool read_rule(const char *text, rule *read) {
  const char *kind = strchr(text, KIND_FOLLOWS);
  if (kind == NULL || kind[1] == '\0' || kind[2] != RULE_ENDS) return false;
  for (size_t i = 0; i < KINDS; i++) {
    if (kinds[i].letter != kind[1]) continue;
    *read = (rule){text, (size_t)(kind - text), kinds[i].kind, kind + 3};
    return true;
  }
  return false;
}

char *uns_placement_with(const char *rules, const char *pattern, size_t length, uns_kind kind) {
  size_t kept = rules != NULL ? strlen(rules) : 0, used = 0;
  char *made = uns_malloc(kept + length + 4);
  if (made == NULL) return NULL;
  rule old;
  for (const char *at = rules != NULL ? rules : ""; read_rule(at, &old); at = old.end) {
    if (old.length == length && memcmp(old.pattern, pattern, length) == 0) continue;
    memcpy(made + used, at, (size_t)(old.end - at));
    used += (size_t)(old.end - at);
  }
  memcpy(made + used, pattern, length);
  used += length;
  made[used++] = KIND_FOLLOWS;
  for (size_t i = 0; i < KINDS; i++) {
    if (kinds[i].kind == kind) made[used++] = kinds[i].letter;
  }
  made[used++] = RULE_ENDS;
  made[used] = '\0';
  return made;
}

/* How exactly the pattern fits, from 1; 0: it does not. */
static size_t fit(const rule *tried, const char *name, uns_kind declared) {
  uns_kind kind;
  size_t length = tried->length;
  if (is_executor(tried->pattern, length, &kind)) return kind == declared ? 2 : 0;
  if (tried->pattern[length - 1] != '*') {
    return strlen(name) == length && memcmp(name, tried->pattern, length) == 0 ? SIZE_MAX : 0;
  }
  if (strncmp(name, tried->pattern, length - 1) != 0) return 0;
  return length == 1 ? 1 : length + 1;
}

uns_kind uns_placement_find(const char *rules, const char *name, uns_kind declared) {
  uns_kind found = declared;
  size_t best = 0;
  rule tried;
  for (const char *at = rules != NULL ? rules : ""; read_rule(at, &tried); at = tried.end) {
    size_t fits = tried.length > 0 ? fit(&tried, name, declared) : 0;
    if (fits <= best) continue;
    best = fits;
    found = tried.kind;
  }
  return found;
}
