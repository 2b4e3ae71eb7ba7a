#include "verb.h"

#include <string.h>

#include "content.h"

struct group *word_group(struct words *words, bool with_subscribers) {
    const char *name = word_text(words, "group");
    struct group *group = name ? group_find(name) : NULL;
    if (!name)
        words_refuse(words, "group is missing");
    else if (!group)
        words_refuse(words, "there is no group %.60s", name);
    else if (with_subscribers && !group->count)
        words_refuse(words, "group %.60s has no connections", name);
    return group;
}

void refuse_probed(struct words *words, const struct group *group) {
    if (group && group == probe.group)
        words_refuse(words, "group %.60s is being probed: probe_stop first", group->name);
}

size_t word_size(struct words *words) {
    size_t size = word_count(words, "size", REQUIRED, CONTENT_MIN, CONTENT_MAX);
    if (!*words->problem)
        content_prepare(size);
    return size;
}

struct patience word_patience(struct words *words, uint64_t working) {
    struct patience patience = {.quiet = word_seconds(words, "quiet", 10)};
    patience.deadline = now() + working + word_seconds(words, "timeout", 60);
    return patience;
}

void result_begin(void) {
    fail_if_broken();
    hide_progress();
    fputs("{\"ok\":true", stdout);
}

void result_count(const char *name, uint64_t value) { printf(",\"%s\":%lu", name, value); }

void result_seconds(const char *name, uint64_t ns) { printf(",\"%s\":%.6f", name, (double)ns / (double)SECOND); }

void result_latency(const char *name, const struct latency *latency, bool histogram) {
    printf(",\"%s\":", name);
    latency_print(latency, histogram);
}

void result_end(struct job *job) {
    result_count("lost", job->lost);
    result_count("duplicates", job->duplicates);
    result_count("reordered", job->reordered);
    puts("}");
    fflush(stdout);
    job->lost = job->duplicates = job->reordered = 0;
}
