/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the harnesses share. Each has LLVMFuzzerTestOneInput() and works on the
 * real code: on its public functions, or, with the .c included, on those that
 * read what came from outside. What must hold is asserted.
 */
#ifndef REMAPD_TESTS_FUZZ_H
#define REMAPD_TESTS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../daemon/util.h"

#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__,         \
                    #condition);                                               \
            abort();                                                           \
        }                                                                      \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is left of an input. */
struct input {
    const uint8_t *data;
    size_t size;
};

/* The next @bytes of it, zeros where it ends; false if nothing was left. */
static inline bool input_take(struct input *input, void *to, size_t bytes)
{
    size_t got = MIN(bytes, input->size);

    memset(to, 0, bytes);
    if (got)
        memcpy(to, input->data, got);
    input->data += got;
    input->size -= got;
    return got;
}

static inline unsigned input_byte(struct input *input)
{
    uint8_t byte;

    input_take(input, &byte, 1);
    return byte;
}

#endif
