/* A command: a verb and its key=value words. */
#ifndef WORDS_H
#define WORDS_H

#include "common.h"

struct words {
    unsigned count;
    struct {
        const char *key, *value;
        bool used;
    } words[32];
    char problem[256]; /* the first thing wrong with it; "" if nothing is */
};

/* Take a line apart, which is changed by it; returns the verb. */
const char *words_read(struct words *words, char *line);

const char *word_text(struct words *words, const char *key);
uint64_t word_count(struct words *words, const char *key, uint64_t otherwise, uint64_t least, uint64_t most);
uint64_t word_seconds(struct words *words, const char *key, double otherwise); /* ns */

void words_refuse(struct words *words, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* All words are known and right; if not, it was answered that they are not, and the command is not to be done. */
bool words_right(struct words *words);

#define REQUIRED UINT64_MAX

#endif
