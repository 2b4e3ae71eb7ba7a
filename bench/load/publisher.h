/* The connections that post: HTTP/1.1 with keep-alive, one request at a time or many at once (pipelined).

   A request that the server may have carried out is never sent a second time. It is sent again only where that is known
   not to be so: after a 503 with Retry-After, and when an answer before it said `Connection: close`, for a server takes
   no more requests behind that (RFC 9112 §9.6). Any other end with requests unanswered is an error. */
#ifndef PUBLISHER_H
#define PUBLISHER_H

#include "delivery.h"
#include "loop.h"

/* A post that is not answered yet: messages first…first+count-1 of this publisher's series on that stream. */
struct request {
    struct stream *stream;
    uint64_t first;
    uint32_t count, size;
    bool batch;
};

struct publisher {
    struct source source;
    struct inbox inbox;
    unsigned number;
    bool connected, writable_wanted;
    char *out; /* written requests; those before `sent` are out */
    size_t out_size, out_sent, out_room;
    struct request *requests; /* unanswered, oldest first: from `answered` to `asked` */
    uint32_t answered, asked, room;
    uint64_t asked_at;  /* when the last request was written, ns */
    uint64_t idle_at;   /* when the last answer came */
    uint64_t resume_at; /* after a 503; 0: not waiting */
};

extern struct publisher publishers[PUBLISHERS];

/* Called with each answer; NULL: nobody waits for one. */
extern void (*publisher_answered)(struct publisher *publisher);

static inline bool publisher_idle(const struct publisher *publisher) { return publisher->answered == publisher->asked; }

/* Have a connection, unless there is one. */
void publisher_open(unsigned number);

/* Post `count` messages: as an array if `batch`, else one. The time is taken just before the first byte is written,
   unless they count from an `earlier` one (0: they do not). */
void publisher_post(struct publisher *publisher, struct stream *stream, unsigned count, size_t size, bool batch,
                    uint64_t earlier);

/* One message, to be written by `publisher_flush`: many requests, one write. Whoever flushes sets `asked_at`, and the
   messages' time with `series_date`. */
void publisher_queue(struct publisher *publisher, struct stream *stream, size_t size);
void publisher_flush(struct publisher *publisher);

/* Send again what was refused, if its time has come. Returns when there is something to do next (UINT64_MAX: never). */
uint64_t publishers_resume(uint64_t time);

#endif
