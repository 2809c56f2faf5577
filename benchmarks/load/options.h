/* The command line, with a bound on everything that could run on. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>

#include "address.h"
#include "workload.h"

struct options {
    const char *address_text;
    struct address address;
    const struct workload *workload;
    unsigned connections, messages, sessions; /* messages a connection; sessions in all */
    double seconds, timeout;
    bool idle, separate;
};

/* Ends the program with status 2 and a word of help where the line is wrong. */
struct options read_options(int argc, char **argv);

#endif
