/* Durations in nanoseconds, kept in buckets whose width is 1/32 of their value or less. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

enum { BUCKETS = 32 * 60 };

struct histogram {
    uint64_t count, longest;
    uint64_t buckets[BUCKETS];
};

void record(struct histogram *of, uint64_t nanoseconds);

/* The duration that `share` (0 to 1) of all recorded ones do not exceed, in microseconds. */
double percentile(const struct histogram *of, double share);

#endif
