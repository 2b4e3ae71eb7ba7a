/* HTTP/1.1 answers (RFC 9112). */
#ifndef HTTP_H
#define HTTP_H

#include "common.h"

/* The head of an answer; spans into what was received. */
struct head {
    struct span line;   /* status line, without its end */
    struct span fields; /* whole lines, the empty one left out */
    unsigned status;
    bool http_1_0;
};

/* Returns the size of the head, 0 when it is not all there, -1 when it is not HTTP. */
long head_read(struct span data, struct head *head);

/* Find a field by its name in any case; its value without spaces around it. */
bool head_field(const struct head *head, const char *name, struct span *value);

struct answer {
    struct head head;
    struct span body;  /* as it came: with its chunk sizes if chunked */
    bool closing;      /* the server takes no more requests on this connection */
    int retry_after;   /* seconds; -1: not said */
};

/* Read one answer to a POST: with Content-Length, chunked, or ended by the close of the connection. Returns its size,
   0 when it is not all there, -1 when it is malformed. */
long answer_read(struct span data, bool closed, struct answer *answer);

#endif
