#include "bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

void append(struct bytes *to, const void *data, size_t length)
{
    if (to->length + length > to->room) {
        to->room = 2 * (to->length + length);
        to->data = realloc(to->data, to->room);
        if (to->data == NULL) {
            fputs("load: out of memory\n", stderr);
            exit(70);
        }
    }
    memcpy(to->data + to->length, data, length);
    to->length += length;
}

void append_text(struct bytes *to, const char *text)
{
    append(to, text, strlen(text) + 1);
}

void append_u32(struct bytes *to, uint32_t value)
{
    unsigned char four[4];

    put_u32(four, value);
    append(to, four, sizeof four);
}

size_t begin_frame(struct bytes *to, char code)
{
    size_t begun = to->length;

    append_u32(to, 0);
    append(to, &code, 1);
    return begun;
}

void end_frame(struct bytes *to, size_t begun)
{
    put_u32(to->data + begun, (uint32_t)(to->length - begun - 4));
}
