/* What was measured, as one JSON object on standard output. */
#ifndef REPORT_H
#define REPORT_H

#include "options.h"
#include "session.h"

void report(const struct options *options, const struct run *run);

#endif
