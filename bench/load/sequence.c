#include "sequence.h"

#include <stdlib.h>

#include "common.h"

enum { HOLES_MAX = 1 << 22 }; /* 64 MB; a server that loses more is beyond telling late from duplicate */

/* A hash table with open addressing: a slot is free with owner 0, and was one with number 0. */
static struct hole {
    uint64_t owner, number;
} *holes;
static size_t room, used; /* room is a power of two; used counts slots that are not free */

static struct hole *slot(uint64_t owner, uint64_t number) {
    size_t at = (size_t)((owner * 0x9e3779b97f4a7c15 ^ number) * 0xd6e8feb86659fd93 >> 24) & (room - 1);
    while (holes[at].owner && (holes[at].owner != owner || holes[at].number != number))
        at = (at + 1) & (room - 1);
    return &holes[at];
}

static void hole_add(uint64_t owner, uint64_t number) {
    if (owner == 0 || used >= HOLES_MAX)
        return;
    if (used * 2 >= room) {
        struct hole *old = holes;
        size_t count = room;
        room = count ? count * 2 : 1024;
        used = 0;
        holes = calloc(room, sizeof *holes);
        if (!holes)
            fail("out of memory for %zu holes", room);
        for (size_t i = 0; i < count; i++)
            if (old[i].number) {
                *slot(old[i].owner, old[i].number) = old[i];
                used++;
            }
        free(old);
    }
    *slot(owner, number) = (struct hole){owner, number};
    used++;
}

bool hole_filled(uint64_t owner, uint64_t number) {
    struct hole *hole = room ? slot(owner, number) : NULL;
    if (!hole || !hole->owner)
        return false;
    hole->number = 0; /* not free: others may lie behind it */
    return true;
}

void sequence_skip(struct sequence *sequence, uint64_t number, uint64_t owner) {
    while (sequence->next <= number) {
        if (!(sequence->seen >> 63))
            hole_add(owner, sequence->next - 64);
        sequence->seen = sequence->seen << 1 | (sequence->next++ == number);
    }
}
