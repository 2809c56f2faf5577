#include "agreement.h"

#include "wire.h"

/* For each command the step that switches it off, the one that takes its answer away, and the
   first protocol version that has it. */
static const struct rule {
    char command;
    uint32_t off, noreply, since;
} rules[] = {
    {'C', 0x001, 0x01000, 1}, {'H', 0x002, 0x02000, 1}, {'M', 0x004, 0x04000, 1},
    {'R', 0x008, 0x08000, 1}, {'T', 0x200, 0x10000, 4}, {'L', 0x020, 0x00080, 1},
    {'N', 0x040, 0x40000, 2}, {'B', 0x010, 0x80000, 1}, {'E', 0, 0, 1},
};

static const struct rule *rule_of(char command)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].command == command)
            return &rules[i];
    return NULL;
}

void append_offer(struct bytes *to)
{
    size_t frame = begin_frame(to, 'O');

    append_u32(to, PROTOCOL_VERSION);
    append_u32(to, OFFERED_ACTIONS);
    append_u32(to, OFFERED_STEPS);
    end_frame(to, frame);
}

/* Lists of macro names may follow the three words. They are left unread: this MTA sends its
   macros whatever the filter asks for. */
const char *read_agreement(struct agreement *into, const unsigned char *payload, size_t length)
{
    if (length < 12)
        return "the answer to the negotiation is shorter than 12 bytes";
    into->version = get_u32(payload);
    into->actions = get_u32(payload + 4);
    into->steps = get_u32(payload + 8);
    if (into->version < 2 || into->version > PROTOCOL_VERSION)
        return "the filter answered with a protocol version that was not offered";
    if (into->actions & ~(uint32_t)OFFERED_ACTIONS)
        return "the filter asked for actions that were not offered";
    if (into->steps & ~(uint32_t)OFFERED_STEPS)
        return "the filter asked for steps that were not offered";
    return NULL;
}

bool sends(const struct agreement *agreed, char command)
{
    const struct rule *rule = rule_of(command);

    return rule != NULL && !(agreed->steps & rule->off) && agreed->version >= rule->since;
}

bool answers(const struct agreement *agreed, char command)
{
    const struct rule *rule = rule_of(command);

    return rule != NULL && !(agreed->steps & rule->noreply);
}
