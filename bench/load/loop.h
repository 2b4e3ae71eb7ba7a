/* One epoll for everything, and reading without copying.

   One recv per readiness: none is spent on hearing EAGAIN. All reads go into one shared buffer that stays in the cache;
   only where a frame is cut is its beginning kept until the rest comes. */
#ifndef LOOP_H
#define LOOP_H

#include <sys/epoll.h>
#include <sys/types.h>

#include "common.h"

struct source {
    void (*ready)(struct source *source, uint32_t events);
    int fd;
};

/* What was received of a frame or answer that was cut: nothing, most of the time. */
struct inbox {
    char *cut;
    uint32_t size;
};

enum { RECEIVE = 256 << 10 }; /* what one recv takes at most */

extern uint64_t received_bytes, received_reads; /* of this process */

void loop_start(void);
void loop_add(struct source *source, uint32_t events);
void loop_change(struct source *source, uint32_t events);
void loop_remove(struct source *source);

/* Wait, at most until then (ns), and let every source that is ready (at most 512) do its work. */
void loop_turn(uint64_t until);

/* recv once. Returns recv's result, with `data` set to everything unread, which is valid until the next call: of what
   is not used now, `inbox_keep` must be told. */
ssize_t inbox_receive(struct inbox *inbox, int fd, struct span *data);
void inbox_keep(struct inbox *inbox, struct span rest);
void inbox_clear(struct inbox *inbox);

#endif
