#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static bool parse_path(struct address *into, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&into->socket;

    if (path[0] != '/' || strlen(path) >= sizeof un->sun_path)
        return false;
    un->sun_family = AF_UNIX;
    strcpy(un->sun_path, path);
    into->length = sizeof *un;
    return true;
}

static bool parse_inet(struct address *into, const char *host, in_port_t port)
{
    struct sockaddr_in *in = (struct sockaddr_in *)&into->socket;

    in->sin_family = AF_INET;
    in->sin_port = port;
    into->length = sizeof *in;
    return inet_pton(AF_INET, host, &in->sin_addr) == 1
        && ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static bool parse_inet6(struct address *into, const char *host, in_port_t port)
{
    struct sockaddr_in6 *in = (struct sockaddr_in6 *)&into->socket;

    in->sin6_family = AF_INET6;
    in->sin6_port = port;
    into->length = sizeof *in;
    return inet_pton(AF_INET6, host, &in->sin6_addr) == 1
        && IN6_IS_ADDR_LOOPBACK(&in->sin6_addr);
}

bool parse_address(struct address *into, const char *text)
{
    char *rest;
    long port;
    bool six = strncmp(text, "inet6:", 6) == 0;

    memset(into, 0, sizeof *into);
    if (strncmp(text, "unix:", 5) == 0)
        return parse_path(into, text + 5);
    if (!six && strncmp(text, "inet:", 5) != 0)
        return false;
    port = strtol(text + (six ? 6 : 5), &rest, 10);
    if (port < 1 || port > 65535 || *rest != '@')
        return false;
    return (six ? parse_inet6 : parse_inet)(into, rest + 1, htons((in_port_t)port));
}

int open_socket(const struct address *address, bool blocking)
{
    return socket(address->socket.ss_family,
                  SOCK_STREAM | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
}

void send_at_once(int fd)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails on a UNIX socket */
}
