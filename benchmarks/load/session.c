#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

uint64_t now(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

char awaited(const struct session *session)
{
    return session->progress == TALKING ? session->script->turns[session->turn].command : 'O';
}

/* The first thing that goes wrong ends the run; what follows from it is not told. */
static void fail(struct session *session, const char *what)
{
    char *error = session->run->error;

    if (error[0] == 0)
        snprintf(error, ERROR_ROOM, "answer to %c, message %u of a connection: %s",
                 awaited(session), session->message + 1, what);
}

static void fail_errno(struct session *session, const char *what)
{
    char text[ERROR_ROOM / 2];

    snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
    fail(session, text);
}

static void watch(struct session *session, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = session};

    if (epoll_ctl(session->run->epoll, operation, session->fd, &event) < 0)
        fail_errno(session, "epoll_ctl");
}

static void finish(struct session *session)
{
    if (session->fd >= 0)
        close(session->fd);
    session->fd = -1;
    session->progress = OVER;
    session->run->open--;
}

/* Only what was asked for may have come; an MTA would take more for the next answer. */
static void quit(struct session *session)
{
    static const unsigned char quit[] = {0, 0, 0, 1, 'Q'};
    unsigned char surplus;

    if (recv(session->fd, &surplus, 1, MSG_DONTWAIT) > 0) {
        fail(session, "bytes after the answer to the last command");
        return;
    }
    if (send(session->fd, quit, sizeof quit, MSG_NOSIGNAL) < 0 && errno != EPIPE
        && errno != ECONNRESET)
        fail_errno(session, "send");
    session->run->done_sessions++;
    finish(session);
    if (!session->run->stopping)
        open_session(session);
}

void stop_unless_talking(struct session *session)
{
    if (session->progress == REFUSED)
        session->run->refused--;
    if (session->progress == REFUSED || session->progress == CONNECTING
        || session->progress == NEGOTIATING)
        finish(session);
}

/* How much goes into the next write. */
static size_t piece(const struct session *session, const unsigned char *from, size_t left)
{
    size_t frame;

    if (!session->run->separate)
        return left;
    frame = 4 + get_u32(from);
    return frame < left ? frame : left;
}

/* Sends all of it, in one write or one for each frame. False: the socket has no room now. With
   separate writes a frame that was cut short is finished together with what follows it. */
static bool send_all(struct session *session, const unsigned char *from, size_t length)
{
    ssize_t sent;

    while (session->written < length) {
        size_t left = length - session->written;
        size_t part = session->wants_room ? left : piece(session, from + session->written, left);

        sent = send(session->fd, from + session->written, part, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            fail_errno(session, "send");
            return false;
        }
        if (sent > 0) {
            session->written += (size_t)sent;
            session->run->sent += (uint64_t)sent;
        }
        if (sent < 0 || (size_t)sent < part) {
            if (!session->wants_room)
                watch(session, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            session->wants_room = true;
            return false;
        }
    }
    if (session->wants_room) {
        session->wants_room = false;
        watch(session, EPOLL_CTL_MOD, EPOLLIN);
    }
    return true;
}

static void take_turn(struct session *session, uint64_t at)
{
    const struct script *script = session->script;
    const struct turn *turn;

    for (;;) {
        turn = &script->turns[session->turn];
        session->written = session->got = 0;
        session->asked = at;
        if (session->turn == script->message)
            session->message_began = at;
        if (!send_all(session, script->sent.data + turn->start, turn->end - turn->start)
            || turn->command != 0)
            return;
        session->turn++; /* nothing to wait for */
    }
}

static void offer(struct session *session)
{
    session->progress = NEGOTIATING;
    session->got = session->written = 0;
    send_all(session, session->run->offer.data, session->run->offer.length);
}

void open_session(struct session *session)
{
    struct run *run = session->run;
    bool again = session->progress == REFUSED;

    if (!again) {
        if (run->sessions == 0)
            return;
        run->sessions--;
        run->open++;
        session->opened = now();
        session->fd = -1;
        session->message = 0;
        session->progress = IDLE;
    }
    if (session->fd < 0)
        session->fd = open_socket(&run->address, false);
    if (!run->separate)
        send_at_once(session->fd);
    session->wants_room = false;
    if (session->fd >= 0
        && connect(session->fd, (struct sockaddr *)&run->address.socket, run->address.length) == 0) {
        run->refused -= again;
        watch(session, EPOLL_CTL_ADD, EPOLLIN);
        offer(session);
    } else if (session->fd >= 0 && errno == EINPROGRESS) {
        run->refused -= again;
        session->progress = CONNECTING;
        watch(session, EPOLL_CTL_ADD, EPOLLOUT);
    } else if (session->fd >= 0 && errno == EAGAIN) { /* the backlog of a UNIX socket is full */
        run->refused += !again;
        session->progress = REFUSED;
    } else {
        fail_errno(session, "cannot connect");
    }
}

static void connected(struct session *session)
{
    int error = 0;
    socklen_t length = sizeof error;

    getsockopt(session->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
        errno = error;
        fail_errno(session, "cannot connect");
        return;
    }
    watch(session, EPOLL_CTL_MOD, EPOLLIN);
    offer(session);
}

static void negotiated(struct session *session)
{
    struct run *run = session->run;
    struct agreement agreed;
    size_t whole = session->got < 4 ? SIZE_MAX : 4 + (size_t)get_u32(session->answer);
    const char *wrong;

    if (session->got >= FRAME_HEADER && session->answer[4] != 'O') {
        fail(session, "something else than an answer to the negotiation");
        return;
    }
    if (session->got < FRAME_HEADER || (session->got < whole && session->got < ANSWER_ROOM))
        return;
    if (session->got != whole) {
        fail(session, whole > ANSWER_ROOM ? "longer than 4096 bytes" : "more than one frame");
        return;
    }
    wrong = read_agreement(&agreed, session->answer + FRAME_HEADER, whole - FRAME_HEADER);
    if (wrong != NULL) {
        fail(session, wrong);
        return;
    }
    record(&run->setup, now() - session->opened);
    if (run->setup.count == 1)
        run->agreed = agreed;
    if (memcmp(&agreed, &run->agreed, sizeof agreed) != 0) {
        fail(session, "something else was negotiated than on the first connection");
        return;
    }
    session->script = script_for(run->workload, &agreed);
    session->turn = 0;
    session->progress = TALKING;
    take_turn(session, now());
}

static void note_command(struct run *run, char command)
{
    char text[3] = {' ', command, '='};
    bool first = run->letters.length == 0;

    append(&run->letters, first ? text + 1 : text, first ? 2 : 3);
}

/* "C=c H=c M=c ... E=hma": the commands that were sent, and the letters of the answer from the
   bytes that came, not from those expected. A command without an answer is "L=". */
static void note_letters(struct session *session, const struct turn *turn)
{
    struct run *run = session->run;
    const unsigned char *sent = session->script->sent.data;

    if (run->letters_done)
        return;
    if (run->noted == NULL)
        run->noted = session;
    if (run->noted != session)
        return;
    for (; run->noted_to < turn->end; run->noted_to += 4 + get_u32(sent + run->noted_to))
        if (sent[run->noted_to + 4] != 'D') /* macros */
            note_command(run, (char)sent[run->noted_to + 4]);
    for (size_t at = 0; at + FRAME_HEADER <= session->got; at += 4 + get_u32(session->answer + at))
        append(&run->letters, session->answer + at + 4, 1);
}

static void message_done(struct session *session, uint64_t at)
{
    struct run *run = session->run;

    record(&run->message, at - session->message_began);
    run->done_messages++;
    run->last_message = at;
    run->letters_done |= session == run->noted;
    session->message++;
    session->turn = session->script->message;
    if (session->message == run->messages || run->stopping)
        quit(session);
    else
        take_turn(session, at);
}

/* "hma (61 bytes)": the letters of the frames in it. */
static void describe_frames(FILE *to, const unsigned char *from, size_t length)
{
    unsigned letters = 0;

    for (size_t at = 0; at + FRAME_HEADER <= length && letters < 16; letters++) {
        fputc(from[at + 4] > ' ' && from[at + 4] < 127 ? from[at + 4] : '?', to);
        at += 4 + (size_t)get_u32(from + at);
    }
    fprintf(to, "%s(%zu bytes)", letters > 0 ? " " : "", length);
}

static void describe_bytes(FILE *to, const unsigned char *from, size_t at, size_t length)
{
    if (at == length)
        fputs(" the end", to);
    for (size_t i = at; i < length && i < at + 8; i++)
        fprintf(to, " %02x", from[i]);
}

static void describe_mismatch(struct session *session, const struct turn *turn)
{
    const struct bytes *expected = &turn->expected;
    char text[ERROR_ROOM / 2] = "";
    FILE *to = fmemopen(text, sizeof text, "w");
    size_t same = 0;

    if (to == NULL) {
        fail_errno(session, "fmemopen");
        return;
    }
    while (same < expected->length && same < session->got
           && expected->data[same] == session->answer[same])
        same++;
    fputs("expected ", to);
    describe_frames(to, expected->data, expected->length);
    fputs(", got ", to);
    describe_frames(to, session->answer, session->got);
    fprintf(to, "; from byte %zu on expected", same + 1);
    describe_bytes(to, expected->data, same, expected->length);
    fputs(", got", to);
    describe_bytes(to, session->answer, same, session->got);
    fclose(to);
    fail(session, text);
}

static void answered(struct session *session)
{
    const struct turn *turn = &session->script->turns[session->turn];
    size_t wanted = turn->expected.length;
    uint64_t at;

    if (session->got > wanted
        || memcmp(session->answer, turn->expected.data, session->got) != 0) {
        describe_mismatch(session, turn);
        return;
    }
    if (session->got < wanted)
        return;
    if (session->written < turn->end - turn->start) {
        fail(session, "came before the command was sent");
        return;
    }
    at = now();
    record(&session->run->command, at - session->asked);
    session->run->answers++;
    note_letters(session, turn);
    if (++session->turn == session->script->count)
        message_done(session, at);
    else
        take_turn(session, at);
}

static void receive(struct session *session)
{
    ssize_t got = recv(session->fd, session->answer + session->got, ANSWER_ROOM - session->got, 0);

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        if (got < 0)
            fail_errno(session, "recv");
        else
            fail(session, "connection closed by the filter");
        return;
    }
    session->got += (size_t)got;
    session->run->received += (uint64_t)got;
    if (session->progress == NEGOTIATING)
        negotiated(session);
    else
        answered(session);
}

static void write_on(struct session *session)
{
    const struct script *script = session->script;
    const struct turn *turn;

    if (session->progress == NEGOTIATING) {
        send_all(session, session->run->offer.data, session->run->offer.length);
        return;
    }
    turn = &script->turns[session->turn];
    if (send_all(session, script->sent.data + turn->start, turn->end - turn->start)
        && turn->command == 0) {
        session->turn++;
        take_turn(session, now());
    }
}

void session_ready(struct session *session)
{
    if (session->progress == CONNECTING)
        connected(session);
    else if (session->wants_room)
        write_on(session);
    if (session->progress == NEGOTIATING || session->progress == TALKING)
        receive(session);
}
