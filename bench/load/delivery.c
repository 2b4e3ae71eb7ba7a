#include "delivery.h"

#include <stdlib.h>
#include <string.h>

struct job command_job, probe_job;

void job_begin(struct job *job) {
    uint64_t duplicates = job->duplicates, reordered = job->reordered;
    memset(job, 0, sizeof *job);
    job->duplicates = duplicates;
    job->reordered = reordered;
    job->heard_at = job->delivered_at = now();
}

struct stream *stream_new(const char *name) {
    size_t size = sizeof(struct stream) + strlen(name) + 1;
    struct stream *stream = memset(grow(NULL, size), 0, size);
    strcpy(stream->name, name);
    return stream;
}

uint64_t series_next(const struct stream *stream, unsigned publisher) {
    return stream->series[publisher] ? stream->series[publisher]->posted + 1 : 1;
}

void series_post(struct stream *stream, unsigned publisher, unsigned count, size_t size, uint64_t at) {
    struct series *series = stream->series[publisher];
    struct job *job = job_of(publisher);
    if (!series) {
        stream->series[publisher] = series = grow(NULL, sizeof *series);
        *series = (struct series){.first = 1, .mask = 7};
        series->flights = grow(NULL, (series->mask + 1) * sizeof *series->flights);
    }
    while (series->posted + count - series->first > series->mask) {
        struct flight *old = series->flights;
        uint64_t mask = series->mask * 2 + 1;
        series->flights = grow(NULL, (mask + 1) * sizeof *series->flights);
        for (uint64_t number = series->first; number <= series->posted; number++)
            series->flights[number & mask] = old[number & series->mask];
        series->mask = mask;
        free(old);
    }
    if (!stream->subscribers && series->first > series->posted)
        series->first += count; /* nobody to wait for */
    for (unsigned i = 0; i < count; i++) {
        struct flight flight = {at, stream->subscribers, (uint32_t)size};
        series->flights[++series->posted & series->mask] = flight;
    }
    stream->posted += count;
    job->messages += count;
    job->outstanding += (uint64_t)count * stream->subscribers;
    job->unfinished += stream->subscribers ? count : 0;
}

void series_date(struct stream *stream, unsigned publisher, uint64_t first, unsigned count, uint64_t at) {
    struct series *series = stream->series[publisher];
    for (uint64_t number = first; number < first + count; number++)
        if (number >= series->first)
            series->flights[number & series->mask].posted_at = at;
}

void series_write_off(struct stream *stream, unsigned publisher) {
    if (stream->series[publisher])
        stream->series[publisher]->first = stream->series[publisher]->posted + 1;
}

void job_write_off(struct job *job) {
    job->lost += job->outstanding;
    job->outstanding = job->unfinished = 0;
}
