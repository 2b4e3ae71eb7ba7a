/* A distribution of times, in buckets 0.8 % wide: one increment per value, however many there are. */
#ifndef LATENCY_H
#define LATENCY_H

#include "common.h"

enum { LATENCY_BITS = 7, LATENCY_RANGE = 40 }; /* steps per doubling: 2^7; longest time: 2^40 ns, 18 minutes */

struct latency {
    uint64_t count, sum, min, max; /* ns */
    uint32_t buckets[(LATENCY_RANGE - LATENCY_BITS + 1) << LATENCY_BITS];
};

static inline void latency_add(struct latency *latency, uint64_t ns) {
    if (ns >> LATENCY_RANGE)
        ns = (1ull << LATENCY_RANGE) - 1;
    unsigned bucket = (unsigned)ns;
    if (ns >> LATENCY_BITS) {
        unsigned shift = 63 - LATENCY_BITS - (unsigned)__builtin_clzll(ns);
        bucket = ((shift + 1) << LATENCY_BITS) + ((unsigned)(ns >> shift) & ((1 << LATENCY_BITS) - 1));
    }
    latency->buckets[bucket]++;
    if (!latency->count++ || ns < latency->min)
        latency->min = ns;
    if (ns > latency->max)
        latency->max = ns;
    latency->sum += ns;
}

void latency_clear(struct latency *latency);

/* Print {"count":…,"min":…,"p50":…,"p90":…,"p99":…,"max":…,"mean":…} in microseconds, null where there is nothing; with
   `histogram` also the whole distribution as [[upper bound in µs, count],…]: at most 200 buckets, each 7 % wide. */
void latency_print(const struct latency *latency, bool histogram);

#endif
