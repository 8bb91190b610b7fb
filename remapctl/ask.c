/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ask.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ASK_TIMEOUT_S  5
#define ASK_MAX_BYTES  (64u << 20)
#define ASK_READ_BYTES 65536u

void complain(const char *format, ...)
{
    va_list args;

    fputs("remapctl: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static const char *advice(int error)
{
    switch (error) {
    case ENOENT:
    case ECONNREFUSED:
        return "is remapd running? Start it, or name the socket that its "
               "option `control` names with --socket";
    case EACCES:
    case EPERM:
        return "be root, or a member of the group that remapd's option "
               "`group` names";
    default:
        return "see remapctl(1)";
    }
}

static int ask_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {ASK_TIMEOUT_S, 0};
    int fd;

    if (strlen(path) >= sizeof(address.sun_path)) {
        complain("%s: longer than the %zu bytes that a socket's path may have",
                 path, sizeof(address.sun_path) - 1);
        return -1;
    }
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 &&
        !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) &&
        !setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) &&
        !connect(fd, (struct sockaddr *)&address, sizeof(address)))
        return fd;
    complain("%s: %s: %s", path, strerror(errno), advice(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* All that the daemon says until it closes, or NULL. */
static char *read_all(int fd, const char *path)
{
    size_t bytes = 0, room = 0;
    char *text = NULL;
    ssize_t got;

    do {
        if (room - bytes < ASK_READ_BYTES) {
            room = room ? 2 * room : 2 * ASK_READ_BYTES;
            text = realloc(text, room);
            if (!text)
                abort();
        }
        got = recv(fd, text + bytes, room - bytes - 1, 0);
        if (got > 0)
            bytes += (size_t)got;
    } while ((got > 0 && bytes < ASK_MAX_BYTES) || (got < 0 && errno == EINTR));
    text[bytes] = 0;
    if (!got && bytes)
        return text;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        complain("%s: no answer within %d s", path, ASK_TIMEOUT_S);
    else if (got < 0)
        complain("%s: %s", path, strerror(errno));
    else
        complain("%s: closed without an answer: %s", path,
                 bytes ? "too long" : advice(EACCES));
    free(text);
    return NULL;
}

enum exit_code ask(const char *socket_path, const char *request,
                   struct json_object **answer)
{
    int fd = ask_connect(socket_path);
    struct json_object *error;
    char line[512], *text;
    int bytes;

    if (fd < 0)
        return EXIT_NO_DAEMON;
    bytes = snprintf(line, sizeof(line), "%s\n", request);
    /* A daemon that refuses us may have closed already; reading says so. */
    text = send(fd, line, (size_t)bytes, MSG_NOSIGNAL) < 0 && errno != EPIPE
               ? NULL
               : read_all(fd, socket_path);
    close(fd);
    if (!text)
        return EXIT_NO_DAEMON;
    *answer = json_tokener_parse(text);
    free(text);
    if (!json_object_is_type(*answer, json_type_object)) {
        complain("%s: the answer is not JSON: is that remapd's control "
                 "socket?",
                 socket_path);
        json_object_put(*answer);
        return EXIT_NO_DAEMON;
    }
    if (!json_object_object_get_ex(*answer, "error", &error))
        return EXIT_DONE;
    complain("%s", json_object_get_string(error));
    json_object_put(*answer);
    return EXIT_REFUSED;
}
