/* The load client: opens WebSocket connections to a server, posts broadcasts, checks every byte that arrives and takes
   the time. One thread, one epoll. A verb is a function that turns the loop until its work is done; between commands
   the loop goes on turning, so that pings are answered and a probe keeps posting.

   Of what goes wrong, a word that is not understood is answered and forgotten; everything else ends the program, since
   what the server still has under way is not known any more. */
#include <arpa/inet.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "verb.h"

static _Noreturn void verb_quit(struct words *words) {
    (void)words;
    puts("{\"ok\":true}");
    exit(0);
}

/* Commands */

static const struct {
    const char *name;
    void (*run)(struct words *words);
} VERBS[] = {
    {"connect", verb_connect}, {"fanout", verb_fanout},         {"burst", verb_burst}, {"posts", verb_posts},
    {"random", verb_random},   {"probe", verb_probe},           {"read", verb_read},   {"probe_stop", verb_probe_stop},
    {"stall", verb_stall},     {"stats", verb_stats},           {"close", verb_close}, {"quit", verb_quit},
};

static struct source standard_input;
static bool input_ready;

static void input_is_ready(struct source *source, uint32_t events) {
    (void)source;
    (void)events;
    input_ready = true; /* and heard of once only: commands are read when the one before is done */
}

static void run_command(char *line) {
    struct words words;
    const char *verb = words_read(&words, line);
    for (size_t i = 0; i < sizeof VERBS / sizeof *VERBS; i++)
        if (!strcmp(VERBS[i].name, verb)) {
            doing = VERBS[i].name;
            VERBS[i].run(&words);
            doing = "";
            return;
        }
    doing = "load";
    words_refuse(&words, "there is no verb \"%.60s\"", verb);
    words_right(&words);
    doing = "";
}

static void serve_commands(void) {
    static char line[4096];
    size_t size = 0;
    standard_input = (struct source){input_is_ready, 0};
    loop_add(&standard_input, EPOLLIN | EPOLLONESHOT);
    for (;;) {
        step(UINT64_MAX);
        if (!input_ready)
            continue;
        input_ready = false;
        ssize_t got = read(0, line + size, sizeof line - 1 - size);
        if (got <= 0)
            exit(0); /* whoever started us is gone */
        size += (size_t)got;
        for (char *end; (end = memchr(line, '\n', size));) {
            *end = 0;
            run_command(line);
            size -= (size_t)(end + 1 - line);
            memmove(line, end + 1, size);
        }
        if (size == sizeof line - 1)
            fail("a command of more than %zu bytes", size);
        loop_change(&standard_input, EPOLLIN | EPOLLONESHOT);
    }
}

/* The command line */

static _Noreturn void usage(const char *problem, const char *what) {
    fprintf(stderr,
            "load: %s%s\n"
            "usage: load ADDRESS:PORT [--wire simple|action_cable|centrifugo] [--path /cable] [--identifier TEMPLATE]\n"
            "            [--publish simple|anycable|centrifugo] [--publish-path /_broadcast] [--publish-port N]\n"
            "            [--publish-header \"Name: value\"]…\n",
            problem, what);
    exit(2);
}

static int choice(const char *text, const char *const *names) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], text))
            return i;
    usage("not known: ", text);
}

static in_port_t port(const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || value < 1 || value > 65535)
        usage("not a port: ", text);
    return htons((uint16_t)value);
}

static void read_arguments(int count, char **arguments) {
    static const char *const WIRES[] = {"simple", "action_cable", "centrifugo", NULL};
    static const char *const PUBLISHES[] = {"simple", "anycable", "centrifugo", NULL};
    static const struct option OPTIONS[] = {
        {"wire", 1, NULL, 'w'},         {"path", 1, NULL, 'p'},         {"identifier", 1, NULL, 'i'},
        {"publish", 1, NULL, 'f'},      {"publish-path", 1, NULL, 'b'}, {"publish-port", 1, NULL, 'o'},
        {"publish-header", 1, NULL, 'h'}, {0},
    };
    in_port_t publish_port = 0;
    size_t headers = 0;
    settings.path = "/cable";
    settings.publish_path = "/_broadcast";
    settings.identifier = "";
    for (int option; (option = getopt_long(count, arguments, "", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 'w': settings.wire = (enum wire)choice(optarg, WIRES); break;
        case 'p': settings.path = optarg; break;
        case 'i': settings.identifier = optarg; break;
        case 'f': settings.publish = (enum publish)choice(optarg, PUBLISHES); break;
        case 'b': settings.publish_path = optarg; break;
        case 'o': publish_port = port(optarg); break;
        case 'h':
            headers += (size_t)snprintf(settings.publish_headers + headers, sizeof settings.publish_headers - headers,
                                        "%s\r\n", optarg);
            if (headers >= sizeof settings.publish_headers)
                usage("too long: ", "--publish-header");
            break;
        default: usage("not understood", "");
        }
    }
    char *address = optind == count - 1 ? arguments[optind] : "", *colon = strrchr(address, ':');
    if (!colon)
        usage("ADDRESS:PORT is missing", "");
    settings.cable = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port(colon + 1)};
    *colon = 0;
    if (inet_pton(AF_INET, address, &settings.cable.sin_addr) != 1)
        usage("not an IPv4 address: ", address);
    settings.publisher = settings.cable;
    if (publish_port)
        settings.publisher.sin_port = publish_port;
    if (settings.wire == ACTION_CABLE && (!strstr(settings.identifier, "%s") || strlen(settings.identifier) > 400))
        usage("--identifier must have %s for the stream's name, and at most 400 bytes", "");
    if (strlen(settings.path) > 1000)
        usage("too long: ", "--path");
}

int main(int count, char **arguments) {
    struct rlimit limit;
    read_arguments(count, arguments);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    loop_start();
    serve_commands();
}
