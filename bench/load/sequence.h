/* Which numbers of a sequence have arrived, so that a number that comes for the second time is told from one that comes
   late, and a duplicate never stands in for a loss. What is lost is known only by what was posted and did not arrive:
   see delivery.h.

   The highest number seen and a bit for each of the 64 up to it are enough for a server that keeps its messages in
   order or nearly so. Where a number leaves this window without having been seen, it is a hole, and remembered in a
   table that all sequences share: Action Cable's threads overtake each other by more than that. */
#ifndef SEQUENCE_H
#define SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

enum arrival { ARRIVED, REORDERED, DUPLICATE };

struct sequence {
    uint64_t next; /* one more than the highest number seen; 0: not begun */
    uint64_t seen; /* bit i: next - 1 - i was seen, or was before the beginning */
};

static inline void sequence_begin(struct sequence *sequence, uint64_t first) {
    *sequence = (struct sequence){first, UINT64_MAX};
}

/* Take in numbers from next to `number`, the last of which has come, by way of holes. */
void sequence_skip(struct sequence *sequence, uint64_t number, uint64_t owner);

/* Whether this was a hole of the owner's; it is none any more. */
bool hole_filled(uint64_t owner, uint64_t number);

/* `owner` is what the sequence's holes are known by; 0: they need not be remembered, and what is late by more than 63
   counts as a duplicate. */
static inline enum arrival sequence_add(struct sequence *sequence, uint64_t number, uint64_t owner) {
    if (number == sequence->next && sequence->seen >> 63) {
        sequence->seen = sequence->seen << 1 | 1;
        sequence->next++;
        return ARRIVED;
    }
    if (number >= sequence->next) {
        sequence_skip(sequence, number, owner);
        return ARRIVED;
    }
    uint64_t back = sequence->next - 1 - number;
    if (back > 63)
        return hole_filled(owner, number) ? REORDERED : DUPLICATE;
    if (sequence->seen >> back & 1)
        return DUPLICATE;
    sequence->seen |= 1ull << back;
    return REORDERED;
}

#endif
