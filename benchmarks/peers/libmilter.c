/* A filter on libmilter with every callback (noop), every callback and two changes (tagger), two
   callbacks (small), or every callback without replies (noreply).

   usage: libmilter ADDRESS noop|tagger|small|noreply */
#include <stdio.h>
#include <string.h>

#include <libmilter/mfapi.h>

static sfsistat on_connect(SMFICTX *ctx, char *host, _SOCK_ADDR *address)
{
    (void)ctx, (void)host, (void)address;
    return SMFIS_CONTINUE;
}

/* helo */
static sfsistat on_text(SMFICTX *ctx, char *text)
{
    (void)ctx, (void)text;
    return SMFIS_CONTINUE;
}

static sfsistat on_unknown(SMFICTX *ctx, const char *command)
{
    (void)ctx, (void)command;
    return SMFIS_CONTINUE;
}

/* envfrom and envrcpt */
static sfsistat on_address(SMFICTX *ctx, char **arguments)
{
    (void)ctx, (void)arguments;
    return SMFIS_CONTINUE;
}

static sfsistat on_header(SMFICTX *ctx, char *name, char *value)
{
    (void)ctx, (void)name, (void)value;
    return SMFIS_CONTINUE;
}

static sfsistat on_body(SMFICTX *ctx, unsigned char *chunk, size_t length)
{
    (void)ctx, (void)chunk, (void)length;
    return SMFIS_CONTINUE;
}

/* data, eoh, abort and close */
static sfsistat on_event(SMFICTX *ctx)
{
    (void)ctx;
    return SMFIS_CONTINUE;
}

static sfsistat accept_message(SMFICTX *ctx)
{
    (void)ctx;
    return SMFIS_ACCEPT;
}

static sfsistat tag_message(SMFICTX *ctx)
{
    if (smfi_addheader(ctx, "X-Tagged", "yes") != MI_SUCCESS
        || smfi_chgheader(ctx, "Subject", 1, "[tagged] minutes") != MI_SUCCESS)
        return SMFIS_TEMPFAIL;
    return SMFIS_ACCEPT;
}

static sfsistat on_address_silent(SMFICTX *ctx, char **arguments)
{
    (void)ctx, (void)arguments;
    return SMFIS_NOREPLY;
}

static sfsistat on_connect_silent(SMFICTX *ctx, char *host, _SOCK_ADDR *address)
{
    (void)ctx, (void)host, (void)address;
    return SMFIS_NOREPLY;
}

static sfsistat on_text_silent(SMFICTX *ctx, char *text)
{
    (void)ctx, (void)text;
    return SMFIS_NOREPLY;
}

static sfsistat on_header_silent(SMFICTX *ctx, char *name, char *value)
{
    (void)ctx, (void)name, (void)value;
    return SMFIS_NOREPLY;
}

static sfsistat on_body_silent(SMFICTX *ctx, unsigned char *chunk, size_t length)
{
    (void)ctx, (void)chunk, (void)length;
    return SMFIS_NOREPLY;
}

static sfsistat on_event_silent(SMFICTX *ctx)
{
    (void)ctx;
    return SMFIS_NOREPLY;
}

static sfsistat negotiate_silence(SMFICTX *ctx, unsigned long actions, unsigned long steps,
                                  unsigned long u1, unsigned long u2, unsigned long *my_actions,
                                  unsigned long *my_steps, unsigned long *m1, unsigned long *m2)
{
    (void)ctx, (void)actions, (void)steps, (void)u1, (void)u2;
    *my_actions = 0;
    *my_steps = SMFIP_NR_CONN | SMFIP_NR_HELO | SMFIP_NR_MAIL | SMFIP_NR_RCPT | SMFIP_NR_DATA
              | SMFIP_NR_UNKN | SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY;
    *m1 = *m2 = 0;
    return SMFIS_CONTINUE;
}

static const struct smfiDesc noop = {
    "noop", SMFI_VERSION, 0, on_connect, on_text, on_address, on_address, on_header, on_event,
    on_body, accept_message, on_event, on_event, on_unknown, on_event, NULL};

static const struct smfiDesc tagger = {
    "tagger", SMFI_VERSION, SMFIF_ADDHDRS | SMFIF_CHGHDRS, on_connect, on_text, on_address,
    on_address, on_header, on_event, on_body, tag_message, on_event, on_event, on_unknown,
    on_event, NULL};

static const struct smfiDesc small = {
    .xxfi_name = "small", .xxfi_version = SMFI_VERSION, .xxfi_envrcpt = on_address,
    .xxfi_eom = accept_message};

static const struct smfiDesc noreply = {
    "noreply", SMFI_VERSION, 0, on_connect_silent, on_text_silent, on_address_silent,
    on_address_silent, on_header_silent, on_event_silent, on_body_silent, accept_message,
    on_event, on_event, on_unknown, on_event_silent, negotiate_silence};

int main(int argc, char **argv)
{
    static const struct smfiDesc *const filters[] = {&noop, &tagger, &small, &noreply};

    for (size_t i = 0; argc == 3 && i < sizeof filters / sizeof filters[0]; i++)
        if (strcmp(filters[i]->xxfi_name, argv[2]) == 0
            && smfi_setconn(argv[1]) == MI_SUCCESS && smfi_setbacklog(1024) == MI_SUCCESS
            && smfi_register(*filters[i]) == MI_SUCCESS)
            return smfi_main();
    fputs("usage: libmilter ADDRESS noop|tagger|small|noreply\n", stderr);
    return 2;
}
