#include "http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEAD_MAX = 16384, ANSWER_MAX = 1 << 20 };

long head_read(struct span data, struct head *head) {
    static const char VERSION[] = "HTTP/1.";
    size_t known = data.size < 7 ? data.size : 7;
    if (memcmp(data.at, VERSION, known))
        return -1;
    const char *end = memmem(data.at, data.size, "\r\n\r\n", 4);
    if (!end)
        return data.size > HEAD_MAX ? -1 : 0;
    const char *line_end = memmem(data.at, data.size, "\r\n", 2);
    if (line_end - data.at < 12)
        return -1;
    head->line = (struct span){data.at, (size_t)(line_end - data.at)};
    head->fields = (struct span){line_end + 2, (size_t)(end - line_end)};
    if (end == line_end)
        head->fields.size = 0;
    head->http_1_0 = data.at[7] == '0';
    head->status = 0;
    for (int i = 9; i < 12; i++) {
        if (data.at[i] < '0' || data.at[i] > '9')
            return -1;
        head->status = head->status * 10 + (unsigned)(data.at[i] - '0');
    }
    return end + 4 - data.at;
}

bool head_field(const struct head *head, const char *name, struct span *value) {
    size_t size = strlen(name);
    const char *at = head->fields.at, *end = at + head->fields.size;
    while (at < end) {
        const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
        if ((size_t)(line_end - at) > size && at[size] == ':' && !strncasecmp(at, name, size)) {
            at += size + 1;
            while (at < line_end && (*at == ' ' || *at == '\t'))
                at++;
            while (at < line_end && (line_end[-1] == ' ' || line_end[-1] == '\t'))
                line_end--;
            *value = (struct span){at, (size_t)(line_end - at)};
            return true;
        }
        at = line_end + 2;
    }
    return false;
}

static bool is(struct span value, const char *text) {
    return value.size == strlen(text) && !strncasecmp(value.at, text, value.size);
}

/* A number with nothing behind it but what may follow it; -1 if it is none. */
static long number(struct span text, int base) {
    char digits[20], *end;
    if (!text.size || text.size >= sizeof digits)
        return -1;
    memcpy(digits, text.at, text.size);
    digits[text.size] = 0;
    long value = strtol(digits, &end, base);
    return *end || end == digits || value < 0 ? -1 : value;
}

/* The size of a chunked body (RFC 9112 §7.1); 0: not all there, -1: malformed. */
static long chunked_size(struct span data) {
    const char *at = data.at, *end = at + data.size;
    for (;;) {
        const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!line_end)
            return end - at > 64 ? -1 : 0;
        const char *extension = memchr(at, ';', (size_t)(line_end - at));
        long size = number((struct span){at, (size_t)((extension ? extension : line_end) - at)}, 16);
        if (size < 0)
            return -1;
        at = line_end + 2;
        if (size == 0)
            break;
        if (end - at < size + 2)
            return 0;
        at += size;
        if (memcmp(at, "\r\n", 2))
            return -1;
        at += 2;
    }
    for (;;) { /* trailers, up to an empty line */
        const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!line_end)
            return 0;
        bool last = line_end == at;
        at = line_end + 2;
        if (last)
            return at - data.at;
    }
}

long answer_read(struct span data, bool closed, struct answer *answer) {
    struct span field;
    long head = head_read(data, &answer->head), body;
    if (head <= 0)
        return head;
    struct span rest = {data.at + head, data.size - (size_t)head};
    const struct head *fields = &answer->head;
    answer->closing = fields->http_1_0;
    if (head_field(fields, "Connection", &field))
        answer->closing = fields->http_1_0 ? !is(field, "keep-alive") : is(field, "close");
    answer->retry_after = head_field(fields, "Retry-After", &field) ? (int)number(field, 10) : -1;
    if (fields->status == 204 || fields->status == 304) {
        body = 0;
    } else if (head_field(fields, "Transfer-Encoding", &field)) {
        body = is(field, "chunked") ? chunked_size(rest) : -1;
        if (body <= 0)
            return data.size > ANSWER_MAX ? -1 : body;
    } else if (head_field(fields, "Content-Length", &field)) {
        body = number(field, 10);
        if (body < 0 || body > ANSWER_MAX)
            return -1;
        if ((size_t)body > rest.size)
            return 0;
    } else {
        answer->closing = true;
        if (!closed)
            return data.size > ANSWER_MAX ? -1 : 0;
        body = (long)rest.size;
    }
    answer->body = (struct span){rest.at, (size_t)body};
    return head + body;
}
