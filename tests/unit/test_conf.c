/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <errno.h>
#include <sys/wait.h>

#include "../../daemon/conf.h"

static struct conf conf;

static int set_up(void **state)
{
    (void)state;
    conf_defaults(&conf);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(conf.handoff);
    free(conf.control);
    free(conf.group);
    free(conf.listen);
    free(conf.advertise);
    free(conf.report_dir);
    free(conf.tls_ca);
    free(conf.tls_server_cert);
    free(conf.tls_server_key);
    free(conf.tls_client_cert);
    free(conf.tls_client_key);
    return 0;
}

static void has_defaults(void **state)
{
    (void)state;
    assert_string_equal(conf.handoff, "/run/remapd/qemu.sock");
    assert_null(conf.report_dir);
    assert_int_equal(conf.engine, PLACE_ENGINES);
    assert_int_equal(conf.log_level, LOG_LEVEL_INFO);
    assert_true(conf.urgent_channels >= 1 && conf.bulk_channels >= 1);
}

static void takes_values_up_to_the_bounds(void **state)
{
    char error[ERROR_TEXT_BYTES];

    (void)state;
    assert_int_equal(conf_set(&conf, "handoff", "/tmp/x", error), 0);
    assert_string_equal(conf.handoff, "/tmp/x");
    assert_int_equal(conf_set(&conf, "urgent-channels", "4", error), 0);
    assert_int_equal(conf.urgent_channels, 4);
    assert_int_equal(conf_set(&conf, "max-sessions", "1", error), 0);
    assert_int_equal(conf.max_sessions, 1);
    assert_int_equal(conf_set(&conf, "engine", "copy", error), 0);
    assert_int_equal(conf.engine, PLACE_COPY);
    assert_int_equal(conf_set(&conf, "engine", "continue", error), 0);
    assert_int_equal(conf.engine, PLACE_CONTINUE);
    assert_int_equal(conf_set(&conf, "engine", "move", error), 0);
    assert_int_equal(conf.engine, PLACE_MOVE);
    assert_int_equal(conf_set(&conf, "engine", "remap", error), 0);
    assert_int_equal(conf.engine, PLACE_REMAP);
    assert_int_equal(conf_set(&conf, "engine", "auto", error), 0);
    assert_int_equal(conf.engine, PLACE_ENGINES);
    assert_int_equal(conf_set(&conf, "log-level", "debug", error), 0);
    assert_int_equal(conf.log_level, LOG_LEVEL_DEBUG);
}

static void refuses_and_says_what_is_allowed(void **state)
{
    static const struct {
        const char *name, *value, *says;
    } rows[] = {
        {"urgent-channels", "0", "is not a number from 1 to 4"},
        {"urgent-channels", "5", "is not a number from 1 to 4"},
        {"bulk-channels", "9", "is not a number from 1 to 8"},
        {"bulk-channels", "-1", "is not a number from"},
        {"bulk-channels", "", "is not a number from"},
        {"bulk-channels", "2x", "2x is not a number from"},
        {"bulk-channels", "99999999999999999999", "is not a number from"},
        {"bulk-channels", "4294967297", "is not a number from"},
        {"peer-timeout", "1", "is not a number from 2 to 3600"},
        {"max-sessions", "4097", "is not a number from 1 to 4096"},
        {"engine", "teleport", "teleport is not one of: "},
        {"engine", "", "is not one of: "},
        {"log-level", "loud", "error, warning, info, debug"},
        {"tls", "maybe", "maybe is not one of: off, on, auto"},
        {"tls-ca", "", "tls-ca: must not be empty"},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        char error[ERROR_TEXT_BYTES] = "";
        struct conf before = conf;

        assert_int_equal(conf_set(&conf, rows[i].name, rows[i].value, error),
                         -EINVAL);
        assert_says(error, rows[i].says);
        assert_says(error, rows[i].name);
        assert_memory_equal(&conf, &before, sizeof(conf));
    }
}

static void knows_no_other_option(void **state)
{
    char error[ERROR_TEXT_BYTES];

    (void)state;
    assert_int_equal(conf_set(&conf, "colour", "red", error), -ENOENT);
    assert_says(error, "colour: there is no such option");
}

/* What conf_load() prints and how it ends; it ends the process. */
static int load_output(const char *const *args, char *text, size_t size)
{
    int fds[2], status;
    size_t used = 0;
    ssize_t got;
    pid_t child;

    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    child = fork();
    if (!child) {
        int argc = 0;

        while (args[argc])
            argc++;
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        conf_load(argc, (char **)(uintptr_t)args);
        exit(42); /* it came back with options */
    }
    close(fds[1]);
    while ((got = read(fds[0], text + used, size - 1 - used)) > 0)
        used += (size_t)got;
    text[used] = 0;
    close(fds[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void help_mentions_each_option(void **state)
{
    static const char *const names[] = {
        "handoff", "control", "group", "listen", "advertise", "report-dir",
        "metrics",
        "engine", "log-level", "sandbox", "tls", "tls-ca", "tls-server-cert",
        "tls-server-key", "tls-client-cert", "tls-client-key", "tls-allow",
        "tcp-congestion", "urgent-channels", "bulk-channels",
        "peer-timeout", "reconnect-interval", "max-sessions", "config",
        "probe", "help", "version"};
    static const char *const args[] = {"remapd", "--help", NULL};
    char text[8192], flag[64], *line;

    (void)state;
    assert_int_equal(load_output(args, text, sizeof(text)), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(flag, sizeof(flag), "--%s", names[i]);
        assert_says(text, flag);
    }
    /* And there is none that this test does not know. */
    line = text;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        line = strstr(line, "\n  --");
        assert_non_null(line);
        line++;
    }
    assert_null(strstr(line, "\n  --"));
}

static void the_command_line_is_checked(void **state)
{
    static const struct {
        const char *args[4];
        int code;
        const char *says;
    } rows[] = {
        {{"remapd", "--version", NULL}, 0, "remapd "},
        {{"remapd", "--config=/dev/null", NULL}, 42, ""},
        {{"remapd", "--config=/nowhere/x", NULL}, 1,
         "/nowhere/x: No such file"},
        {{"remapd", "--colour=red", NULL}, 1, "colour"},
        {{"remapd", "surplus", NULL}, 1, "surplus: what is that?"},
        {{"remapd", "--bulk-channels=99", NULL}, 1,
         "--bulk-channels: 99 is not a number from 1 to 8"},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[4096];

        assert_int_equal(load_output(rows[i].args, text, sizeof(text)),
                         rows[i].code);
        assert_says(text, rows[i].says);
    }
}

static void the_file_is_checked(void **state)
{
    static const struct {
        const char *file, *says;
        int code;
    } rows[] = {
        {"bulk-channels = 2\n# a comment\nlog-level = debug\n", "", 42},
        {"bulk-channels = 2\ncolour = red\n", "line 2: colour: there is no", 1},
        {"bulk-channels = many\n", "line 1: bulk-channels: many is not", 1},
        {"[section]\nbulk-channels = 2\n", "there are no sections", 1},
        {"nonsense\n", "line 1: not `name = value`", 1},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        char path[] = "/tmp/remapd-unit-XXXXXX", text[4096];
        const char *args[] = {"remapd", "--config", path, NULL};
        int fd = mkstemp(path);
        size_t bytes = strlen(rows[i].file);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, rows[i].file, bytes), bytes);
        close(fd);
        assert_int_equal(load_output(args, text, sizeof(text)), rows[i].code);
        unlink(path);
        assert_says(text, rows[i].says);
    }
}

#define conf_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        conf_test(has_defaults),
        conf_test(takes_values_up_to_the_bounds),
        conf_test(refuses_and_says_what_is_allowed),
        conf_test(knows_no_other_option),
        cmocka_unit_test(help_mentions_each_option),
        cmocka_unit_test(the_command_line_is_checked),
        cmocka_unit_test(the_file_is_checked),
    };

    return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}
