#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "usage: load [options] ADDRESS WORKLOAD\n"
    "       load --idle [options] ADDRESS\n"
    "\n"
    "Plays the mail server to a filter on this machine and prints what it measured as JSON.\n"
    "ADDRESS   unix:/path, inet:PORT@127.0.0.1 or inet6:PORT@::1\n"
    "WORKLOAD  noop, tagger, small, noreply, short, large1 or large20\n"
    "\n"
    "  --connections N  at the same time (default 16, at most 4096)\n"
    "  --messages N     a connection (default: what the workload says)\n"
    "  --sessions N     connections in all (default and at most 1000000)\n"
    "  --seconds S      after which no message is begun (default 2, at most 600)\n"
    "  --timeout S      without an answer (default 10, at most 600)\n"
    "  --separate       a write for each frame and Nagle's algorithm on, as Sendmail does it\n"
    "  --idle           open the connections, negotiate, print how many there are, and hold them\n"
    "                   until standard input ends or the seconds are over\n"
    "\n"
    "Exit status: 0 done; 1 the filter did not answer as it should; 2 usage.\n";

static _Noreturn void refuse(const char *what, const char *text)
{
    fprintf(stderr, "load: %s: %s\n%s", what, text, usage);
    exit(2);
}

static double number(const char *text, double least, double most)
{
    char *rest;
    double value = strtod(text, &rest);

    if (rest == text || *rest != 0 || !(value >= least && value <= most))
        refuse("not a number that is allowed here", text);
    return value;
}

static void read_operands(struct options *options, char **operands)
{
    if (operands[0] == NULL || !parse_address(&options->address, operands[0]))
        refuse("not an address on this machine", operands[0] ? operands[0] : "(none)");
    options->address_text = operands[0];
    if (options->idle)
        return;
    options->workload = operands[1] ? find_workload(operands[1]) : NULL;
    if (options->workload == NULL)
        refuse("not a workload", operands[1] ? operands[1] : "(none)");
    if (options->messages == 0)
        options->messages = options->workload->messages;
}

struct options read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"connections", required_argument, NULL, 'c'}, {"messages", required_argument, NULL, 'm'},
        {"sessions", required_argument, NULL, 'n'},    {"seconds", required_argument, NULL, 's'},
        {"timeout", required_argument, NULL, 't'},     {"separate", no_argument, NULL, 'p'},
        {"idle", no_argument, NULL, 'i'},              {NULL, 0, NULL, 0},
    };
    struct options options = {
        .connections = 16, .sessions = 1000000, .seconds = 2, .timeout = 10};
    int choice;

    while ((choice = getopt_long(argc, argv, "", known, NULL)) != -1)
        switch (choice) {
        case 'c': options.connections = (unsigned)number(optarg, 1, 4096); break;
        case 'm': options.messages = (unsigned)number(optarg, 1, 1000000); break;
        case 'n': options.sessions = (unsigned)number(optarg, 1, 1000000); break;
        case 's': options.seconds = number(optarg, 0.01, 600); break;
        case 't': options.timeout = number(optarg, 0.01, 600); break;
        case 'p': options.separate = true; break;
        case 'i': options.idle = true; break;
        default: fputs(usage, stderr); exit(2);
        }
    read_operands(&options, argv + optind);
    return options;
}
