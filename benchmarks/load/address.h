/* Where the filter listens: unix:/path, inet:PORT@HOST or inet6:PORT@HOST, on this machine. */
#ifndef ADDRESS_H
#define ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

struct address {
    struct sockaddr_storage socket;
    socklen_t length;
};

/* Load is for programs on this machine: any host that is not a loopback address is refused. */
bool parse_address(struct address *into, const char *text);

/* A socket of the right family, or -1. */
int open_socket(const struct address *address, bool blocking);

/* Switches Nagle's algorithm off, where there is one. */
void send_at_once(int fd);

#endif
