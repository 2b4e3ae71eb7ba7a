#include "websocket.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "http.h"

/* The RFC's example (§1.3): one key and what must be answered to it. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

size_t frame_write(char *out, unsigned opcode, const char *payload, size_t size) {
    static const char MASK[4] = {0x37, (char)0xfa, 0x21, 0x3d};
    char *at = out;
    *at++ = (char)(0x80 | opcode);
    if (size < 126) {
        *at++ = (char)(0x80 | size);
    } else {
        *at++ = (char)(0x80 | 126);
        *at++ = (char)(size >> 8);
        *at++ = (char)size;
    }
    memcpy(at, MASK, 4);
    at += 4;
    for (size_t i = 0; i < size; i++)
        *at++ = (char)(payload[i] ^ MASK[i & 3]);
    return (size_t)(at - out);
}

struct span upgrade_request(const char *subprotocol) {
    static char request[2048];
    static size_t size;
    if (!size) {
        char host[INET_ADDRSTRLEN];
        inet_ntop(AF_INET, &settings.cable.sin_addr, host, sizeof host);
        unsigned port = ntohs(settings.cable.sin_port);
        /* The Origin is the one that a page of this host has: browsers send one, and some servers ask for it. */
        size = (size_t)snprintf(
            request, sizeof request,
            "GET %s HTTP/1.1\r\nHost: %s:%u\r\nOrigin: http://%s:%u\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
            settings.path, host, port, host, port, KEY, *subprotocol ? "Sec-WebSocket-Protocol: " : "", subprotocol,
            *subprotocol ? "\r\n" : "");
    }
    return (struct span){request, size};
}

long upgrade_check(struct span answer, const char *subprotocol, const char **reason) {
    static char text[256];
    struct head head;
    struct span field;
    long size = head_read(answer, &head);
    *reason = text;
    if (size == 0)
        return 0;
    if (size < 0) {
        snprintf(text, sizeof text, "the upgrade's answer is not HTTP");
    } else if (head.status != 101) {
        snprintf(text, sizeof text, "the upgrade was answered with %.*s", (int)head.line.size, head.line.at);
    } else if (!head_field(&head, "Sec-WebSocket-Accept", &field) || field.size != sizeof ACCEPT - 1 ||
               memcmp(field.at, ACCEPT, field.size)) {
        snprintf(text, sizeof text, "wrong Sec-WebSocket-Accept");
    } else if (head_field(&head, "Sec-WebSocket-Extensions", &field)) {
        snprintf(text, sizeof text, "an extension was accepted that was not offered");
    } else if (head_field(&head, "Sec-WebSocket-Protocol", &field) != (*subprotocol != 0) ||
               (*subprotocol && (field.size != strlen(subprotocol) || memcmp(field.at, subprotocol, field.size)))) {
        snprintf(text, sizeof text, "the subprotocol answered is not \"%s\"", subprotocol);
    } else {
        return size;
    }
    return -1;
}
