#include "script.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

enum { RECIPIENTS = 2 };

static const char *const headers[][2] = {
    {"Received", "from mail.example.com (mail.example.com [192.0.2.1])\n"
                 "\tby mx.example.org (Postfix) with ESMTPS id 4X1zQ81q7Kz2xY;\n"
                 "\tMon, 5 Jan 2026 10:00:00 +0000 (UTC)"},
    {"Received", "from desk.example.com (desk.example.com [192.0.2.77])\n"
                 "\tby mail.example.com (Postfix) with ESMTPSA id 4X1zQ70Jb2z9sR;\n"
                 "\tMon, 5 Jan 2026 09:59:59 +0000 (UTC)"},
    {"DKIM-Signature", "v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=2026;\n"
                       "\th=from:to:subject:date:message-id; bh=47DEQpj8HBSa+/TImW+5JCeuQeR;\n"
                       "\tb=dzdVyOfAKCdLXdJOc9G2q8LoXSlEniSbav+yuU4zGeeruD00lszZVoG4ZHRNiYzR"},
    {"Date", "Mon, 5 Jan 2026 09:59:58 +0000"},
    {"From", "Alice Example <alice@example.com>"},
    {"To", "Bob Example <bob@example.org>"},
    {"Cc", "Carol Example <carol@example.org>"},
    {"Subject", "Minutes of the meeting"},
    {"Message-ID", "<20260105095958.1234@desk.example.com>"},
    {"In-Reply-To", "<20260104174500.4321@mail.example.org>"},
    {"References", "<20260104120000.1111@mail.example.org>\n"
                   " <20260104174500.4321@mail.example.org>"},
    {"MIME-Version", "1.0"},
    {"Content-Type", "text/plain; charset=utf-8; format=flowed"},
    {"Content-Transfer-Encoding", "8bit"},
    {"Content-Language", "en"},
    {"User-Agent", "Example Mail 12.1 (X11; Linux x86_64)"},
    {"List-Id", "Minutes <minutes.example.com>"},
    {"List-Unsubscribe", "<mailto:minutes-leave@example.com>"},
    {"X-Priority", "3 (normal)"},
    {"X-Mailer-Hash", "0f343b0931126a20f133d67c2b018a3b"},
};

/* Writes a script turn by turn. */
struct writer {
    struct script *script;
    size_t start; /* of the turn that is being written */
    bool tagged;
};

static void *must_have(void *memory)
{
    if (memory == NULL) {
        fputs("load: out of memory\n", stderr);
        exit(70);
    }
    return memory;
}

static void append_strings(struct bytes *to, const char *const *strings)
{
    for (; *strings != NULL; strings++)
        append_text(to, *strings);
}

#define STRINGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* What filters must send back, byte for byte. */
static void expect_answer(struct bytes *to, const struct writer *writer, char command)
{
    const char *space = writer->script->agreed.steps & STEP_HDR_LEADSPC ? " " : "";
    char value[32];
    size_t frame;

    if (command == 'E' && writer->tagged) {
        frame = begin_frame(to, 'h');
        snprintf(value, sizeof value, "%syes", space);
        append_strings(to, STRINGS("X-Tagged", value));
        end_frame(to, frame);
        frame = begin_frame(to, 'm');
        append_u32(to, 1);
        snprintf(value, sizeof value, "%s[tagged] minutes", space);
        append_strings(to, STRINGS("Subject", value));
        end_frame(to, frame);
    }
    end_frame(to, begin_frame(to, command == 'E' ? 'a' : 'c'));
}

static void end_turn(struct writer *writer, char command)
{
    struct script *script = writer->script;
    struct turn *turn;

    script->turns = must_have(realloc(script->turns, (script->count + 1) * sizeof *turn));
    turn = &script->turns[script->count++];
    memset(turn, 0, sizeof *turn);
    turn->start = writer->start;
    turn->end = writer->start = script->sent.length;
    turn->command = command;
    if (command != 0)
        expect_answer(&turn->expected, writer, command);
}

static void say(struct writer *writer, char command, const void *payload, size_t length)
{
    struct script *script = writer->script;
    size_t frame;

    if (!sends(&script->agreed, command))
        return;
    frame = begin_frame(&script->sent, command);
    append(&script->sent, payload, length);
    end_frame(&script->sent, frame);
    if (answers(&script->agreed, command))
        end_turn(writer, command);
}

static void say_strings(struct writer *writer, char command, const char *const *strings)
{
    struct bytes payload = {0};

    append_strings(&payload, strings);
    say(writer, command, payload.data, payload.length);
    free(payload.data);
}

/* As both MTAs do it, also for a command that the filter has switched off. */
static void say_macros(struct writer *writer, char stage, const char *const *strings)
{
    struct bytes *sent = &writer->script->sent;
    size_t frame = begin_frame(sent, 'D');

    append(sent, &stage, 1);
    append_strings(sent, strings);
    end_frame(sent, frame);
}

static void say_connection(struct writer *writer)
{
    static const char peer[] = "mail.example.com\0" "4" "\x9c\x41" "192.0.2.1"; /* port 40001 */

    say_macros(writer, 'C', STRINGS("j", "mx.example.org", "{daemon_name}", "mx.example.org",
                                    "{daemon_addr}", "192.0.2.25", "v", "Postfix 3.7.11",
                                    "_", "mail.example.com [192.0.2.1]"));
    say(writer, 'C', peer, sizeof peer);
    say_macros(writer, 'H', STRINGS("{tls_version}", "TLSv1.3", "{cipher}",
                                    "TLS_AES_256_GCM_SHA384", "{cipher_bits}", "256"));
    say_strings(writer, 'H', STRINGS("mail.example.com"));
    if (writer->start < writer->script->sent.length)
        end_turn(writer, 0);
}

static void say_envelope(struct writer *writer)
{
    static const char *const recipients[RECIPIENTS][2] = {
        {"<bob@example.org>", "bob@example.org"},
        {"<carol@example.org>", "carol@example.org"},
    };

    say_macros(writer, 'M', STRINGS("i", "4X1zQ91q7Kz2xZ", "{mail_addr}", "alice@example.com",
                                    "{mail_host}", "example.com", "{mail_mailer}", "smtp"));
    say_strings(writer, 'M', STRINGS("<alice@example.com>", "SIZE=9800", "BODY=8BITMIME"));
    for (size_t i = 0; i < RECIPIENTS; i++) {
        say_macros(writer, 'R', STRINGS("i", "4X1zQ91q7Kz2xZ", "{rcpt_addr}", recipients[i][1],
                                        "{rcpt_host}", "example.org", "{rcpt_mailer}", "local"));
        say_strings(writer, 'R', STRINGS(recipients[i][0]));
    }
    say(writer, 'T', "", 0);
}

static void say_headers(struct writer *writer)
{
    const char *space = writer->script->agreed.steps & STEP_HDR_LEADSPC ? " " : "";
    char value[512];

    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        snprintf(value, sizeof value, "%s%s", space, headers[i][1]);
        say_strings(writer, 'L', STRINGS(headers[i][0], value));
    }
    say(writer, 'N', "", 0);
}

static void say_body(struct writer *writer, size_t length)
{
    static const char line[] = "The quick brown fox jumps over the lazy dog.\r\n";
    unsigned char chunk[BODY_CHUNK];
    size_t part;

    for (size_t i = 0; i < sizeof chunk; i++)
        chunk[i] = (unsigned char)line[i % (sizeof line - 1)];
    for (; length > 0; length -= part) {
        part = length < sizeof chunk ? length : sizeof chunk;
        say(writer, 'B', chunk, part);
    }
}

static struct script *write_script(const struct workload *workload,
                                   const struct agreement *agreed)
{
    struct script *script = must_have(calloc(1, sizeof *script));
    struct writer writer = {.script = script, .tagged = workload->tagged};

    script->agreed = *agreed;
    say_connection(&writer);
    script->message = script->count;
    say_envelope(&writer);
    say_headers(&writer);
    say_body(&writer, workload->body);
    say_macros(&writer, 'E', STRINGS("i", "4X1zQ91q7Kz2xZ", "{msg_id}",
                                     "<20260105095958.1234@desk.example.com>"));
    say(&writer, 'E', "", 0);
    return script;
}

const struct script *script_for(const struct workload *workload, const struct agreement *agreed)
{
    static struct script *known;
    struct script *script;

    for (script = known; script != NULL; script = script->next)
        if (memcmp(&script->agreed, agreed, sizeof *agreed) == 0)
            return script;
    script = write_script(workload, agreed);
    script->next = known;
    known = script;
    return script;
}
