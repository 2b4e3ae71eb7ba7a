/* The three protocols: how a stream is subscribed to, and what a text frame means. */
#ifndef WIRE_H
#define WIRE_H

#include "subscriber.h"

extern const char *const WIRE_SUBPROTOCOL[]; /* by enum wire; "" for none */

/* The connection is a WebSocket now. */
void wire_upgraded(struct subscriber *subscriber);

/* A text frame came; `at` is when it was read. */
void wire_text(struct subscriber *subscriber, struct span text, uint64_t at);

#endif
