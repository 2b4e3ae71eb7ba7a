/* The verbs about subscribers: connect, stall, read, close; and stats. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "publisher.h"
#include "verb.h"

static uint32_t connect_target;
static uint64_t connect_done(void) { return connect_latency.count; }
static uint64_t connect_of(void) { return connect_target; }

void verb_connect(struct words *words) {
    const char *name = word_text(words, "group");
    uint32_t count = (uint32_t)word_count(words, "count", REQUIRED, 1, 1 << 20), opened = 0;
    uint32_t streams = (uint32_t)word_count(words, "streams", 1, 1, 1 << 20);
    uint32_t window = (uint32_t)word_count(words, "window", 256, 1, 1 << 20);
    int receive_buffer = (int)word_count(words, "rcvbuf", 0, 0, 1 << 30);
    uint64_t start = now(), deadline = start + word_seconds(words, "timeout", 120);
    struct rlimit limit;
    if (!name || !*name || strlen(name) > 60 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != strlen(name))
        words_refuse(words, "group must be a name of 1 to 60 letters, digits and _");
    getrlimit(RLIMIT_NOFILE, &limit);
    if (!*words->problem && subscriber_count + count + PUBLISHERS + 8 > limit.rlim_cur)
        words_refuse(words, "%u more connections than the %u there are need more than the %lu descriptors there may be",
                     count, subscriber_count, limit.rlim_cur);
    if (name)
        refuse_probed(words, group_find(name));
    if (!words_right(words))
        return;
    struct group *group = group_make(name);
    latency_clear(&connect_latency);
    connect_target = count;
    show_progress(connect_done, connect_of);
    while (opened < count || subscribers_unsettled) {
        while (opened < count && subscribers_unsettled < window) {
            subscriber_open(group, streams, receive_buffer);
            opened++;
        }
        step(deadline);
        if (now() >= deadline)
            fail("timeout: of %u connections %lu were confirmed", count, connect_latency.count);
    }
    result_begin();
    result_count("count", connect_latency.count);
    result_seconds("seconds", now() - start);
    result_latency("latency", &connect_latency, false);
    result_end(&command_job);
}

void verb_stall(struct words *words) {
    struct group *group = word_group(words, true);
    uint64_t percent = word_count(words, "percent", 100, 1, 100), stalled = 0;
    refuse_probed(words, group);
    if (!words_right(words))
        return;
    for (uint64_t i = 0; i < group->count; i++)
        if (i * percent / 100 != (i + 1) * percent / 100 && !group->subscribers[i]->stall) {
            subscriber_stall(group->subscribers[i]);
            stalled++;
        }
    result_begin();
    result_count("stalled", stalled);
    result_end(&command_job);
}

void verb_read(struct words *words) {
    struct group *group = word_group(words, true);
    uint64_t quiet = word_seconds(words, "quiet", 1), deadline = now() + word_seconds(words, "timeout", 60);
    uint64_t readers = 0, received = 0, missed = 0, told = 0;
    refuse_probed(words, group);
    if (!words_right(words))
        return;
    stalled_closed = 0;
    stall_heard_at = now();
    for (uint32_t i = 0; i < group->count; i++)
        if (group->subscribers[i]->stall) {
            subscriber_read(group->subscribers[i]);
            readers++;
        }
    while (readers && now() - stall_heard_at < quiet) {
        step(stall_heard_at + quiet);
        if (now() >= deadline)
            fail("timeout: the stalled connections still receive");
    }
    for (uint32_t i = 0; i < group->count; i++) {
        struct subscriber *subscriber = group->subscribers[i];
        struct stall *stall = subscriber->stall;
        if (!stall)
            continue;
        received += stall->received;
        missed += subscriber->stream->posted - stall->posted - stall->received;
        told += stall->told;
        subscriber->stall = NULL;
        free(stall);
        if (subscriber->state == SUBSCRIBED)
            subscriber->stream->subscribers++;
    }
    group_compact(group);
    result_begin();
    result_count("readers", readers);
    result_count("closed", stalled_closed);
    result_count("received", received);
    result_count("missed", missed);
    result_count("told", told);
    result_end(&command_job);
}

void verb_stats(struct words *words) {
    if (!words_right(words))
        return;
    struct timespec cpu;
    struct rusage usage;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    getrusage(RUSAGE_SELF, &usage);
    result_begin();
    result_count("connections", subscriber_count);
    result_count("messages", received_messages);
    result_count("pings", received_pings);
    result_count("bytes", received_bytes);
    result_count("reads", received_reads);
    result_seconds("cpu", (uint64_t)cpu.tv_sec * SECOND + (uint64_t)cpu.tv_nsec);
    result_count("rss", (uint64_t)usage.ru_maxrss * 1024);
    result_end(&command_job);
}

void verb_close(struct words *words) {
    struct group *group = word_group(words, false);
    uint32_t count = group ? (uint32_t)word_count(words, "count", group->count, 0, group->count) : 0;
    bool abort = word_count(words, "abort", 0, 0, 1);
    uint64_t deadline = now() + word_seconds(words, "timeout", 60);
    refuse_probed(words, group);
    if (!words_right(words))
        return;
    for (uint32_t i = group->count - count; i < group->count; i++)
        subscriber_close(group->subscribers[i], abort);
    while (subscribers_unsettled) {
        step(deadline);
        if (now() >= deadline)
            fail("timeout: of %u connections the server has not closed %u", count, subscribers_unsettled);
    }
    group_compact(group);
    result_begin();
    result_count("closed", count);
    result_end(&command_job);
}
