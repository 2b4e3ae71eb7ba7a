/* A connection's life: CONNECTING (until it can be written to) → UPGRADING (the opening handshake) → SUBSCRIBING (the
   wire's commands) → SUBSCRIBED → CLOSING (our close frame is out) → GONE (to be forgotten by `group_compact`). An end
   in any state but CLOSING, or while it is stalled, is unexpected: it is counted, and the command at work fails. */
#include "subscriber.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "content.h"
#include "websocket.h"
#include "wire.h"

uint32_t subscriber_count, subscribers_unsettled, stalled_closed, broken_count;
uint64_t received_messages, received_pings, stall_heard_at, broken_at;
struct latency connect_latency;
char broken_reason[512];

/* Edge-triggered, as the kernel then does not look a second time at each socket that was read: in each of five
   interleaved pairs it took less CPU than level-triggered, by 9 % on average. */
enum { SUBSCRIBER_EVENTS = EPOLLIN | EPOLLRDHUP | (int)EPOLLET };

static void subscriber_ready(struct source *source, uint32_t events);

/* Ends */

static void forget(struct subscriber *subscriber) {
    if (subscriber->state == SUBSCRIBED || subscriber->state == CLOSING) {
        subscriber_count--;
        if (!subscriber->stall && subscriber->state == SUBSCRIBED)
            subscriber->stream->subscribers--;
    }
    if (subscriber->state != SUBSCRIBED)
        subscribers_unsettled--;
    close(subscriber->source.fd); /* which takes it out of the epoll, too */
    inbox_clear(&subscriber->inbox);
    subscriber->state = GONE;
}

static void broken(struct subscriber *subscriber, const char *reason) {
    static const char *const WHEN[] = {"while connecting", "while upgrading", "while subscribing", "", "", ""};
    if (subscriber->state != CLOSING && !subscriber->stall && !broken_count++) {
        broken_at = now();
        snprintf(broken_reason, sizeof broken_reason, "connection %u of group %s %s%s%s", subscriber->number,
                 subscriber->group->name, WHEN[subscriber->state], *WHEN[subscriber->state] ? ": " : "", reason);
    }
    stalled_closed += subscriber->stall != NULL;
    forget(subscriber);
}

void subscriber_fail(const struct subscriber *subscriber, const char *what, struct span text) {
    fail("connection %u of group %s (stream %s) got %s: %.*s%s", subscriber->number, subscriber->group->name,
         subscriber->stream->name, what, text.size > 200 ? 200 : (int)text.size, text.at, text.size > 200 ? "..." : "");
}

static void got_close(struct subscriber *subscriber, struct span payload) {
    char reason[200];
    const unsigned char *at = (const unsigned char *)payload.at;
    if (payload.size < 2)
        snprintf(reason, sizeof reason, "was closed without a code");
    else
        snprintf(reason, sizeof reason, "was closed with %u \"%.*s\"", at[0] << 8 | at[1], (int)payload.size - 2,
                 payload.at + 2);
    broken(subscriber, reason);
}

/* Beginnings */

/* Connect from another loopback address after every 4096 connections. From one address connect() takes milliseconds
   when half of the ephemeral ports are in use, as the kernel tries them one by one for one that is free. */
static void choose_address(int fd) {
    static uint32_t opened;
    uint32_t server = ntohl(settings.cable.sin_addr.s_addr), block = opened++ / 4096 % 64;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001 + block)};
    int on = 1;
    if (server >> 24 != 127 || block == 0)
        return;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on); /* the port is chosen by connect, as usual */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind: %s", strerror(errno));
}

void subscriber_open(struct group *group, uint32_t streams, int receive_buffer) {
    struct subscriber *subscriber = grow(NULL, sizeof *subscriber);
    static uint32_t serial;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket: %s with %u connections open", strerror(errno), subscriber_count);
    *subscriber = (struct subscriber){.source = {subscriber_ready, fd}, .state = CONNECTING, .publisher = NOBODY,
                                      .number = group->opened, .serial = ++serial, .group = group, .since = now()};
    subscriber->stream = group_stream(group, group->opened++ % streams);
    group_add(group, subscriber);
    subscribers_unsettled++;
    choose_address(fd);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (receive_buffer) /* before connecting: it limits the window that is announced */
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    if (connect(fd, (struct sockaddr *)&settings.cable, sizeof settings.cable) < 0 && errno != EINPROGRESS) {
        broken(subscriber, strerror(errno));
        return;
    }
    /* On loopback the connection is there already, unless the server's queue is full. */
    loop_add(&subscriber->source, EPOLLOUT);
}

static void send_upgrade(struct subscriber *subscriber) {
    struct span request = upgrade_request(WIRE_SUBPROTOCOL[settings.wire]);
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(subscriber->source.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error || send(subscriber->source.fd, request.at, request.size, MSG_NOSIGNAL) != (ssize_t)request.size) {
        broken(subscriber, strerror(error ? error : errno));
        return;
    }
    subscriber->state = UPGRADING;
    loop_change(&subscriber->source, SUBSCRIBER_EVENTS);
}

void subscriber_confirmed(struct subscriber *subscriber) {
    subscriber->state = SUBSCRIBED;
    subscriber->stream->subscribers++;
    subscriber_count++;
    subscribers_unsettled--;
    latency_add(&connect_latency, now() - subscriber->since);
}

void subscriber_close(struct subscriber *subscriber, bool abort) {
    bool stalled = subscriber->stall;
    if (abort) {
        struct linger linger = {1, 0};
        setsockopt(subscriber->source.fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    if (abort || stalled) { /* a stalled one has unread bytes, so that its end is a reset all the same */
        forget(subscriber);
        return;
    }
    subscriber_send(subscriber, CLOSE, "\x03\xe8", 2);
    subscriber->stream->subscribers--;
    subscriber->state = CLOSING;
    subscribers_unsettled++;
}

/* Messages */

void subscriber_send(struct subscriber *subscriber, unsigned opcode, const char *payload, size_t size) {
    char frame[FRAME_ROOM];
    size_t frame_size = frame_write(frame, opcode, payload, size);
    /* So few and small that they fit, unless the server has stopped reading; an end is seen by reading. */
    ssize_t sent = send(subscriber->source.fd, frame, frame_size, MSG_NOSIGNAL);
    if (sent != (ssize_t)frame_size && (sent >= 0 || errno == EAGAIN))
        fail("connection %u of group %s: the server does not read", subscriber->number, subscriber->group->name);
}

static struct sequence *other_sequence(struct subscriber *subscriber, unsigned publisher) {
    if (subscriber->publisher == NOBODY)
        subscriber->publisher = (uint8_t)publisher;
    if (subscriber->publisher == publisher)
        return &subscriber->sequence;
    if (!subscriber->others) {
        size_t size = PUBLISHERS * sizeof *subscriber->others;
        subscriber->others = memset(grow(NULL, size), 0, size);
    }
    return &subscriber->others[publisher];
}

static _Noreturn void wrong_content(const struct subscriber *subscriber, struct span data, size_t offset) {
    if (data.size < CONTENT_MIN || offset >= data.size)
        subscriber_fail(subscriber, "data that was never posted", data);
    fail("connection %u of group %s (stream %s) got a wrong byte: 0x%02x instead of '%c' at %zu in data of %zu bytes",
         subscriber->number, subscriber->group->name, subscriber->stream->name, (unsigned char)data.at[offset],
         content_byte(data.size, offset), offset, data.size);
}

void subscriber_message(struct subscriber *subscriber, struct span data, uint64_t at) {
    unsigned publisher;
    uint64_t number;
    long wrong = content_check(data.at, data.size, &publisher, &number);
    if (wrong >= 0)
        wrong_content(subscriber, data, (size_t)wrong);
    struct series *series = subscriber->stream->series[publisher];
    if (!series || number > series->posted || number == 0)
        fail("connection %u of group %s (stream %s) got message %lu of publishing connection %u: never posted",
             subscriber->number, subscriber->group->name, subscriber->stream->name, number, publisher);
    if (number >= series->first && series->flights[number & series->mask].size != data.size)
        fail("connection %u of group %s (stream %s) got %zu bytes of data, posted were %u", subscriber->number,
             subscriber->group->name, subscriber->stream->name, data.size, series->flights[number & series->mask].size);
    received_messages++;
    struct sequence *sequence =
        publisher == subscriber->publisher ? &subscriber->sequence : other_sequence(subscriber, publisher);
    if (!sequence->next) /* it may have come to the stream later than the series began */
        sequence_begin(sequence, number < series->first ? number : series->first);
    struct job *job = job_of(publisher);
    job->heard_at = at;
    uint64_t owner = subscriber->stall ? 0 : (uint64_t)subscriber->serial * PUBLISHERS + publisher;
    switch (sequence_add(sequence, number, owner)) {
    case DUPLICATE:
        job->duplicates++;
        return;
    case REORDERED:
        job->reordered++;
        break;
    case ARRIVED:
        break;
    }
    if (subscriber->stall)
        subscriber->stall->received++;
    else
        series_arrive(series, publisher, number, at);
}

void subscriber_missed(struct subscriber *subscriber, uint64_t count) {
    if (subscriber->stall)
        subscriber->stall->told += count;
    else
        command_job.missed += count;
}

/* recv once, and take in all whole frames of it. False when the connection is gone, or nothing was there. */
static bool read_frames(struct subscriber *subscriber, bool *filled) {
    struct span data;
    ssize_t size = inbox_receive(&subscriber->inbox, subscriber->source.fd, &data);
    if (size <= 0) {
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            inbox_keep(&subscriber->inbox, data);
        else
            broken(subscriber, size ? strerror(errno) : "was cut off without a close frame");
        return false;
    }
    /* One reading of the clock for all frames of this recv, right behind it: what is measured includes the wait for our
       turn to recv, so that the last delivery of a broadcast is timed when it is really there. */
    uint64_t at = now();
    *filled = size == RECEIVE;
    if (subscriber->stall)
        stall_heard_at = at;
    if (subscriber->state == UPGRADING) {
        const char *reason;
        long head = upgrade_check(data, WIRE_SUBPROTOCOL[settings.wire], &reason);
        if (head < 0) {
            broken(subscriber, reason);
            return false;
        }
        data = (struct span){data.at + head, data.size - (size_t)head};
        if (head) {
            subscriber->state = SUBSCRIBING;
            wire_upgraded(subscriber);
        }
    }
    struct frame frame;
    long used = subscriber->state == UPGRADING ? 0 : frame_read(data.at, data.size, &frame);
    for (; used > 0; used = frame_read(data.at, data.size, &frame)) {
        data = (struct span){data.at + used, data.size - (size_t)used};
        if (frame.opcode == TEXT) {
            wire_text(subscriber, frame.payload, at);
        } else if (frame.opcode == PING) {
            subscriber_send(subscriber, PONG, frame.payload.at, frame.payload.size & 127);
        } else if (frame.opcode == CLOSE) {
            got_close(subscriber, frame.payload);
            return false;
        }
    }
    if (used == FRAME_BAD)
        subscriber_fail(subscriber, "a frame that breaks RFC 6455 or is none of text, close, ping and pong",
                        (struct span){"", 0});
    inbox_keep(&subscriber->inbox, data);
    return true;
}

static void subscriber_ready(struct source *source, uint32_t events) {
    struct subscriber *subscriber = (struct subscriber *)source;
    bool filled = false;
    if (subscriber->state == CONNECTING) {
        send_upgrade(subscriber);
        return;
    }
    /* An edge is told once: one recv takes everything, unless it filled the buffer, or the end is behind it. */
    bool ended = events & ~(uint32_t)EPOLLIN;
    while (read_frames(subscriber, &filled) && (filled || ended))
        ;
}

/* Stalling */

void subscriber_stall(struct subscriber *subscriber) {
    subscriber->stall = grow(NULL, sizeof *subscriber->stall);
    *subscriber->stall = (struct stall){.posted = subscriber->stream->posted};
    subscriber->stream->subscribers--;
    /* Out of the epoll altogether: it would report a hang-up even where nothing is asked for. */
    loop_remove(&subscriber->source);
}

void subscriber_read(struct subscriber *subscriber) { loop_add(&subscriber->source, SUBSCRIBER_EVENTS); }
