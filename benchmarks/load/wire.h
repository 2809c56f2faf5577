/* Milter frames: a 32-bit big-endian length, one code byte, a payload. */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>
#include <stdint.h>

enum {
    PROTOCOL_VERSION = 6,
    OFFERED_ACTIONS = 0x1ff,
    OFFERED_STEPS = 0x1fffff,
    STEP_HDR_LEADSPC = 0x100000,
    BODY_CHUNK = 65535,
    FRAME_HEADER = 5, /* length and code */
};

static inline void put_u32(unsigned char *at, uint32_t value)
{
    at[0] = (unsigned char)(value >> 24);
    at[1] = (unsigned char)(value >> 16);
    at[2] = (unsigned char)(value >> 8);
    at[3] = (unsigned char)value;
}

static inline uint32_t get_u32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

#endif
