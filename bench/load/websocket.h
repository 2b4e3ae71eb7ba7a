/* RFC 6455, a client's side: reading a server's frames, writing ours, the opening handshake. */
#ifndef WEBSOCKET_H
#define WEBSOCKET_H

#include "common.h"

enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

struct frame {
    unsigned opcode;
    struct span payload;
};

enum { FRAME_CUT = 0, FRAME_BAD = -1 };

/* Read the frame at `data`; returns its size, FRAME_CUT when it is not all there, or FRAME_BAD: masked, a fragment,
   reserved bits or no known opcode. No peer fragments what it sends, so a fragment is not expected. */
static inline long frame_read(const char *data, size_t have, struct frame *frame) {
    const unsigned char *at = (const unsigned char *)data;
    if (have < 2)
        return FRAME_CUT;
    size_t head = 2, size = at[1];
    frame->opcode = at[0] & 15;
    if ((at[0] & 0xf0) != 0x80 || at[1] & 0x80 ||
        (frame->opcode != TEXT && (frame->opcode < CLOSE || frame->opcode > PONG)))
        return FRAME_BAD;
    if (size == 126) {
        head = 4;
        if (have < head)
            return FRAME_CUT;
        size = (size_t)at[2] << 8 | at[3];
    } else if (size == 127) {
        head = 10;
        if (have < head)
            return FRAME_CUT;
        size = 0;
        for (int i = 2; i < 10; i++)
            size = size << 8 | at[i];
        if (size >> 32)
            return FRAME_BAD;
    }
    if (have < head + size)
        return FRAME_CUT;
    frame->payload = (struct span){data + head, size};
    return (long)(head + size);
}

enum { FRAME_ROOM = 4096 };

/* Write a masked frame; `size` at most FRAME_ROOM - 8. Returns the frame's size. */
size_t frame_write(char *out, unsigned opcode, const char *payload, size_t size);

/* The request that opens a connection, the same for all; `subprotocol` may be empty. */
struct span upgrade_request(const char *subprotocol);

/* Judge the answer to it. Returns the size of its head, 0 when it is not all there, or -1 when it is no acceptance
   (then `reason` says what it is, in a static buffer). */
long upgrade_check(struct span answer, const char *subprotocol, const char **reason);

#endif
