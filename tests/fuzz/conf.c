/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration file. Input: its text. */
#include "../../daemon/conf.c"

#include "fuzz.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    char path[32], error[ERROR_TEXT_BYTES] = "";
    struct conf conf;

    if (fd < 0)
        fd = memfd_create("conf", 0);
    if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    conf_defaults(&conf);
    if (conf_read_file(&conf, path, false, error)) {
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
