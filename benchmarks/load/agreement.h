/* What a filter may answer to the negotiation, and what follows from it for each command. */
#ifndef AGREEMENT_H
#define AGREEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

struct agreement {
    uint32_t version, actions, steps;
};

void append_offer(struct bytes *to);

/* Reads the payload of the answer; NULL if it is one an MTA could accept, else what is wrong. */
const char *read_agreement(struct agreement *into, const unsigned char *payload, size_t length);

bool sends(const struct agreement *agreed, char command);
bool answers(const struct agreement *agreed, char command);

#endif
