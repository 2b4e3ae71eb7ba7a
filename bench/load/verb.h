/* What verbs are made of: their words, and their answers. */
#ifndef VERB_H
#define VERB_H

#include "waiting.h"
#include "words.h"

/* Words that several verbs have */

struct group *word_group(struct words *words, bool with_subscribers);
size_t word_size(struct words *words);

/* `timeout` and `quiet`, for a verb that works for so many ns before it only waits. */
struct patience word_patience(struct words *words, uint64_t working);

/* Of a verb that changes who is counted on: it cannot be done while messages to them are under way. */
void refuse_probed(struct words *words, const struct group *group);

/* An answer: begun, filled, ended with the faults of a job, which are told only once. */

void result_begin(void);
void result_count(const char *name, uint64_t value);
void result_seconds(const char *name, uint64_t ns);
void result_latency(const char *name, const struct latency *latency, bool histogram);
void result_end(struct job *job);

/* The verbs: what they do and answer is said in __init__.py. */

void verb_connect(struct words *words);
void verb_stall(struct words *words);
void verb_read(struct words *words);
void verb_close(struct words *words);
void verb_stats(struct words *words);
void verb_fanout(struct words *words);
void verb_burst(struct words *words);
void verb_posts(struct words *words);
void verb_random(struct words *words);
void verb_probe(struct words *words);
void verb_probe_stop(struct words *words);

#endif
