/* What verbs do while they wait: turn the loop, show progress, keep the probe posting, and know when to stop. */
#ifndef WAITING_H
#define WAITING_H

#include "delivery.h"
#include "subscriber.h"

/* How long a verb waits. */
struct patience {
    uint64_t deadline; /* the command fails then; ns of the clock */
    uint64_t quiet;    /* what has not arrived when nothing did for so long is lost; ns */
};

/* The probe posts to its group's first stream, or to the first so many in turn, every so many ns, whatever else is going
   on. */
struct probe {
    struct group *group; /* NULL: there is no probe */
    uint64_t every, due;
    size_t size;
    uint32_t stream, streams; /* the next one, of so many */
};

extern struct probe probe;

void show_progress(uint64_t (*done)(void), uint64_t (*of)(void));
void hide_progress(void);

/* Let the loop turn once, waiting at most until then. Ends the program when connections have ended unasked. */
void step(uint64_t until);
void fail_if_broken(void);

/* Whether everything of a job has come, or is not to be waited for any longer. Ends the program past the deadline. */
bool settled(const struct job *job, const struct patience *patience);

/* Until when the loop may sleep while that is waited for. */
uint64_t settling(const struct job *job, const struct patience *patience);

/* Wait until everything has come; what has not is lost. */
void settle(struct job *job, const struct patience *patience);

#endif
