/* Connections that negotiate and then say nothing, so that a server's memory can be read. */
#ifndef IDLE_H
#define IDLE_H

#include "options.h"

/* Returns the exit status. Prints {"held": N} as soon as N connections have negotiated; N is
   smaller than asked for where the filter does not answer another one in time. */
int hold_idle(const struct options *options);

#endif
