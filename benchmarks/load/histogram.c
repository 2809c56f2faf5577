#include "histogram.h"

/* Values below 64 have a bucket each; above, every doubling is cut into 32 equal buckets. */
static unsigned bucket_of(uint64_t value)
{
    unsigned doublings;

    if (value < 64)
        return (unsigned)value;
    doublings = 58 - (unsigned)__builtin_clzll(value);
    return 32 * doublings + (unsigned)(value >> doublings);
}

static uint64_t top_of(unsigned bucket)
{
    unsigned doublings = bucket < 64 ? 0 : bucket / 32 - 1;

    return (((uint64_t)bucket - 32 * doublings + 1) << doublings) - 1;
}

void record(struct histogram *of, uint64_t nanoseconds)
{
    of->buckets[bucket_of(nanoseconds)]++;
    of->count++;
    if (nanoseconds > of->longest)
        of->longest = nanoseconds;
}

double percentile(const struct histogram *of, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)of->count + 0.5), seen = 0, top;

    if (of->count == 0)
        return 0;
    if (wanted < 1)
        wanted = 1;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += of->buckets[bucket];
        if (seen >= wanted) {
            top = top_of(bucket);
            return (double)(top < of->longest ? top : of->longest) / 1000;
        }
    }
    return (double)of->longest / 1000;
}
