/*
 * placement: where functions with a name run, if not where they were declared: rules, as one text.
 *
 *   - A rule is a pattern and an executor. Of several that fit, the more exact counts: a name, the longest prefix, all of an
 *     executor, all.
 *   - As text it goes with each call to its worker (core/search_path.h), whose state follows it.
 * What places: bind/place.c.
 */
#ifndef UNS_PLACEMENT_H
#define UNS_PLACEMENT_H

#include "core/job.h"

/* The executor with that name, of `length` bytes. False: there is none. */
bool uns_placement_kind(const char *name, size_t length, uns_kind *kind);
/* A name, a prefix and '*', "*.io", "*.thread", "*.cpu" or "*"; no control characters. */
bool uns_placement_is_pattern(const char *pattern, size_t length);
extern const char uns_placement_patterns[]; /* what those are, for messages */

/* `rules` (NULL: none) with one more, which replaces one of the same pattern. To be freed with uns_free; NULL without memory. */
char *uns_placement_with(const char *rules, const char *pattern, size_t length, uns_kind kind);
/* Where the function is to run. `rules` may be NULL. */
uns_kind uns_placement_find(const char *rules, const char *name, uns_kind declared);

#endif
