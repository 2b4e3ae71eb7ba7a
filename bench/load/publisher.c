#include "publisher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "content.h"
#include "http.h"
#include "json.h"

struct publisher publishers[PUBLISHERS];
void (*publisher_answered)(struct publisher *publisher);

static unsigned resuming; /* how many wait to send again */

static void publisher_ready(struct source *source, uint32_t events);

void publisher_open(unsigned number) {
    struct publisher *publisher = &publishers[number];
    if (publisher->connected)
        return;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&settings.publisher, sizeof settings.publisher) < 0 && errno != EINPROGRESS)
        fail("publishing connection: %s", strerror(errno));
    publisher->number = number;
    publisher->source = (struct source){publisher_ready, fd};
    publisher->connected = true;
    publisher->writable_wanted = false;
    loop_add(&publisher->source, EPOLLIN);
}

static void close_connection(struct publisher *publisher) {
    close(publisher->source.fd);
    publisher->connected = false;
    inbox_clear(&publisher->inbox);
}

/* Writing requests */

static const char MESSAGE_MIDDLE[] = "\",\"data\":";

static const char *message_head(void) {
    return settings.publish == PUBLISH_CENTRIFUGO ? "{\"channel\":\"" : "{\"stream\":\"";
}

/* Of one message in a body; they are all of one size. */
static size_t message_size(const struct request *request) {
    size_t around = strlen(message_head()) + strlen(request->stream->name) + strlen(MESSAGE_MIDDLE) + 1;
    return around + request->size + (settings.publish == PUBLISH_ANYCABLE ? 2 + CONTENT_QUOTES : 0);
}

static char *write_message(char *out, const struct request *request, unsigned publisher, uint64_t number) {
    out = stpcpy(stpcpy(stpcpy(out, message_head()), request->stream->name), MESSAGE_MIDDLE);
    if (settings.publish == PUBLISH_ANYCABLE) { /* a string with JSON in it */
        char *raw = out + 64; /* far enough ahead of what the escapes add */
        content_write(raw, request->size, publisher, number);
        *out++ = '"';
        out = json_escape(out, (struct span){raw, request->size});
        *out++ = '"';
    } else {
        content_write(out, request->size, publisher, number);
        out += request->size;
    }
    *out++ = '}';
    return out;
}

static void write_request(struct publisher *publisher, const struct request *request) {
    size_t body = request->count * message_size(request) + (request->batch ? request->count + 1 : 0);
    size_t room = sizeof settings.publish_headers + strlen(settings.publish_path) + 512 + body;
    char host[INET_ADDRSTRLEN];
    if (publisher->out_size == publisher->out_sent)
        publisher->out_size = publisher->out_sent = 0;
    if (publisher->out_room < publisher->out_size + room)
        publisher->out = grow(publisher->out, publisher->out_room = 2 * publisher->out_size + room);
    char *out = publisher->out + publisher->out_size;
    inet_ntop(AF_INET, &settings.publisher.sin_addr, host, sizeof host);
    out += sprintf(out,
                   "POST %s HTTP/1.1\r\nHost: %s:%u\r\nContent-Type: application/json\r\n%s"
                   "Content-Length: %zu\r\n\r\n",
                   settings.publish_path, host, ntohs(settings.publisher.sin_port), settings.publish_headers, body);
    if (request->batch)
        *out++ = '[';
    for (uint32_t i = 0; i < request->count; i++) {
        if (i)
            *out++ = ',';
        out = write_message(out, request, publisher->number, request->first + i);
    }
    if (request->batch)
        *out++ = ']';
    publisher->out_size = (size_t)(out - publisher->out);
}

static void push_request(struct publisher *publisher, struct request request) {
    if (publisher_idle(publisher))
        publisher->answered = publisher->asked = 0;
    if (publisher->asked == publisher->room)
        publisher->requests =
            grow(publisher->requests, (publisher->room = publisher->room ? publisher->room * 2 : 4) * sizeof request);
    publisher->requests[publisher->asked++] = request;
    write_request(publisher, &request);
    job_of(publisher->number)->posts++;
    job_of(publisher->number)->unanswered++;
}

void publisher_flush(struct publisher *publisher) {
    while (publisher->out_sent < publisher->out_size) {
        ssize_t sent = send(publisher->source.fd, publisher->out + publisher->out_sent,
                            publisher->out_size - publisher->out_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN) /* the server hung up, and why is in what it sent before: reading will tell */
                publisher->out_sent = publisher->out_size;
            break;
        }
        publisher->out_sent += (size_t)sent;
    }
    bool wanted = publisher->out_sent < publisher->out_size;
    if (wanted != publisher->writable_wanted) {
        loop_change(&publisher->source, wanted ? EPOLLIN | EPOLLOUT : EPOLLIN);
        publisher->writable_wanted = wanted;
    }
}

void publisher_queue(struct publisher *publisher, struct stream *stream, size_t size) {
    push_request(publisher,
                 (struct request){stream, series_next(stream, publisher->number), 1, (uint32_t)size, false});
    series_post(stream, publisher->number, 1, size, 0);
}

void publisher_post(struct publisher *publisher, struct stream *stream, unsigned count, size_t size, bool batch,
                    uint64_t earlier) {
    publisher_open(publisher->number);
    push_request(publisher,
                 (struct request){stream, series_next(stream, publisher->number), count, (uint32_t)size, batch});
    publisher->asked_at = now();
    series_post(stream, publisher->number, count, size, earlier ? earlier : publisher->asked_at);
    publisher_flush(publisher);
}

/* Reading answers */

/* Send all that is unanswered on a new connection. */
static void resend(struct publisher *publisher) {
    publisher_open(publisher->number);
    publisher->out_size = publisher->out_sent = 0;
    for (uint32_t i = publisher->answered; i < publisher->asked; i++)
        write_request(publisher, &publisher->requests[i]);
    publisher_flush(publisher);
}

static void take_answer(struct publisher *publisher, const struct answer *answer) {
    struct job *job = job_of(publisher->number);
    unsigned status = answer->head.status;
    uint64_t time = now();
    if (publisher_idle(publisher) && status == 408)
        return; /* so some servers close a connection that is kept alive for too long */
    if (publisher_idle(publisher))
        fail("publishing connection %u: an answer that was not asked for: %.*s", publisher->number,
             (int)answer->head.line.size, answer->head.line.at);
    if (status == 503 && answer->retry_after >= 0 && publisher->asked - publisher->answered == 1) {
        job->retries++;
        resuming++;
        publisher->resume_at = time + (uint64_t)answer->retry_after * SECOND;
        job->heard_at = publisher->resume_at;
        return;
    }
    struct span error;
    bool refused = settings.publish == PUBLISH_CENTRIFUGO && json_member(answer->body, "error", &error);
    if (status < 200 || status > 299 || refused)
        fail("post %lu of publishing connection %u was answered with %.*s: %.*s", job->posts - job->unanswered + 1,
             publisher->number, (int)answer->head.line.size, answer->head.line.at,
             answer->body.size > 200 ? 200 : (int)answer->body.size, answer->body.at);
    publisher->answered++;
    publisher->idle_at = job->heard_at = time;
    job->unanswered--;
    latency_add(&job->answer, time - publisher->asked_at);
}

static void publisher_ready(struct source *source, uint32_t events) {
    struct publisher *publisher = (struct publisher *)source;
    struct answer answer;
    struct span data;
    if (events & EPOLLOUT)
        publisher_flush(publisher);
    if (!(events & ~(uint32_t)EPOLLOUT))
        return;
    ssize_t size = inbox_receive(&publisher->inbox, source->fd, &data);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
        inbox_keep(&publisher->inbox, data);
        return;
    }
    bool closed = size <= 0, closing = false;
    const char *reason = size < 0 ? strerror(errno) : "the server closed it";
    long used = 0;
    while (data.size && !closing && (used = answer_read(data, closed, &answer)) > 0) {
        take_answer(publisher, &answer);
        closing = answer.closing;
        data = (struct span){data.at + used, data.size - (size_t)used};
    }
    if (used < 0)
        fail("publishing connection %u: the answer is not HTTP/1.1: %.*s", publisher->number,
             data.size > 100 ? 100 : (int)data.size, data.at);
    if (closed && !closing && (!publisher_idle(publisher) || data.size) && !publisher->resume_at)
        fail("publishing connection %u: %s with %u of its posts unanswered", publisher->number, reason,
             publisher->asked - publisher->answered);
    if (closed || closing) {
        close_connection(publisher);
        if (!publisher_idle(publisher) && !publisher->resume_at)
            resend(publisher);
    } else {
        inbox_keep(&publisher->inbox, data);
    }
    if (publisher_answered && publisher_idle(publisher) && publisher->number != PROBE)
        publisher_answered(publisher);
}

uint64_t publishers_resume(uint64_t time) {
    uint64_t next = UINT64_MAX;
    for (unsigned i = 0; i < PUBLISHERS && resuming; i++) {
        struct publisher *publisher = &publishers[i];
        if (!publisher->resume_at)
            continue;
        if (publisher->resume_at > time) {
            next = publisher->resume_at < next ? publisher->resume_at : next;
            continue;
        }
        struct request *request = &publisher->requests[publisher->answered];
        publisher->resume_at = 0;
        resuming--;
        publisher->asked_at = time;
        series_date(request->stream, publisher->number, request->first, request->count, time);
        resend(publisher);
    }
    return next;
}
