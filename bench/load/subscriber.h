/* The connections that subscribe: one stream each, in groups that the commands name. */
#ifndef SUBSCRIBER_H
#define SUBSCRIBER_H

#include "delivery.h"
#include "loop.h"

enum state { CONNECTING, UPGRADING, SUBSCRIBING, SUBSCRIBED, CLOSING, GONE };

/* Of a connection that is not read, or reads again what it left lying. */
struct stall {
    uint64_t posted;   /* messages of its stream when it began */
    uint64_t received; /* since then */
    uint64_t told;     /* missed messages that the server told it of */
};

/* Some 19,000 of these are walked through for each broadcast, so they are small: one subscription, and one sequence
   besides those few that need more because several connections publish into their stream. */
struct subscriber {
    struct source source;
    uint8_t state;
    uint8_t publisher; /* whose sequence `sequence` is; NOBODY yet */
    uint32_t number;   /* within its group */
    uint32_t serial;   /* among all that ever were; from 1 */
    struct sequence sequence;
    struct stream *stream;
    struct sequence *others; /* PUBLISHERS of them, or NULL */
    struct inbox inbox;
    struct group *group;
    struct stall *stall; /* NULL when it is read as usual */
    uint64_t since;      /* when its connecting began */
};

enum { NOBODY = 255 };

struct group {
    char *name;
    struct stream **streams;
    struct subscriber **subscribers;
    uint32_t stream_count, count, room, opened;
    struct group *next;
};

extern struct group *groups;
extern uint32_t subscriber_count;      /* that are connected */
extern uint32_t subscribers_unsettled; /* that are connecting or closing */
extern uint64_t received_messages;
extern uint64_t received_pings; /* of the wire's own kind, as text */
extern struct latency connect_latency;
extern uint32_t stalled_closed; /* stalled ones that the server closed */
extern uint64_t stall_heard_at; /* when something came for one that reads again, ns */

struct group *group_find(const char *name); /* NULL if there is none */
struct group *group_make(const char *name);
void group_add(struct group *group, struct subscriber *subscriber);
struct stream *group_stream(struct group *group, uint32_t number);
void group_compact(struct group *group); /* forget those that are gone */
void group_write_off(unsigned publisher_from, unsigned publisher_to);

/* Open one more connection; when it is confirmed, `connect_latency` and `subscriber_count` show it. `receive_buffer` is
   SO_RCVBUF; 0 leaves the kernel's default. */
void subscriber_open(struct group *group, uint32_t streams, int receive_buffer);

/* Close in the RFC's way, or at once with a reset. */
void subscriber_close(struct subscriber *subscriber, bool abort);

void subscriber_stall(struct subscriber *subscriber);
void subscriber_read(struct subscriber *subscriber);

/* Connections that ended unasked: how many, since when (0: none), and why the first did. */
extern uint32_t broken_count;
extern uint64_t broken_at;
extern char broken_reason[512];

/* For wire.c: what a server's text means for a subscriber. */
void subscriber_send(struct subscriber *subscriber, unsigned opcode, const char *payload, size_t size);
void subscriber_confirmed(struct subscriber *subscriber);
void subscriber_message(struct subscriber *subscriber, struct span data, uint64_t at);
void subscriber_missed(struct subscriber *subscriber, uint64_t count);
_Noreturn void subscriber_fail(const struct subscriber *subscriber, const char *what, struct span text);

#endif
