#include "idle.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "agreement.h"
#include "wire.h"

static void limit_waiting(int fd, double seconds)
{
    struct timeval limit = {.tv_sec = (time_t)seconds,
                            .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

static bool receive_all(int fd, unsigned char *into, size_t length)
{
    return recv(fd, into, length, MSG_WAITALL) == (ssize_t)length;
}

static bool negotiate(int fd, const struct bytes *offer)
{
    unsigned char answer[4096];
    struct agreement agreed;
    uint32_t length;

    if (send(fd, offer->data, offer->length, MSG_NOSIGNAL) != (ssize_t)offer->length
        || !receive_all(fd, answer, 4))
        return false;
    length = get_u32(answer);
    return length >= 1 && length <= sizeof answer && receive_all(fd, answer, length)
        && answer[0] == 'O' && read_agreement(&agreed, answer + 1, length - 1) == NULL;
}

static bool open_one(const struct options *options, const struct bytes *offer)
{
    int fd = open_socket(&options->address, true);

    if (fd < 0)
        return false;
    limit_waiting(fd, options->timeout);
    return connect(fd, (const struct sockaddr *)&options->address.socket,
                   options->address.length) == 0
        && negotiate(fd, offer);
}

static void wait_for_end_of_input(double seconds)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char rest[64];

    while (poll(&input, 1, (int)(seconds * 1000)) > 0 && read(STDIN_FILENO, rest, sizeof rest) > 0)
        ;
}

int hold_idle(const struct options *options)
{
    struct bytes offer = {0};
    unsigned held = 0;

    append_offer(&offer);
    while (held < options->connections && open_one(options, &offer))
        held++;
    printf("{\"held\": %u}\n", held);
    fflush(stdout);
    wait_for_end_of_input(options->seconds);
    return 0; /* the connections close with the program */
}
