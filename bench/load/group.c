#include <stdlib.h>
#include <string.h>

#include "subscriber.h"

struct group *groups;

struct group *group_find(const char *name) {
    struct group *group = groups;
    while (group && strcmp(group->name, name))
        group = group->next;
    return group;
}

struct group *group_make(const char *name) {
    struct group *group = group_find(name);
    if (!group) {
        group = grow(NULL, sizeof *group);
        *group = (struct group){.name = strdup(name), .next = groups};
        groups = group;
    }
    return group;
}

void group_add(struct group *group, struct subscriber *subscriber) {
    if (group->count == group->room) {
        group->room = group->room ? group->room * 2 : 64;
        group->subscribers = grow(group->subscribers, group->room * sizeof subscriber);
    }
    group->subscribers[group->count++] = subscriber;
}

struct stream *group_stream(struct group *group, uint32_t number) {
    while (group->stream_count <= number) {
        char name[128];
        snprintf(name, sizeof name, "%s-%u", group->name, group->stream_count);
        if ((group->stream_count & (group->stream_count - 1)) == 0) /* room doubles */
            group->streams = grow(group->streams, (group->stream_count ? group->stream_count * 2 : 1) * sizeof(void *));
        group->streams[group->stream_count++] = stream_new(name);
    }
    return group->streams[number];
}

void group_compact(struct group *group) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        struct subscriber *subscriber = group->subscribers[i];
        if (subscriber->state != GONE) {
            group->subscribers[kept++] = subscriber;
            continue;
        }
        free(subscriber->others);
        free(subscriber->stall);
        free(subscriber);
    }
    group->count = kept;
}

void group_write_off(unsigned publisher_from, unsigned publisher_to) {
    for (struct group *group = groups; group; group = group->next)
        for (uint32_t i = 0; i < group->stream_count; i++)
            for (unsigned publisher = publisher_from; publisher <= publisher_to; publisher++)
                series_write_off(group->streams[i], publisher);
}
