// floor PORT [--threads N]: what a fan-out costs at the very least.
//
// An epoll loop that makes the frame of a broadcast once and calls send(2) once per subscriber, and leaves out all that
// a server owes its users: it checks nothing, believes every length, knows the load client's JSON by its looks, has no
// heartbeat, no limits and no queues. Frames that do not fit into a socket are lost (said on stderr), a frame sent in
// part ends its connection. What remains is the kernel's work, which no server that sends message by message avoids.
//
// With N threads, a broadcast to at least SPLIT subscribers is sent by all of them: each takes the next SLICE
// subscribers until none are left, and the loop goes on when all have finished, so messages keep their order.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FDS = 1 << 16, BUCKETS = 1 << 14, READ = 1 << 18, SPLIT = 256, SLICE = 64 };

struct stream {
    struct stream *next;  // in its bucket
    int *fds, count, room;
    size_t length;
    char name[];
};

struct connection {
    bool open, websocket;
    int count;  // of its streams
    struct stream **streams;
    char *rest;  // what has been read of an unfinished request or frame
    size_t length;
};

static struct connection connections[MAX_FDS];
static struct stream *buckets[BUCKETS];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *grown(void *block, size_t size) {
    block = realloc(block, size);
    if (!block) die("realloc");
    return block;
}

// ---- fan-out

static struct {
    pthread_mutex_t lock;
    pthread_cond_t start, end;
    unsigned number;        // of the broadcast; a thread that waits has seen the one before
    int threads, busy;      // busy: helpers that have not finished this one
    const int *fds;
    int count;
    atomic_int next;
    const char *frame;
    size_t length;
} job = {.lock = PTHREAD_MUTEX_INITIALIZER, .start = PTHREAD_COND_INITIALIZER, .end = PTHREAD_COND_INITIALIZER};

static atomic_long lost;

static void send_frame(int fd, const char *frame, size_t length) {
    ssize_t sent = send(fd, frame, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == (ssize_t)length) return;
    if (sent >= 0) {
        fprintf(stderr, "floor: a frame was sent in part: its connection is cut off\n");
        shutdown(fd, SHUT_RDWR);
    } else if (errno == EAGAIN && atomic_fetch_add(&lost, 1) == 0) {
        fprintf(stderr, "floor: a socket is full: messages are being lost\n");
    }
}

static void send_slices(void) {
    for (;;) {
        int from = atomic_fetch_add_explicit(&job.next, SLICE, memory_order_relaxed), to = from + SLICE;
        if (from >= job.count) return;
        for (int i = from; i < to && i < job.count; i++) send_frame(job.fds[i], job.frame, job.length);
    }
}

static void *helper(void *unused) {
    (void)unused;
    pthread_mutex_lock(&job.lock);
    for (unsigned seen = 0;; seen = job.number) {
        while (job.number == seen) pthread_cond_wait(&job.start, &job.lock);
        pthread_mutex_unlock(&job.lock);
        send_slices();
        pthread_mutex_lock(&job.lock);
        if (--job.busy == 0) pthread_cond_signal(&job.end);
    }
    return NULL;
}

static void fan_out(const struct stream *stream, const char *frame, size_t length) {
    if (job.threads == 1 || stream->count < SPLIT) {
        for (int i = 0; i < stream->count; i++) send_frame(stream->fds[i], frame, length);
        return;
    }
    pthread_mutex_lock(&job.lock);
    job.fds = stream->fds, job.count = stream->count, job.frame = frame, job.length = length;
    atomic_store(&job.next, 0);
    job.busy = job.threads - 1;
    job.number++;
    pthread_cond_broadcast(&job.start);
    pthread_mutex_unlock(&job.lock);
    send_slices();
    pthread_mutex_lock(&job.lock);
    while (job.busy) pthread_cond_wait(&job.end, &job.lock);
    pthread_mutex_unlock(&job.lock);
}

// ---- streams

static struct stream *find(const char *name, size_t length, bool create) {
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)name[i]) * 1099511628211u;
    struct stream **at = &buckets[hash % BUCKETS];
    for (; *at; at = &(*at)->next)
        if ((*at)->length == length && !memcmp((*at)->name, name, length)) return *at;
    if (!create) return NULL;
    struct stream *stream = *at = grown(NULL, sizeof *stream + length);
    *stream = (struct stream){.length = length};
    memcpy(stream->name, name, length);
    return stream;
}

static void join(int fd, struct stream *stream) {
    struct connection *connection = &connections[fd];
    for (int i = 0; i < connection->count; i++)
        if (connection->streams[i] == stream) return;
    connection->streams = grown(connection->streams, (connection->count + 1) * sizeof stream);
    connection->streams[connection->count++] = stream;
    if (stream->count == stream->room) {
        stream->room = stream->room ? stream->room * 2 : 2;
        stream->fds = grown(stream->fds, stream->room * sizeof fd);
    }
    stream->fds[stream->count++] = fd;
}

static void leave(int fd, struct stream *stream) {
    for (int i = 0; i < stream->count; i++)
        if (stream->fds[i] == fd) {
            stream->fds[i] = stream->fds[--stream->count];
            return;
        }
}

static void hang_up(int fd) {
    struct connection *connection = &connections[fd];
    for (int i = 0; i < connection->count; i++) leave(fd, connection->streams[i]);
    free(connection->streams);
    free(connection->rest);
    *connection = (struct connection){0};
    close(fd);
}

// ---- handshake (RFC 6455 section 4)

static uint32_t rotated(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

// SHA-1 of a key and the RFC's GUID: 60 bytes, always two blocks.
static void sha1(const char text[60], unsigned char digest[20]) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}, w[80];
    unsigned char blocks[128] = {0};
    memcpy(blocks, text, 60);
    blocks[60] = 0x80, blocks[126] = 60 * 8 >> 8, blocks[127] = 60 * 8 & 255;
    for (unsigned char *block = blocks; block < blocks + 128; block += 64) {
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
        for (int i = 16; i < 80; i++) w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                                  : (b ^ c ^ d) + 0xca62c1d6;
            uint32_t sum = rotated(a, 5) + f + e + w[i];
            e = d, d = c, c = rotated(b, 30), b = a, a = sum;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = h[i / 4] >> (24 - i % 4 * 8);
}

static void shake_hands(int fd, const char key[24]) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[60], accept[29] = {0}, answer[200];
    unsigned char digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(text, digest);
    for (int i = 0; i < 28; i++) {
        uint32_t group = digest[i / 4 * 3] << 16 | digest[i / 4 * 3 + 1] << 8 | digest[i / 4 * 3 + 2];
        accept[i] = alphabet[group >> (18 - i % 4 * 6) & 63];
    }
    accept[27] = '=';
    int length = snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    send_frame(fd, answer, length);
    connections[fd].websocket = true;
}

// ---- broadcasts

// The value of the member "stream" in a client's command or a broadcast; NULL when there is none.
static const char *stream_name(const char *text, size_t size, size_t *length) {
    static const char member[] = "\"stream\":\"";
    const char *name = memmem(text, size, member, sizeof member - 1);
    if (!name) return NULL;
    name += sizeof member - 1;
    const char *end = memchr(name, '"', text + size - name);
    if (!end) return NULL;
    *length = end - name;
    return name;
}

static size_t frame_head(unsigned char *head, size_t length) {
    head[0] = 0x81;
    if (length < 126) {
        head[1] = length;
        return 2;
    }
    int bytes = length < 65536 ? 2 : 8;
    head[1] = bytes == 2 ? 126 : 127;
    for (int i = 0; i < bytes; i++) head[2 + i] = (uint64_t)length >> 8 * (bytes - 1 - i);
    return 2 + bytes;
}

static void broadcast(const struct stream *stream, const char *data, size_t size) {
    static char *frame;
    static size_t room;
    if (room < size + stream->length + 100) frame = grown(frame, room = 2 * (size + stream->length + 100));
    unsigned char head[10];
    static const char before[] = "{\"type\":\"message\",\"stream\":\"", between[] = "\",\"data\":";
    size_t length = frame_head(head, sizeof before - 1 + stream->length + sizeof between - 1 + size + 1);
    char *end = mempcpy(frame, head, length);
    end = mempcpy(end, before, sizeof before - 1);
    end = mempcpy(end, stream->name, stream->length);
    end = mempcpy(end, between, sizeof between - 1);
    end = mempcpy(end, data, size);
    *end++ = '}';
    fan_out(stream, frame, end - frame);
}

// {"stream":"S","data":D} or [{"stream":"S","data":D},…]: a first pass counts for the answer, a second one sends.
static int each_broadcast(const char *body, size_t size, bool send) {
    static const char follows[] = ",{\"stream\":\"", member[] = "\"data\":";
    const char *end = body + size - (body[0] == '['), *next;
    int subscribers = 0;
    for (const char *item = body; item; item = next) {
        next = body[0] == '[' ? memmem(item + 1, end - item - 1, follows, sizeof follows - 1) : NULL;
        const char *last = memrchr(item, '}', (next ? next : end) - item);
        size_t length;
        const char *name = stream_name(item, size - (item - body), &length);
        const char *data = memmem(item, size - (item - body), member, sizeof member - 1);
        if (!name || !data || !last) return -1;
        const struct stream *stream = find(name, length, false);
        if (!stream) continue;
        data += sizeof member - 1;
        subscribers += stream->count;
        if (send) broadcast(stream, data, last - data);
    }
    return subscribers;
}

static void post(int fd, const char *body, size_t size) {
    char answer[128], json[48] = "{\"error\":\"not a broadcast\"}";
    int subscribers = size ? each_broadcast(body, size, false) : -1;
    bool bad = subscribers < 0;
    int length = bad ? (int)strlen(json) : snprintf(json, sizeof json, "{\"subscribers\":%d}", subscribers);
    static const char head[] = "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s";
    length = snprintf(answer, sizeof answer, head, bad ? "400 Bad Request" : "200 OK", length, json);
    send_frame(fd, answer, length);
    if (!bad) each_broadcast(body, size, true);
}

// ---- what comes in; each returns the bytes used, 0 for "not yet whole" and -1 to hang up

static ssize_t http_request(int fd, char *text, size_t size) {
    char *body = memmem(text, size, "\r\n\r\n", 4);
    if (!body) return 0;
    body += 4;
    body[-2] = 0;  // ends the header for strcasestr
    const char *key = strcasestr(text, "\r\nSec-WebSocket-Key: "), *length = strcasestr(text, "\r\nContent-Length: ");
    body[-2] = '\r';
    if (key) {
        shake_hands(fd, key + 21);
        return body - text;
    }
    size_t body_size = length ? strtoul(length + 18, NULL, 10) : 0;
    if ((size_t)(text + size - body) < body_size) return 0;
    post(fd, body, body_size);
    return body + body_size - text;
}

static void command(int fd, const char *text, size_t size) {
    size_t length;
    const char *name = stream_name(text, size, &length);
    if (!name) return;
    struct stream *stream = find(name, length, true);
    if (memmem(text, size, "\"unsubscribe\"", 13)) {
        struct connection *connection = &connections[fd];
        leave(fd, stream);
        for (int i = 0; i < connection->count; i++)
            if (connection->streams[i] == stream) connection->streams[i] = connection->streams[--connection->count];
        return;
    }
    char answer[400] = {0};
    static const char subscribed[] = "{\"type\":\"subscribed\",\"stream\":\"%.*s\"}";
    int json = snprintf(answer + 4, sizeof answer - 4, subscribed, (int)length, name);
    unsigned char head[10];
    size_t head_length = frame_head(head, json);
    memcpy(answer + 4 - head_length, head, head_length);
    join(fd, stream);
    send_frame(fd, answer + 4 - head_length, head_length + json);
}

static ssize_t websocket_frame(int fd, char *text, size_t size) {
    const unsigned char *head = (unsigned char *)text;
    if (size < 6) return 0;
    size_t length = head[1] & 127, skip = 2;
    if (length == 127) return -1;
    if (length == 126) length = head[2] << 8 | head[3], skip = 4;
    char *mask = text + skip, *payload = mask + 4;
    if (size < skip + 4 + length) return 0;
    for (size_t i = 0; i < length; i++) payload[i] ^= mask[i % 4];
    int opcode = head[0] & 15;
    if (opcode == 8) return -1;
    if (opcode == 1) command(fd, payload, length);
    if (opcode == 9 && length < 126) {
        payload[-2] = (char)0x8a, payload[-1] = length;
        send_frame(fd, payload - 2, length + 2);
    }
    return skip + 4 + length;
}

static void receive(int fd) {
    static char buffer[READ];
    struct connection *connection = &connections[fd];
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        hang_up(fd);
        return;
    }
    char *text = buffer;
    size_t size = got;
    if (connection->rest) {
        text = connection->rest = grown(connection->rest, connection->length + got);
        memcpy(text + connection->length, buffer, got);
        size += connection->length;
    }
    ssize_t used = 1;
    size_t at = 0;
    while (at < size && used > 0) {
        used = (connection->websocket ? websocket_frame : http_request)(fd, text + at, size - at);
        at += used > 0 ? used : 0;
    }
    if (used < 0) {
        hang_up(fd);
        return;
    }
    char *rest = NULL;
    if (at < size) memcpy(rest = grown(NULL, size - at), text + at, size - at);
    free(connection->rest);
    connection->rest = rest, connection->length = size - at;
}

static void accept_all(int listener, int epoll) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        connections[fd].open = true;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
    if (errno != EAGAIN && errno != ECONNABORTED) die("accept");
}

int main(int count, char **words) {
    bool threads = count == 4 && !strcmp(words[2], "--threads");
    job.threads = threads ? atoi(words[3]) : 1;
    if ((count != 2 && !threads) || job.threads < 1) {
        fprintf(stderr, "usage: floor PORT [--threads N]\n");
        return 2;
    }
    for (int i = 1; i < job.threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, helper, NULL)) die("pthread_create");
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), epoll = epoll_create1(0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("floor: listen");
    struct epoll_event events[256], event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)) die("epoll_ctl");
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener) accept_all(listener, epoll);
            else if (connections[events[i].data.fd].open) receive(events[i].data.fd);
        }
    }
}
