/* What every part uses: the clock, the end of the program, and what the command line said. */
#ifndef COMMON_H
#define COMMON_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define SECOND 1000000000ull

/* Nanoseconds of CLOCK_MONOTONIC: a read of the vDSO's page, no system call. */
static inline uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

/* A piece of text that somebody else holds. */
struct span {
    const char *at;
    size_t size;
};

enum wire { SIMPLE, ACTION_CABLE, CENTRIFUGO };
enum publish { PUBLISH_SIMPLE, PUBLISH_ANYCABLE, PUBLISH_CENTRIFUGO };

struct settings {
    struct sockaddr_in cable, publisher;
    enum wire wire;
    enum publish publish;
    const char *path, *publish_path, *identifier;
    char publish_headers[2048]; /* whole lines, each with its CRLF */
};

extern struct settings settings;
extern const char *doing; /* the verb at work; "" between commands */

/* Report on stdout and stderr, and end: for everything after which the state of the server or of ours is not known. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void print_json_string(FILE *file, const char *text);

/* realloc that ends the program instead of failing. */
void *grow(void *memory, size_t size);

#endif
