#include "json.h"

#include <string.h>

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

/* `at` is behind the opening quote; returns where the closing one is, or `end`. */
static const char *string_end(const char *at, const char *end) {
    for (; at < end && *at != '"'; at++)
        if (*at == '\\')
            at++;
    return at < end ? at : end;
}

/* The end of the value that begins at `at`. */
static const char *value_end(const char *at, const char *end) {
    int depth = 0;
    for (; at < end; at++) {
        if (*at == '"') {
            at = string_end(at + 1, end);
            if (at == end)
                return end;
        } else if (*at == '{' || *at == '[') {
            depth++;
        } else if (*at == '}' || *at == ']') {
            if (depth-- == 0)
                return at;
        } else if (*at == ',' && depth == 0) {
            return at;
        }
    }
    return end;
}

bool json_member(struct span text, const char *name, struct span *value) {
    const char *end = text.at + text.size, *at = skip_space(text.at, end);
    size_t size = strlen(name);
    if (at == end || *at != '{')
        return false;
    do {
        at = skip_space(at + 1, end);
        if (at == end || *at != '"')
            return false;
        const char *key = at + 1, *key_end = string_end(key, end);
        at = skip_space(key_end + (key_end < end), end);
        if (at == end || *at != ':')
            return false;
        at = skip_space(at + 1, end);
        const char *found = at;
        at = value_end(at, end);
        if ((size_t)(key_end - key) == size && !memcmp(key, name, size)) {
            const char *last = at;
            while (last > found && (last[-1] == ' ' || last[-1] == '\n' || last[-1] == '\r' || last[-1] == '\t'))
                last--;
            *value = (struct span){found, (size_t)(last - found)};
            return at < end;
        }
    } while (at < end && *at == ',');
    return false;
}

static int hex(const char *at) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        const char *digit = strchr("0123456789abcdef", at[i] | 0x20);
        if (!at[i] || !digit)
            return -1;
        value = value * 16 + (int)(digit - "0123456789abcdef");
    }
    return value;
}

bool json_is(struct span value, const char *string) {
    if (value.size < 2 || value.at[0] != '"' || value.at[value.size - 1] != '"')
        return false;
    const char *at = value.at + 1, *end = value.at + value.size - 1;
    for (; at < end && *string; at++, string++) {
        char byte = *at;
        if (byte == '\\' && at + 1 < end) {
            byte = *++at;
            if (byte == 'u') { /* what we compare with is ASCII */
                int code = end - at > 4 ? hex(at + 1) : -1;
                if (code < 0 || code > 0x7f)
                    return false;
                byte = (char)code;
                at += 4;
            }
        }
        if (byte != *string)
            return false;
    }
    return at == end && !*string;
}

char *json_escape(char *out, struct span text) {
    for (size_t i = 0; i < text.size; i++) {
        if (text.at[i] == '"' || text.at[i] == '\\')
            *out++ = '\\';
        *out++ = text.at[i];
    }
    return out;
}
