/* The whole conversation, written down before the clock starts: what to send and the exact bytes
   that must come back. */
#ifndef SCRIPT_H
#define SCRIPT_H

#include "agreement.h"
#include "bytes.h"
#include "workload.h"

/* Everything that can be sent without waiting, ending with a command that has an answer. */
struct turn {
    size_t start, end;    /* in `sent` */
    char command;         /* 0: nothing here has an answer */
    struct bytes expected;
};

struct script {
    struct agreement agreed;
    struct bytes sent;
    struct turn *turns; /* first those of the connection, then those of a message */
    size_t count;
    size_t message; /* the first turn of a message */
    struct script *next;
};

/* One script for each different agreement, made when it is first seen. */
const struct script *script_for(const struct workload *workload, const struct agreement *agreed);

#endif
