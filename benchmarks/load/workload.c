#include "workload.h"

#include <string.h>

/* `noop`, `small` and `noreply` send the same mail; it is the filter that asks for less of it. */
static const struct workload workloads[] = {
    {"noop", 8192, 10, false},       {"tagger", 8192, 10, true},
    {"small", 8192, 10, false},      {"noreply", 8192, 10, false},
    {"short", 8192, 1, false},       {"large1", 1 << 20, 10, false},
    {"large20", 20 << 20, 2, false},
};

const struct workload *find_workload(const char *name)
{
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0]; i++)
        if (strcmp(workloads[i].name, name) == 0)
            return &workloads[i];
    return NULL;
}
