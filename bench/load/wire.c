#include "wire.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "websocket.h"

const char *const WIRE_SUBPROTOCOL[] = {"", "actioncable-v1-json", ""};

/* Action Cable's name for a subscription: the template with the stream's name in it. */
static size_t write_identifier(char *out, size_t room, const struct stream *stream) {
    const char *hole = strstr(settings.identifier, "%s");
    return (size_t)snprintf(out, room, "%.*s%s%s", (int)(hole - settings.identifier), settings.identifier, stream->name,
                            hole + 2);
}

static void subscribe(struct subscriber *subscriber) {
    static const char AC_HEAD[] = "{\"command\":\"subscribe\",\"identifier\":\"";
    char text[FRAME_ROOM - 8], identifier[FRAME_ROOM / 4], *end = text;
    if (settings.wire == ACTION_CABLE) {
        size_t size = write_identifier(identifier, sizeof identifier, subscriber->stream);
        memcpy(text, AC_HEAD, sizeof AC_HEAD - 1);
        end = json_escape(text + sizeof AC_HEAD - 1, (struct span){identifier, size});
        memcpy(end, "\"}", 2);
        end += 2;
    } else {
        end += sprintf(text, settings.wire == SIMPLE ? "{\"type\":\"subscribe\",\"stream\":\"%s\"}"
                                                     : "{\"id\":2,\"subscribe\":{\"channel\":\"%s\"}}",
                       subscriber->stream->name);
    }
    subscriber_send(subscriber, TEXT, text, (size_t)(end - text));
}

void wire_upgraded(struct subscriber *subscriber) {
    static const char CONNECT[] = "{\"id\":1,\"connect\":{}}";
    if (settings.wire == SIMPLE)
        subscribe(subscriber);
    else if (settings.wire == CENTRIFUGO)
        subscriber_send(subscriber, TEXT, CONNECT, sizeof CONNECT - 1);
    /* Action Cable's server speaks first: welcome. */
}

/* A message in a form that was not met yet on this stream: take it apart, and remember what stood around its data. */
static void message(struct subscriber *subscriber, struct span text, struct span data, uint64_t at) {
    struct stream *stream = subscriber->stream;
    stream->before = (uint32_t)(data.at - text.at);
    stream->after = (uint32_t)(text.size - stream->before - data.size);
    stream->envelope = grow(stream->envelope, stream->before + stream->after);
    memcpy(stream->envelope, text.at, stream->before);
    memcpy(stream->envelope + stream->before, data.at + data.size, stream->after);
    subscriber_message(subscriber, data, at);
}

static void simple_text(struct subscriber *subscriber, struct span text, uint64_t at) {
    struct span type, stream, value;
    if (!json_member(text, "type", &type))
        subscriber_fail(subscriber, "a frame that is no JSON object with a type", text);
    if (json_is(type, "ping")) {
        received_pings++; /* the server's WebSocket ping behind it is what keeps us connected */
        return;
    }
    if (!json_member(text, "stream", &stream) || !json_is(stream, subscriber->stream->name))
        subscriber_fail(subscriber, "a frame that is not for its stream", text);
    if (json_is(type, "message") && json_member(text, "data", &value))
        message(subscriber, text, value, at);
    else if (json_is(type, "subscribed") && subscriber->state == SUBSCRIBING)
        subscriber_confirmed(subscriber);
    else if (json_is(type, "gap") && json_member(text, "missed", &value))
        subscriber_missed(subscriber, strtoull(value.at, NULL, 10));
    else
        subscriber_fail(subscriber, "an unexpected frame", text);
}

static void action_cable_text(struct subscriber *subscriber, struct span text, uint64_t at) {
    char identifier[FRAME_ROOM / 4];
    struct span type, value;
    bool typed = json_member(text, "type", &type);
    if (typed && json_is(type, "ping")) {
        received_pings++;
        return;
    }
    if (typed && json_is(type, "welcome") && subscriber->state == SUBSCRIBING) {
        subscribe(subscriber);
        return;
    }
    if (!json_member(text, "identifier", &value))
        subscriber_fail(subscriber, "an unexpected frame", text);
    write_identifier(identifier, sizeof identifier, subscriber->stream);
    if (!json_is(value, identifier))
        subscriber_fail(subscriber, "a frame that is not for its identifier", text);
    if (!typed && json_member(text, "message", &value))
        message(subscriber, text, value, at);
    else if (typed && json_is(type, "confirm_subscription") && subscriber->state == SUBSCRIBING)
        subscriber_confirmed(subscriber);
    else
        subscriber_fail(subscriber, "an unexpected frame", text);
}

static void centrifugo_reply(struct subscriber *subscriber, struct span text, uint64_t at) {
    struct span push, channel, publication, value;
    if (text.size == 2 && !memcmp(text.at, "{}", 2)) {
        received_pings++;
        subscriber_send(subscriber, TEXT, "{}", 2); /* its ping, and its pong */
    } else if (json_member(text, "push", &push)) {
        if (!json_member(push, "channel", &channel) || !json_is(channel, subscriber->stream->name))
            subscriber_fail(subscriber, "a push that is not for its channel", text);
        if (!json_member(push, "pub", &publication) || !json_member(publication, "data", &value))
            subscriber_fail(subscriber, "an unexpected push", text);
        message(subscriber, text, value, at);
    } else if (json_member(text, "error", &value)) {
        subscriber_fail(subscriber, "an error", text);
    } else if (subscriber->state == SUBSCRIBING && json_member(text, "connect", &value)) {
        subscribe(subscriber);
    } else if (subscriber->state == SUBSCRIBING && json_member(text, "subscribe", &value)) {
        subscriber_confirmed(subscriber);
    } else {
        subscriber_fail(subscriber, "an unexpected frame", text);
    }
}

/* The common case first: this stream's message, in the form it had the last time. All of the frame is compared: here
   what stands around the data, and the data in `subscriber_message`. */
static inline bool known_message(struct subscriber *subscriber, struct span text, uint64_t at) {
    const struct stream *stream = subscriber->stream;
    size_t before = stream->before, after = stream->after;
    if (before == 0 || text.size < before + after || memcmp(text.at, stream->envelope, before) ||
        memcmp(text.at + text.size - after, stream->envelope + before, after))
        return false;
    subscriber_message(subscriber, (struct span){text.at + before, text.size - before - after}, at);
    return true;
}

void wire_text(struct subscriber *subscriber, struct span text, uint64_t at) {
    switch (settings.wire) {
    case SIMPLE:
        if (!known_message(subscriber, text, at))
            simple_text(subscriber, text, at);
        break;
    case ACTION_CABLE:
        if (!known_message(subscriber, text, at))
            action_cable_text(subscriber, text, at);
        break;
    case CENTRIFUGO: /* one reply per line; the last may have no end of line */
        for (;;) {
            const char *end = memchr(text.at, '\n', text.size);
            struct span reply = {text.at, end ? (size_t)(end - text.at) : text.size};
            if (reply.size && !known_message(subscriber, reply, at))
                centrifugo_reply(subscriber, reply, at);
            if (!end)
                return;
            text = (struct span){end + 1, text.size - reply.size - 1};
        }
    }
}
