/* A byte string that grows; out of memory ends the program. */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>
#include <stdint.h>

struct bytes {
    unsigned char *data;
    size_t length, room;
};

void append(struct bytes *to, const void *data, size_t length);
void append_text(struct bytes *to, const char *text); /* with its NUL, as the wire wants it */
void append_u32(struct bytes *to, uint32_t value);

/* A frame: begin, append the payload, end. The value of begin_frame goes to end_frame. */
size_t begin_frame(struct bytes *to, char code);
void end_frame(struct bytes *to, size_t begun);

#endif
