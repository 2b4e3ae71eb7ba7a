/* What was posted, and what of it has arrived: streams, the series of messages on them, and the sums of a command.

   A series is the numbers 1, 2, 3, … that one publishing connection posts to one stream. For each number that has not
   reached everybody there is a flight: when it was posted, and how many subscribers still wait for it. A subscriber's
   first sight of a number (sequence.h) takes one off; a duplicate takes nothing off, so what remains outstanding when a
   command has waited long enough is exactly what was lost. */
#ifndef DELIVERY_H
#define DELIVERY_H

#include "latency.h"
#include "sequence.h"

enum { PUBLISHERS = 100, PROBE = 99 }; /* publishing connections 0…98 work for the commands, 99 for the probe */

struct flight {
    uint64_t posted_at; /* ns */
    uint32_t waiting;   /* subscribers that have not got it */
    uint32_t size;
};

struct series {
    uint64_t posted; /* the last number that was posted */
    uint64_t first;  /* the first number whose flight is still kept */
    uint64_t mask;   /* flights[number & mask]; a power of two less one */
    struct flight *flights;
};

struct stream {
    struct series *series[PUBLISHERS];
    /* A message of this stream without its data, learned from the first one: `before` bytes, then `after`. */
    char *envelope;
    uint32_t before, after;
    uint32_t subscribers; /* those that are counted on: not the stalled ones */
    uint64_t posted;      /* messages of all series */
    char name[];
};

/* The sums of a command, and of the probe beside it. */
struct job {
    uint64_t outstanding; /* deliveries awaited */
    uint64_t unfinished;  /* messages that have not reached all */
    uint64_t unanswered;  /* posts */
    uint64_t missed;      /* deliveries that the server told us it left out (`gap`) */
    uint64_t heard_at;     /* when the last message or answer came, ns */
    uint64_t delivered_at; /* when the last delivery was made */
    uint64_t posts, messages, deliveries, duplicates, reordered, lost, retries;
    struct latency answer, each, last;
};

extern struct job command_job, probe_job;

static inline struct job *job_of(unsigned publisher) { return publisher == PROBE ? &probe_job : &command_job; }

/* Begin anew; duplicates and the like that came after the end of the last command are kept for this one. */
void job_begin(struct job *job);

struct stream *stream_new(const char *name);

/* The number that the next message of this series will have. */
uint64_t series_next(const struct stream *stream, unsigned publisher);

/* `count` more messages are being posted. */
void series_post(struct stream *stream, unsigned publisher, unsigned count, size_t size, uint64_t at);

/* The time of these counts from another moment than it was said when they were posted. */
void series_date(struct stream *stream, unsigned publisher, uint64_t first, unsigned count, uint64_t at);

/* Take everything that is outstanding for lost. */
void series_write_off(struct stream *stream, unsigned publisher);
void job_write_off(struct job *job);

/* A subscriber has got a message for the first time. False when nobody waits for it any more. */
static inline bool series_arrive(struct series *series, unsigned publisher, uint64_t number, uint64_t at) {
    if (number < series->first)
        return false;
    struct job *job = job_of(publisher);
    struct flight *flight = &series->flights[number & series->mask];
    if (!flight->waiting)
        return false;
    job->deliveries++;
    job->delivered_at = at;
    job->outstanding--;
    latency_add(&job->each, at - flight->posted_at);
    if (--flight->waiting == 0) {
        job->unfinished--;
        latency_add(&job->last, at - flight->posted_at);
        while (series->first <= series->posted && !series->flights[series->first & series->mask].waiting)
            series->first++;
    }
    return true;
}

#endif
