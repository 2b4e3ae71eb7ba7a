#include "words.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *words_read(struct words *words, char *line) {
    char *state, *verb = strtok_r(line, " \t\r\n", &state);
    *words = (struct words){0};
    for (char *word; (word = strtok_r(NULL, " \t\r\n", &state));) {
        char *equals = strchr(word, '=');
        if (!equals) {
            words_refuse(words, "%.60s is not of the form key=value", word);
        } else if (words->count == sizeof words->words / sizeof *words->words) {
            words_refuse(words, "too many words");
        } else {
            *equals = 0;
            words->words[words->count].key = word;
            words->words[words->count++].value = equals + 1;
        }
    }
    return verb ? verb : "";
}

void words_refuse(struct words *words, const char *format, ...) {
    if (*words->problem)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words->problem, sizeof words->problem, format, arguments);
    va_end(arguments);
}

const char *word_text(struct words *words, const char *key) {
    for (unsigned i = 0; i < words->count; i++)
        if (!strcmp(words->words[i].key, key)) {
            words->words[i].used = true;
            return words->words[i].value;
        }
    return NULL;
}

uint64_t word_count(struct words *words, const char *key, uint64_t otherwise, uint64_t least, uint64_t most) {
    const char *text = word_text(words, key);
    char *end;
    if (!text) {
        if (otherwise == REQUIRED)
            words_refuse(words, "%s is missing", key);
        return otherwise;
    }
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value < least || value > most)
        words_refuse(words, "%s must be a whole number from %lu to %lu, not %.40s", key, least, most, text);
    return value;
}

uint64_t word_seconds(struct words *words, const char *key, double otherwise) {
    const char *text = word_text(words, key);
    char *end;
    double value = text ? strtod(text, &end) : otherwise;
    if (text && (end == text || *end || !(value >= 0 && value <= 1e6)))
        words_refuse(words, "%s must be a number of seconds, not %.40s", key, text);
    return (uint64_t)(value * (double)SECOND);
}

bool words_right(struct words *words) {
    for (unsigned i = 0; i < words->count; i++)
        if (!words->words[i].used)
            words_refuse(words, "there is no word %.60s", words->words[i].key);
    if (!*words->problem)
        return true;
    char text[400];
    snprintf(text, sizeof text, "%s: %s", doing, words->problem);
    fputs("{\"ok\":false,\"error\":", stdout);
    print_json_string(stdout, text);
    puts("}");
    fflush(stdout);
    return false;
}
