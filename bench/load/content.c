#include "content.h"

#include <string.h>

enum { DIGITS = 12, NUMBER = 15, PADDING = 34 }; /* offsets of the members' values */
static const char HEAD[] = "{\"w\":\"??\",\"n\":\"????????????\",\"p\":\"";

static char *padding;
static size_t prepared;

void content_prepare(size_t size) {
    static const char LETTERS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz.0123456789";
    if (size <= prepared)
        return;
    padding = grow(padding, size);
    uint64_t state = 88172645463325252ull; /* xorshift64; begun anew, so that the text is the same at every size */
    for (size_t i = 0; i < size; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        padding[i] = LETTERS[state >> 58];
    }
    prepared = size;
}

static void write_digits(char *out, unsigned count, uint64_t number) {
    while (count--) {
        out[count] = (char)('0' + number % 10);
        number /= 10;
    }
}

void content_write(char *out, size_t size, unsigned publisher, uint64_t number) {
    memcpy(out, HEAD, PADDING);
    write_digits(out + 6, 2, publisher);
    write_digits(out + NUMBER, DIGITS, number);
    memcpy(out + PADDING, padding, size - CONTENT_MIN);
    memcpy(out + size - 2, "\"}", 2);
}

char content_byte(size_t size, size_t offset) {
    if (offset < PADDING)
        return HEAD[offset];
    return offset < size - 2 ? padding[offset - PADDING] : offset == size - 2 ? '"' : '}';
}

/* Which byte it is, when one is known to differ. */
static long find_difference(const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        char right = content_byte(size, i);
        if (right == '?' ? data[i] < '0' || data[i] > '9' : data[i] != right)
            return (long)i;
    }
    return -1;
}

long content_check(const char *data, size_t size, unsigned *publisher, uint64_t *number) {
    if (size < CONTENT_MIN || size > prepared)
        return 0;
    if (memcmp(data, HEAD, 6) || memcmp(data + 8, HEAD + 8, NUMBER - 8) ||
        memcmp(data + NUMBER + DIGITS, HEAD + NUMBER + DIGITS, PADDING - NUMBER - DIGITS) ||
        memcmp(data + PADDING, padding, size - CONTENT_MIN) || memcmp(data + size - 2, "\"}", 2))
        return find_difference(data, size);
    unsigned high = (unsigned char)data[6] - '0', low = (unsigned char)data[7] - '0', bad = (high > 9) | (low > 9);
    uint64_t value = 0;
    for (int i = 0; i < DIGITS; i++) {
        unsigned digit = (unsigned char)data[NUMBER + i] - '0';
        bad |= digit > 9;
        value = value * 10 + digit;
    }
    if (bad)
        return find_difference(data, size);
    *publisher = high * 10 + low;
    *number = value;
    return -1;
}
