/* The ceiling: a server that looks at nothing but the frame's code and answers with bytes that were
   ready before. No filter can be faster on one thread (epoll) or on a thread a connection (thread).

   usage: ceiling epoll|thread ADDRESS noop|tagger|small|noreply */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 5, READ_SIZE = 256 * 1024, ANSWER_ROOM = 32 * 1024 };

/* The steps of the negotiation for each kind of filter. */
enum {
    NOTHING_OFF = 0,
    ALL_BUT_RCPT_OFF = 0x001 | 0x002 | 0x004 | 0x010 | 0x020 | 0x040 | 0x100 | 0x200,
    NO_REPLIES = 0xff080,
};

static const struct kind {
    const char *name;
    uint32_t actions, steps;
    bool tags;
} kinds[] = {
    {"noop", 0, NOTHING_OFF, false},
    {"tagger", 0x11, NOTHING_OFF, true},
    {"small", 0, ALL_BUT_RCPT_OFF, false},
    {"noreply", 0, NO_REPLIES, false},
};

#define CONTINUE "\0\0\0\1c"
#define ACCEPT "\0\0\0\1a"
#define ADD_HEADER "\0\0\0\x0ehX-Tagged\0yes\0"
#define CHANGE_HEADER "\0\0\0\x1em\0\0\0\1Subject\0[tagged] minutes\0"

static const struct kind *kind;
static unsigned char negotiation[17] = {0, 0, 0, 13, 'O', 0, 0, 0, 6};

struct connection {
    int fd;
    size_t got;  /* bytes of the header */
    size_t left; /* bytes of the payload that are still to come */
    unsigned char header[HEADER];
};

struct answers {
    size_t length;
    unsigned char bytes[ANSWER_ROOM];
};

static bool put(struct answers *to, const void *bytes, size_t length)
{
    if (to->length + length > sizeof to->bytes)
        return false;
    memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
    return true;
}

static bool put_last(struct answers *to)
{
    if (kind->tags
        && (!put(to, ADD_HEADER, sizeof ADD_HEADER - 1)
            || !put(to, CHANGE_HEADER, sizeof CHANGE_HEADER - 1)))
        return false;
    return put(to, ACCEPT, sizeof ACCEPT - 1);
}

/* False ends the connection. */
static bool answer(struct answers *to, unsigned char command)
{
    switch (command) {
    case 'D': case 'A': return true;
    case 'Q': return false;
    case 'O': return put(to, negotiation, sizeof negotiation);
    case 'E': return put_last(to);
    default: return kind->steps == NO_REPLIES || put(to, CONTINUE, sizeof CONTINUE - 1);
    }
}

static uint32_t get_u32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Answers all frames that end within these bytes. */
static bool take(struct connection *from, const unsigned char *bytes, size_t length,
                 struct answers *to)
{
    while (length > 0) {
        size_t part = from->left > 0 ? from->left : HEADER - from->got;

        if (part > length)
            part = length;
        if (from->left > 0) {
            from->left -= part;
        } else {
            memcpy(from->header + from->got, bytes, part);
            from->got += part;
            if (from->got == HEADER && get_u32(from->header) == 0)
                return false;
            if (from->got == HEADER)
                from->left = get_u32(from->header) - 1;
        }
        bytes += part;
        length -= part;
        if (from->got == HEADER && from->left == 0) {
            from->got = 0;
            if (!answer(to, from->header[4]))
                return false;
        }
    }
    return true;
}

/* One receive, one send. False: the connection is over. */
static bool serve(struct connection *connection, unsigned char *buffer, int flags)
{
    struct answers answers = {.length = 0};
    ssize_t got = recv(connection->fd, buffer, READ_SIZE, flags);
    bool more = got > 0 && take(connection, buffer, (size_t)got, &answers);

    if (answers.length > 0
        && send(connection->fd, answers.bytes, answers.length, MSG_NOSIGNAL)
               != (ssize_t)answers.length)
        return false;
    return more;
}

static int accept_one(int listener)
{
    int one = 1, fd = accept(listener, NULL, NULL);

    if (fd >= 0) /* fails on a UNIX socket, which does not need it */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static struct connection *new_connection(int fd)
{
    struct connection *connection = calloc(1, sizeof *connection);

    if (connection == NULL)
        exit(70);
    connection->fd = fd;
    return connection;
}

static void watch(int epoll, struct connection *connection)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        exit(70);
}

static void run_epoll(int listener)
{
    static unsigned char buffer[READ_SIZE];
    struct epoll_event events[256];
    int epoll = epoll_create1(0);

    watch(epoll, new_connection(listener));
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);

        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;

            if (connection->fd == listener) {
                int fd = accept_one(listener);

                if (fd >= 0)
                    watch(epoll, new_connection(fd));
            } else if (!serve(connection, buffer, MSG_DONTWAIT)) {
                close(connection->fd);
                free(connection);
            }
        }
    }
}

static void *serve_to_end(void *argument)
{
    struct connection *connection = argument;
    unsigned char *buffer = malloc(READ_SIZE);

    while (buffer != NULL && serve(connection, buffer, 0))
        ;
    close(connection->fd);
    free(connection);
    free(buffer);
    return NULL;
}

static void run_threads(int listener)
{
    pthread_attr_t attributes;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept_one(listener);

        if (fd >= 0 && pthread_create(&thread, &attributes, serve_to_end, new_connection(fd)) != 0)
            exit(70);
    }
}

static int listen_unix(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    return bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 1024) == 0 ? fd : -1;
}

static int listen_inet(const char *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 1024) == 0 ? fd : -1;
}

static void put_u32(unsigned char *at, uint32_t value)
{
    value = htonl(value);
    memcpy(at, &value, sizeof value);
}

int main(int argc, char **argv)
{
    int listener;

    for (size_t i = 0; argc == 4 && i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].name, argv[3]) == 0)
            kind = &kinds[i];
    if (kind == NULL) {
        fputs("usage: ceiling epoll|thread ADDRESS noop|tagger|small|noreply\n", stderr);
        return 2;
    }
    put_u32(negotiation + 9, kind->actions);
    put_u32(negotiation + 13, kind->steps);
    listener = strncmp(argv[2], "unix:", 5) == 0 ? listen_unix(argv[2] + 5)
                                                 : listen_inet(argv[2] + 5);
    if (listener < 0) {
        perror(argv[2]);
        return 3;
    }
    (strcmp(argv[1], "epoll") == 0 ? run_epoll : run_threads)(listener);
    return 0;
}
