#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 512 };

uint64_t received_bytes, received_reads;

static int epoll;
static char *shared;
static size_t shared_size;

void loop_start(void) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        fail("epoll_create1: %s", strerror(errno));
    shared = grow(NULL, shared_size = RECEIVE);
}

static void control(int operation, struct source *source, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(epoll, operation, source->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

void loop_add(struct source *source, uint32_t events) { control(EPOLL_CTL_ADD, source, events); }
void loop_change(struct source *source, uint32_t events) { control(EPOLL_CTL_MOD, source, events); }
void loop_remove(struct source *source) { control(EPOLL_CTL_DEL, source, 0); }

void loop_turn(uint64_t until) {
    static struct epoll_event events[BATCH];
    uint64_t time = until == UINT64_MAX ? 0 : now();
    /* Rounded up: not to turn in vain during the last millisecond. */
    uint64_t wait = until > time ? (until - time + 999999) / 1000000 : 0;
    int count = epoll_wait(epoll, events, BATCH, until == UINT64_MAX ? -1 : wait > INT_MAX ? INT_MAX : (int)wait);
    if (count < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct source *source = events[i].data.ptr;
        source->ready(source, events[i].events);
    }
}

ssize_t inbox_receive(struct inbox *inbox, int fd, struct span *data) {
    size_t kept = inbox->size;
    if (kept) {
        if (shared_size < kept + RECEIVE)
            shared = grow(shared, shared_size = 2 * kept + RECEIVE);
        memcpy(shared, inbox->cut, kept);
        inbox_clear(inbox);
    }
    ssize_t size = recv(fd, shared + kept, RECEIVE, 0);
    received_reads++;
    if (size > 0)
        received_bytes += (uint64_t)size;
    *data = (struct span){shared, kept + (size > 0 ? (size_t)size : 0)};
    return size;
}

void inbox_keep(struct inbox *inbox, struct span rest) {
    inbox->size = (uint32_t)rest.size;
    if (rest.size) {
        inbox->cut = grow(NULL, rest.size);
        memcpy(inbox->cut, rest.at, rest.size);
    }
}

void inbox_clear(struct inbox *inbox) {
    free(inbox->cut);
    *inbox = (struct inbox){0};
}
