/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ticket, and every message of the control connection: decoding, and what
 * is done with addresses. Input: a byte that says which, then its bytes. */
#include "fuzz.h"

#include <netinet/in.h>

#include "../../daemon/wire.h"

static void check_address(const char *address, unsigned port)
{
    struct sockaddr_storage ss;
    socklen_t length = 0;

    if (wire_address(address, port, &ss, &length))
        return;
    REQUIRE(port <= UINT16_MAX);
    REQUIRE(ss.ss_family == AF_INET ? length == sizeof(struct sockaddr_in)
                                    : length == sizeof(struct sockaddr_in6));
}

static void check_ticket(const uint8_t *data, size_t size)
{
    Remapd__Ticket *ticket = remapd__ticket__unpack(NULL, size, data);

    if (!ticket)
        return;
    for (size_t i = 0; i < ticket->n_address; i++)
        check_address(ticket->address[i], ticket->port);
    remapd__ticket__free_unpacked(ticket, NULL);
}

/* Decoded as ever, and packed again, as an answer would be. */
static void check_message(const uint8_t *data, size_t size)
{
    Remapd__Message *message = remapd__message__unpack(NULL, size, data);
    uint8_t *packed;
    size_t bytes;

    if (!message)
        return;
    bytes = remapd__message__get_packed_size(message);
    packed = malloc(bytes + 1);
    REQUIRE(remapd__message__pack(message, packed) == bytes);
    remapd__message__free_unpacked(message, NULL);
    free(packed);
}

static void check_parse(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    struct sockaddr_storage ss;
    socklen_t length;

    memcpy(text, data, size);
    text[size] = 0;
    wire_parse(text, &ss, &length);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    switch (input_byte(&input) % 3) {
    case 0:
        check_ticket(input.data, input.size);
        break;
    case 1:
        check_message(input.data, input.size);
        break;
    default:
        check_parse(input.data, input.size);
    }
    return 0;
}
