#include "waiting.h"

#include "publisher.h"

struct probe probe;

static struct {
    uint64_t shown_at;
    uint64_t (*done)(void), (*of)(void);
} progress;

/* Post what is due of the probe; returns when to be asked again. */
static uint64_t probe_tick(uint64_t time) {
    struct publisher *publisher = &publishers[PROBE];
    if (!probe.group)
        return UINT64_MAX;
    if (!publisher_idle(publisher))
        return UINT64_MAX; /* its answer will wake us */
    if (time >= probe.due) {
        /* A post that had to wait for the answer to the one before counts from when it was due: else a server that is
           held up would be asked, and timed, less often just then. */
        publisher_post(publisher, group_stream(probe.group, probe.stream), 1, probe.size, false,
                       publisher->idle_at > probe.due ? probe.due : 0);
        probe.stream = (probe.stream + 1) % probe.streams;
        probe.due += probe.every;
    }
    return publisher_idle(publisher) ? probe.due : UINT64_MAX;
}

void fail_if_broken(void) {
    if (broken_count)
        fail("%u connection%s ended unexpectedly (%u are left); the first: %s", broken_count,
             broken_count > 1 ? "s" : "", subscriber_count, broken_reason);
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

void step(uint64_t until) {
    uint64_t time = now();
    until = earlier(until, earlier(probe_tick(time), publishers_resume(time)));
    if (progress.done) {
        if (time - progress.shown_at >= SECOND / 2) {
            progress.shown_at = time;
            printf("{\"progress\":\"%s\",\"done\":%lu,\"of\":%lu}\n", doing, progress.done(), progress.of());
            fflush(stdout);
        }
        until = earlier(until, progress.shown_at + SECOND / 2);
    }
    if (broken_count) { /* seldom does one end alone: give the others time to be counted */
        if (time - broken_at > SECOND / 20)
            fail_if_broken();
        until = earlier(until, broken_at + SECOND / 20);
    }
    loop_turn(until);
}

void show_progress(uint64_t (*done)(void), uint64_t (*of)(void)) {
    progress.shown_at = now();
    progress.done = done;
    progress.of = of;
}

void hide_progress(void) { progress.done = NULL; }

bool settled(const struct job *job, const struct patience *patience) {
    if (!job->unanswered && job->outstanding <= job->missed)
        return true;
    uint64_t time = now();
    if (time >= patience->deadline)
        fail("timeout: of %lu posts %lu are unanswered, of %lu deliveries %lu are outstanding", job->posts,
             job->unanswered, job->deliveries + job->outstanding, job->outstanding);
    return !job->unanswered && time > job->heard_at && time - job->heard_at >= patience->quiet;
}

uint64_t settling(const struct job *job, const struct patience *patience) {
    return job->unanswered ? patience->deadline : earlier(patience->deadline, job->heard_at + patience->quiet);
}

void settle(struct job *job, const struct patience *patience) {
    while (!settled(job, patience))
        step(settling(job, patience));
    if (!job->outstanding)
        return;
    job_write_off(job);
    if (job == &probe_job)
        group_write_off(PROBE, PROBE);
    else
        group_write_off(0, PROBE - 1);
}
