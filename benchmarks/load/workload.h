/* The kinds of mail that can be sent. */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>

struct workload {
    const char *name;
    size_t body;       /* bytes */
    unsigned messages; /* a connection, where the command line says nothing */
    bool tagged;       /* the filter adds X-Tagged and changes Subject at end of message */
};

const struct workload *find_workload(const char *name); /* NULL if there is none */

#endif
