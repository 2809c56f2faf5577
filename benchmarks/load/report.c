#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

static double cpu_seconds(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
         + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* FNV-1a of 64 bits. */
static uint64_t digest(const struct bytes *of)
{
    uint64_t sum = 0xcbf29ce484222325;

    for (size_t i = 0; i < of->length; i++)
        sum = (sum ^ of->data[i]) * 0x100000001b3;
    return sum;
}

/* Error texts hold file names and numbers; quotes and the like must not break the JSON. */
static void print_text(const char *name, const char *text)
{
    printf("\"%s\": \"", name);
    for (; *text != 0; text++)
        putchar(*text == '"' || *text == '\\' || (unsigned char)*text < ' ' ? '\'' : *text);
    printf("\"");
}

static void print_percentiles(const char *name, const struct histogram *of)
{
    printf("\"%s\": {\"count\": %" PRIu64 ", \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, "
           "\"p99.9\": %.1f, \"max\": %.1f},\n ",
           name, of->count, percentile(of, 0.5), percentile(of, 0.9), percentile(of, 0.99),
           percentile(of, 0.999), (double)of->longest / 1000);
}

static void print_letters(const struct run *run)
{
    printf("\"letters\": \"%.*s\", \"digest\": \"%016" PRIx64 "\",\n ", (int)run->letters.length,
           (const char *)run->letters.data, digest(&run->letters));
}

void report(const struct options *options, const struct run *run)
{
    bool any = run->done_messages > 0;
    double seconds = any ? (double)(run->last_message - run->started) / 1e9 : 0;
    double per_second = any ? 1 / seconds : 0;

    printf("{");
    print_text("address", options->address_text);
    printf(", \"workload\": \"%s\", \"connections\": %u, \"messages_a_connection\": %u,\n ",
           run->workload->name, options->connections, run->messages);
    if (run->error[0] != 0) {
        print_text("error", run->error);
        printf(",\n ");
    }
    printf("\"negotiated\": {\"version\": %u, \"actions\": %u, \"steps\": %u},\n ",
           run->agreed.version, run->agreed.actions, run->agreed.steps);
    print_letters(run);
    printf("\"seconds\": %.6f, \"sessions\": %" PRIu64 ", \"messages\": %" PRIu64
           ", \"answers\": %" PRIu64 ", \"bytes_sent\": %" PRIu64 ", \"bytes_received\": %" PRIu64
           ",\n ",
           seconds, run->done_sessions, run->done_messages, run->answers, run->sent,
           run->received);
    printf("\"messages_a_second\": %.2f, \"bytes_a_second\": %.0f,\n ",
           (double)run->done_messages * per_second, (double)run->sent * per_second);
    print_percentiles("setup_us", &run->setup);
    print_percentiles("command_us", &run->command);
    print_percentiles("message_us", &run->message);
    printf("\"own_cpu_seconds\": %.3f}\n", cpu_seconds());
}
