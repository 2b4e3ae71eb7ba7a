#include "latency.h"

#include <string.h>

enum { BUCKETS = sizeof((struct latency *)0)->buckets / sizeof(uint32_t), PRINTED = 200 };

void latency_clear(struct latency *latency) { memset(latency, 0, sizeof *latency); }

/* The first time, in ns, that is beyond a bucket. */
static uint64_t bucket_end(unsigned bucket) {
    if (bucket < 1 << LATENCY_BITS)
        return bucket + 1;
    unsigned shift = (bucket >> LATENCY_BITS) - 1, step = bucket & ((1 << LATENCY_BITS) - 1);
    return (uint64_t)((1 << LATENCY_BITS) + step + 1) << shift;
}

/* The nearest-rank percentile: a value that was seen, to the width of a bucket. */
static double percentile(const struct latency *latency, double share) {
    uint64_t rank = (uint64_t)(share * (double)latency->count + 0.999999), seen = 0;
    if (rank < 1)
        rank = 1;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += latency->buckets[bucket];
        if (seen >= rank) {
            uint64_t end = bucket_end(bucket);
            return (double)(end > latency->max ? latency->max : end < latency->min ? latency->min : end) / 1000;
        }
    }
    return (double)latency->max / 1000;
}

static void print_histogram(const struct latency *latency) {
    double end = (double)latency->min / 1000 * 1.07;
    uint64_t count = 0, left = latency->count;
    unsigned printed = 0;
    fputs(",\"histogram\":[", stdout);
    for (unsigned bucket = 0; bucket < BUCKETS && left; bucket++) {
        if (!latency->buckets[bucket])
            continue;
        double value = (double)bucket_end(bucket) / 1000;
        if (value > end && count && printed < PRINTED - 1) {
            printf("%s[%.2f,%lu]", printed++ ? "," : "", end, count);
            count = 0;
        }
        while (value > end)
            end *= 1.07;
        count += latency->buckets[bucket];
        left -= latency->buckets[bucket];
    }
    if (count)
        printf("%s[%.2f,%lu]", printed ? "," : "", end, count);
    putchar(']');
}

void latency_print(const struct latency *latency, bool histogram) {
    if (!latency->count)
        fputs("{\"count\":0,\"min\":null,\"p50\":null,\"p90\":null,\"p99\":null,\"max\":null,\"mean\":null", stdout);
    else
        printf("{\"count\":%lu,\"min\":%.2f,\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"max\":%.2f,\"mean\":%.2f",
               latency->count, (double)latency->min / 1000, percentile(latency, 0.5), percentile(latency, 0.9),
               percentile(latency, 0.99), (double)latency->max / 1000,
               (double)latency->sum / 1000 / (double)latency->count);
    if (histogram)
        print_histogram(latency);
    putchar('}');
}
