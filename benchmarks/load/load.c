/* A load generator for milters: plays the mail server on many connections from one thread, checks
   every byte that comes back, and measures. It is C and it writes its script down beforehand, so
   that the filter is what limits the figures. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "agreement.h"
#include "idle.h"
#include "options.h"
#include "report.h"
#include "session.h"

enum { EVENTS = 256, TICK = 50 /* milliseconds */ };

static uint64_t nanoseconds(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

/* Whatever goes wrong in here, the program ends. */
static void set_bounds(const struct options *options)
{
    struct rlimit files;

    alarm((unsigned)(options->seconds + 3 * options->timeout) + 10);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* Where the backlog is full for one it is full for the rest. */
static void try_again(struct session *sessions, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (sessions[i].progress == REFUSED) {
            open_session(&sessions[i]);
            if (sessions[i].progress == REFUSED)
                return;
        }
}

/* A session that still waits for its negotiation may stand in the backlog of a server that takes
   one after the other: that is slow, not wrong. */
static void check_timeout(struct session *sessions, unsigned count, uint64_t limit)
{
    struct run *run = sessions[0].run;
    uint64_t at = now();

    for (unsigned i = 0; i < count; i++)
        if (sessions[i].progress == TALKING && at - sessions[i].asked > limit
            && run->error[0] == 0)
            snprintf(run->error, sizeof run->error, "no answer to %c, message %u of a connection",
                     awaited(&sessions[i]), sessions[i].message + 1);
    if (run->setup.count == 0 && at - run->started > limit && run->error[0] == 0)
        snprintf(run->error, sizeof run->error, "no answer to O on any connection");
}

static void stop(struct run *run, struct session *sessions, unsigned count)
{
    run->stopping = true;
    for (unsigned i = 0; i < count; i++)
        stop_unless_talking(&sessions[i]);
}

static void serve_events(struct run *run)
{
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(run->epoll, events, EVENTS, run->refused > 0 ? 1 : TICK);

    for (int i = 0; i < ready && run->error[0] == 0; i++)
        session_ready(events[i].data.ptr);
}

static void drive(struct run *run, struct session *sessions, const struct options *options)
{
    uint64_t limit = nanoseconds(options->timeout);
    uint64_t end = run->started + nanoseconds(options->seconds);
    uint64_t checked = run->started, tried = run->started, at;

    for (unsigned i = 0; i < options->connections && run->error[0] == 0; i++)
        open_session(&sessions[i]);
    while (run->open > 0 && run->error[0] == 0) {
        serve_events(run);
        at = now();
        if (run->refused > 0 && at - tried > nanoseconds(0.001)) {
            tried = at;
            try_again(sessions, options->connections);
        }
        /* Slow to start is no reason to leave without a figure. */
        if (!run->stopping && at > end && run->setup.count > 0)
            stop(run, sessions, options->connections);
        if (at - checked > nanoseconds(TICK / 1000.0)) {
            checked = at;
            check_timeout(sessions, options->connections, limit);
        }
    }
    if (run->done_messages == 0 && run->error[0] == 0)
        snprintf(run->error, sizeof run->error, "not one message was done");
}

int main(int argc, char **argv)
{
    static struct run run;
    struct options options = read_options(argc, argv);
    struct session *sessions = calloc(options.connections, sizeof *sessions);

    set_bounds(&options);
    if (options.idle)
        return hold_idle(&options);
    run.address = options.address;
    run.workload = options.workload;
    run.messages = options.messages;
    run.sessions = options.sessions;
    run.separate = options.separate;
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    append_offer(&run.offer);
    if (sessions == NULL || run.epoll < 0) {
        perror("load");
        return 70;
    }
    for (unsigned i = 0; i < options.connections; i++)
        sessions[i].run = &run;
    run.started = now();
    drive(&run, sessions, &options);
    report(&options, &run);
    return run.error[0] != 0;
}
