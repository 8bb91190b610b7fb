/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration file. Input: its text, as a file in memory. */
#include "../../daemon/conf.c"

#include "fuzz.h"

static const uint8_t *text;
static size_t text_bytes;

/* Instead of the C library's, for inih; libFuzzer opens files, too. */
FILE *fopen64(const char *path, const char *mode)
{
    return strcmp(path, "conf")
               ? fopen(path, mode)
               : fmemopen((void *)(uintptr_t)text, text_bytes, mode);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[ERROR_TEXT_BYTES] = "";
    struct conf conf;

    text = data;
    text_bytes = size;
    conf_defaults(&conf);
    if (conf_read_file(&conf, "conf", false, error)) {
        REQUIRE(*error);
    } else {
        REQUIRE(conf.handoff && *conf.handoff && conf.control && conf.listen);
        REQUIRE(conf.engine <= PLACE_ENGINES);
        REQUIRE(conf.log_level <= LOG_LEVEL_DEBUG);
        REQUIRE(conf.urgent_channels >= 1 && conf.urgent_channels <= 4);
        REQUIRE(conf.bulk_channels >= 1 && conf.bulk_channels <= 8);
        REQUIRE(conf.peer_timeout_s >= 2 && conf.max_sessions >= 1);
    }
    conf_clear(&conf);
    return 0;
}
