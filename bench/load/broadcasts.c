/* The verbs that post: fanout, burst, posts, random, probe. */
#include "publisher.h"
#include "verb.h"

/* Have so many publishing connections, and give the server time to accept them before anything is timed. */
static void open_publishers(unsigned first, unsigned count) {
    bool opened = false;
    for (unsigned i = first; i < first + count; i++) {
        opened |= !publishers[i].connected;
        publishers[i].number = i;
        publisher_open(i);
    }
    for (uint64_t until = now() + SECOND / 50; opened && now() < until;)
        step(until);
}

static uint64_t deliveries_done(void) { return command_job.deliveries; }
static uint64_t deliveries_of(void) { return command_job.deliveries + command_job.outstanding; }

void verb_fanout(struct words *words) {
    struct group *group = word_group(words, true);
    uint32_t number = (uint32_t)word_count(words, "stream", 0, 0, 1 << 20);
    size_t size = word_size(words);
    uint64_t seconds = word_seconds(words, "seconds", 0.5);
    uint64_t least = word_count(words, "min", 3, 1, UINT32_MAX), most = word_count(words, "max", 0, 0, UINT32_MAX);
    uint64_t window = word_count(words, "window", 1, 1, 1 << 20);
    bool histogram = word_count(words, "histogram", 0, 0, 1);
    struct patience patience = word_patience(words, seconds);
    if (group && !*words->problem && (number >= group->stream_count || !group->streams[number]->subscribers))
        words_refuse(words, "stream %s-%u has no subscribers", group->name, number);
    if (!words_right(words))
        return;
    struct publisher *publisher = &publishers[0];
    struct stream *stream = group_stream(group, number);
    struct job *job = &command_job;
    open_publishers(0, 1);
    job_begin(job);
    show_progress(deliveries_done, deliveries_of);
    uint64_t start = now();
    for (;;) {
        bool more = (job->posts < least || now() - start < seconds) && (!most || job->posts < most);
        if (more && publisher_idle(publisher) && job->unfinished < window) {
            publisher_post(publisher, stream, 1, size, false, 0);
            continue;
        }
        /* With losses nothing more is posted: the broadcasts that are not complete fill the window. */
        if (settled(job, &patience) && (!more || job->unfinished >= window))
            break;
        step(settling(job, &patience));
    }
    uint64_t end = job->delivered_at;
    settle(job, &patience);
    result_begin();
    result_count("broadcasts", job->posts);
    result_count("deliveries", job->deliveries);
    result_seconds("seconds", end - start);
    result_count("missed", job->missed);
    result_count("retries", job->retries);
    result_latency("last", &job->last, histogram);
    result_latency("each", &job->each, histogram);
    result_end(job);
}

/* The closed loop of `posts` and `random`: what each publishing connection does when it has its answer. */
static struct {
    struct group *group;
    uint64_t until, seed, last_answer;
    size_t size;
    unsigned connections, batch, streams; /* streams 0: all post to the first */
} closed_loop;

static uint64_t random_number(void) { /* xorshift64 */
    closed_loop.seed ^= closed_loop.seed << 13;
    closed_loop.seed ^= closed_loop.seed >> 7;
    closed_loop.seed ^= closed_loop.seed << 17;
    return closed_loop.seed >> 16;
}

static void post_again(struct publisher *publisher) {
    closed_loop.last_answer = publisher->idle_at;
    if (now() >= closed_loop.until)
        return;
    unsigned number = 0;
    if (closed_loop.streams) { /* one of its own: number, number + connections, … */
        unsigned own = (closed_loop.streams - publisher->number - 1) / closed_loop.connections + 1;
        number = publisher->number + (unsigned)(random_number() % own) * closed_loop.connections;
    }
    publisher_post(publisher, group_stream(closed_loop.group, number), closed_loop.batch ? closed_loop.batch : 1,
                   closed_loop.size, closed_loop.batch, 0);
}

static void run_closed_loop(struct words *words, bool random) {
    closed_loop.group = word_group(words, false);
    closed_loop.streams = random ? (unsigned)word_count(words, "streams", REQUIRED, 1, 1 << 20) : 0;
    closed_loop.batch = random ? 0 : (unsigned)word_count(words, "batch", 0, 0, 1 << 16);
    closed_loop.size = word_size(words);
    closed_loop.connections = (unsigned)word_count(words, "connections", 16, 1, PROBE);
    closed_loop.seed = random ? word_count(words, "seed", 1, 1, UINT64_MAX - 1) : 1;
    uint64_t seconds = word_seconds(words, "seconds", 2);
    struct patience patience = word_patience(words, seconds);
    if (random && closed_loop.streams < closed_loop.connections)
        words_refuse(words, "streams must not be fewer than connections");
    if (closed_loop.batch && settings.publish == PUBLISH_CENTRIFUGO)
        words_refuse(words, "centrifugo takes no array of messages");
    if (!words_right(words))
        return;
    struct job *job = &command_job;
    open_publishers(0, closed_loop.connections);
    job_begin(job);
    show_progress(deliveries_done, deliveries_of);
    uint64_t start = now();
    closed_loop.until = start + seconds;
    publisher_answered = post_again;
    for (unsigned i = 0; i < closed_loop.connections; i++)
        post_again(&publishers[i]);
    closed_loop.last_answer = start;
    while (now() < closed_loop.until) {
        if (now() >= patience.deadline)
            fail("timeout");
        step(closed_loop.until);
    }
    while (!settled(job, &patience))
        step(settling(job, &patience));
    publisher_answered = NULL;
    uint64_t end = job->delivered_at;
    settle(job, &patience);
    result_begin();
    result_count("posts", job->posts);
    result_count("messages", job->messages);
    result_seconds("seconds", closed_loop.last_answer - start);
    result_seconds("delivered_seconds", end - start);
    result_count("deliveries", job->deliveries);
    result_count("missed", job->missed);
    result_count("retries", job->retries);
    result_latency("answer", &job->answer, false);
    result_latency("each", &job->each, false);
    result_end(job);
}

/* The messages of a burst that are still to be posted, where the server takes no pipelined requests. */
static struct {
    struct stream *stream;
    size_t size;
    unsigned left;
} burst;

static void post_rest_of_burst(struct publisher *publisher) {
    if (burst.left) {
        burst.left--;
        publisher_post(publisher, burst.stream, 1, burst.size, false, 0);
    }
}

/* All posts in one write, one behind the other. */
static uint64_t start_pipelined_burst(void) {
    uint64_t first = series_next(burst.stream, 0), start;
    unsigned count = burst.left;
    publisher_open(0);
    for (; burst.left; burst.left--)
        publisher_queue(&publishers[0], burst.stream, burst.size);
    publishers[0].asked_at = start = now();
    series_date(burst.stream, 0, first, count, start);
    publisher_flush(&publishers[0]);
    return start;
}

void verb_burst(struct words *words) {
    static struct latency last;
    struct group *group = word_group(words, true);
    size_t size = word_size(words);
    unsigned messages = (unsigned)word_count(words, "messages", 100, 1, 1 << 20);
    unsigned repeat = (unsigned)word_count(words, "repeat", 1, 1, 1 << 20);
    /* 0: pipelined on one connection; else one at a time on each of so many. */
    unsigned connections = (unsigned)word_count(words, "connections", 0, 0, PROBE);
    struct patience patience = word_patience(words, 0);
    if (!words_right(words))
        return;
    struct job *job = &command_job;
    burst.stream = group_stream(group, 0);
    burst.size = size;
    latency_clear(&last);
    open_publishers(0, connections ? connections : 1);
    job_begin(job);
    show_progress(deliveries_done, deliveries_of);
    publisher_answered = post_rest_of_burst;
    uint64_t begin = now();
    for (unsigned i = 0; i < repeat && !job->outstanding; i++) {
        uint64_t start = now();
        burst.left = messages;
        if (connections == 0)
            start = start_pipelined_burst();
        for (unsigned p = 0; p < connections; p++)
            post_rest_of_burst(&publishers[p]);
        while (!settled(job, &patience))
            step(settling(job, &patience));
        if (!job->outstanding)
            latency_add(&last, job->delivered_at - start);
    }
    publisher_answered = NULL;
    uint64_t seconds = job->delivered_at - begin;
    settle(job, &patience);
    result_begin();
    result_count("deliveries", job->deliveries);
    result_seconds("seconds", seconds);
    result_count("missed", job->missed);
    result_count("retries", job->retries);
    result_latency("last", &last, false);
    result_latency("answer", &job->answer, false);
    result_end(job);
}

void verb_posts(struct words *words) { run_closed_loop(words, false); }
void verb_random(struct words *words) { run_closed_loop(words, true); }

void verb_probe(struct words *words) {
    struct group *group = word_group(words, true);
    size_t size = word_size(words);
    uint64_t every = word_count(words, "every", 20, 1, 60000);
    uint32_t streams = (uint32_t)word_count(words, "streams", 1, 1, 1 << 20);
    if (group && !*words->problem && streams > group->stream_count)
        words_refuse(words, "group %.60s has no %u streams", group->name, streams);
    if (probe.group)
        words_refuse(words, "there is a probe already: probe_stop first");
    if (!words_right(words))
        return;
    open_publishers(PROBE, 1);
    job_begin(&probe_job);
    probe.size = size;
    probe.every = every * (SECOND / 1000);
    probe.due = now();
    probe.stream = 0;
    probe.streams = streams;
    publishers[PROBE].idle_at = 0;
    probe.group = group;
    result_begin();
    result_end(&command_job);
}

void verb_probe_stop(struct words *words) {
    bool histogram = word_count(words, "histogram", 0, 0, 1);
    struct patience patience = word_patience(words, 0);
    if (!probe.group)
        words_refuse(words, "there is no probe");
    if (!words_right(words))
        return;
    /* What is overdue because the server left the one before unanswered was never posted, but counts as unanswered. */
    uint64_t time = now(), overdue = time > probe.due ? (time - probe.due) / probe.every : 0;
    uint64_t unanswered = probe_job.unanswered + overdue;
    probe.group = NULL;
    settle(&probe_job, &patience);
    result_begin();
    result_count("posts", probe_job.posts);
    result_count("deliveries", probe_job.deliveries);
    result_count("unanswered", unanswered);
    result_latency("last", &probe_job.last, histogram);
    result_latency("each", &probe_job.each, histogram);
    result_end(&probe_job);
}
