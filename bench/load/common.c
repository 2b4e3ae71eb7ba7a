#include "common.h"

#include <stdarg.h>
#include <stdlib.h>

struct settings settings;
const char *doing = "";

void fail(const char *format, ...) {
    char text[1024];
    int size = snprintf(text, sizeof text, "%s%s", doing, *doing ? ": " : "");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + size, sizeof text - (size_t)size, format, arguments);
    va_end(arguments);
    fputs("{\"ok\":false,\"error\":", stdout);
    print_json_string(stdout, text);
    puts("}");
    fflush(stdout);
    fprintf(stderr, "load: %s\n", text);
    exit(1);
}

void print_json_string(FILE *file, const char *text) {
    putc('"', file);
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\')
            fprintf(file, "\\%c", *at);
        else if (*at < 0x20 || *at > 0x7e) /* a peer's bytes may be anything, also no UTF-8 */
            fprintf(file, "\\u%04x", *at);
        else
            putc(*at, file);
    }
    putc('"', file);
}

void *grow(void *memory, size_t size) {
    memory = realloc(memory, size);
    if (!memory)
        fail("out of memory for %zu bytes", size);
    return memory;
}
