/* The JSON value that is broadcast: {"w":"WW","n":"NNNNNNNNNNNN","p":"…"}, of exactly the size that was asked for.

   WW is the publishing connection, N the number of the message in its sequence, p padding: always the same text,
   without a short period, so that a byte lost, repeated or shifted shows. */
#ifndef CONTENT_H
#define CONTENT_H

#include "common.h"

enum { CONTENT_MIN = 36, CONTENT_MAX = 16 << 20, CONTENT_QUOTES = 12 };

/* Make padding for values up to this size; called before a size is used for the first time. */
void content_prepare(size_t size);

void content_write(char *out, size_t size, unsigned publisher, uint64_t number);

/* Compare every byte with what was posted. Returns -1 and sets publisher and number, or the offset of the first byte
   that differs. */
long content_check(const char *data, size_t size, unsigned *publisher, uint64_t *number);

/* The byte that belongs at an offset; ? for a digit. */
char content_byte(size_t size, size_t offset);

#endif
