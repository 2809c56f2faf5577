/* One connection: how far it is in its script, and whether the filter keeps to it. */
#ifndef SESSION_H
#define SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "bytes.h"
#include "histogram.h"
#include "script.h"
#include "workload.h"

enum { ANSWER_ROOM = 4096, ERROR_ROOM = 512 };

/* What all sessions have in common. */
struct run {
    struct address address;
    const struct workload *workload;
    unsigned messages;      /* a connection */
    uint64_t sessions;      /* that may still be opened */
    bool separate;          /* a write for each frame, left to Nagle's algorithm */
    int epoll;
    uint64_t started, last_message; /* nanoseconds */
    bool stopping;          /* no new message, no new session */
    unsigned open;          /* sessions that are not over */
    unsigned refused;       /* sessions whose connection must be tried again */
    struct bytes offer;

    uint64_t done_sessions, done_messages, answers, sent, received;
    struct histogram setup, command, message;
    struct agreement agreed;       /* of the first session */
    const struct session *noted;   /* the first session that got an answer */
    size_t noted_to;               /* how far in what it sent */
    struct bytes letters;          /* to the end of its first message: commands and replies */
    bool letters_done;
    char error[ERROR_ROOM];
};

enum progress { IDLE, REFUSED, CONNECTING, NEGOTIATING, TALKING, OVER };

struct session {
    struct run *run;
    enum progress progress;
    int fd;
    bool wants_room; /* the last write was cut short */
    const struct script *script;
    size_t turn, written;
    unsigned message;        /* number of the current one, from 0 */
    uint64_t opened, asked, message_began; /* nanoseconds */
    size_t got;
    unsigned char answer[ANSWER_ROOM];
};

uint64_t now(void);

void open_session(struct session *session);  /* also a second time, after the first is over */
void session_ready(struct session *session); /* its socket can be read or written */
void stop_unless_talking(struct session *session);
char awaited(const struct session *session); /* the command whose answer is missing */

#endif
