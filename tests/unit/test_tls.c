/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <string.h>

#include "../../daemon/tls.h"

static char directory[] = "/tmp/remapd-unit-XXXXXX";
static char paths[3][64]; /* of the authority, a certificate, its key */
static EVP_PKEY *key;
static X509 *authority;
static char error[ERROR_TEXT_BYTES];
static struct tls_files files;

static void extend(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    assert_non_null(extension);
    X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
}

/* Signed by the authority, or, if there is none yet, it is that. */
static X509 *new_cert(const char *name, const char *names)
{
    X509 *cert = X509_new();
    X509_NAME *subject = X509_get_subject_name(cert);

    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 7);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                               (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(cert, authority ? X509_get_subject_name(authority)
                                         : subject);
    X509_set_pubkey(cert, key);
    if (!authority)
        extend(cert, NID_basic_constraints, "CA:TRUE");
    if (names)
        extend(cert, NID_subject_alt_name, names);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    return cert;
}

/* Certificates for both roles, with @names, are loaded. */
static void load(const char *names)
{
    X509 *cert = new_cert("common", names);
    FILE *file = fopen(paths[1], "w");

    assert_true(PEM_write_X509(file, cert));
    fclose(file);
    X509_free(cert);
    assert_int_equal(tls_load(&files, error), 0);
}

static int set_up(void **state)
{
    FILE *file;

    (void)state;
    assert_non_null(mkdtemp(directory));
    for (unsigned i = 0; i < 3; i++)
        snprintf(paths[i], sizeof(paths[i]), "%s/%u.pem", directory, i);
    files = (struct tls_files){paths[0], paths[1], paths[2],
                               paths[1], paths[2], NULL};
    key = EVP_EC_gen("P-256");
    authority = new_cert("authority", NULL);
    file = fopen(paths[0], "w");
    assert_true(PEM_write_X509(file, authority));
    fclose(file);
    file = fopen(paths[2], "w");
    assert_true(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
    fclose(file);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tls_unload();
    X509_free(authority);
    EVP_PKEY_free(key);
    for (unsigned i = 0; i < 3; i++)
        unlink(paths[i]);
    rmdir(directory);
    return 0;
}

/* A connection in memory: both ends, and what is on its way to each. */
static struct tls *ends[2];
static struct evbuffer *wires[2], *texts[2];

/* Return: of the end that fails first, or 0. */
static int shake_hands(const char *address, const char *name)
{
    int ret = 0;

    ends[0] = tls_accept();
    ends[1] = tls_connect(address, name);
    for (unsigned i = 0; i < 2; i++) {
        wires[i] = evbuffer_new();
        texts[i] = evbuffer_new();
    }
    for (unsigned turn = 1; turn < 9 && !ret; turn++)
        ret = tls_take(ends[turn % 2], wires[turn % 2], texts[turn % 2],
                       wires[(turn + 1) % 2]);
    return ret;
}

static void hang_up(void)
{
    for (unsigned i = 0; i < 2; i++) {
        tls_free(ends[i]);
        evbuffer_free(wires[i]);
        evbuffer_free(texts[i]);
    }
}

static void a_server_is_who_it_says(void **state)
{
    static const struct {
        const char *names, *address, *name;
        int ret;
    } rows[] = {
        {"IP:10.0.0.2", "10.0.0.2", "", 0},
        {"IP:10.0.0.2", "10.0.0.3", "", -EPROTO},
        {"IP:10.0.0.2", "10.0.0.3", "10.0.0.2", 0},
        {"IP:fe80::1", "fe80:0::1", "", 0},
        {"DNS:10.0.0.2", "10.0.0.2", "", 0}, /* as old ones have it */
        {"DNS:b.example", "10.0.0.2", "b.example", 0},
        {"DNS:b.example", "10.0.0.2", "B.EXAMPLE", 0},
        {"DNS:b.example", "10.0.0.2", "", -EPROTO},
        {"DNS:b.example", "10.0.0.2", "c.example", -EPROTO},
        {"DNS:b.example", "10.0.0.2", "example", -EPROTO},
        {"DNS:b.example", "10.0.0.2", "b.example.org", -EPROTO},
        {"DNS:*.lab.example", "10.0.0.2", "b.lab.example", 0},
        {"DNS:*.lab.example", "10.0.0.2", "a.b.lab.example", -EPROTO},
        {"DNS:a.example,DNS:b.example", "10.0.0.2", "b.example", 0},
        {NULL, "10.0.0.2", "common", 0},
        {"DNS:b.example", "10.0.0.2", "common", -EPROTO},
        {"email:b@example", "10.0.0.2", "b@example", -EPROTO},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        load(rows[i].names);
        if (shake_hands(rows[i].address, rows[i].name) != rows[i].ret)
            fail_msg("row %u: %s", i, tls_reason(ends[1]));
        assert_true(tls_ready(ends[1]) == !rows[i].ret);
        if (rows[i].ret)
            assert_says(tls_reason(ends[1]), "it is for another host than");
        hang_up();
    }
}

static void a_name_goes_into_tickets(void **state)
{
    (void)state;
    load("IP:10.0.0.2,DNS:b.example,DNS:c.example");
    assert_string_equal(tls_name(), "b.example");
    load(NULL);
    assert_string_equal(tls_name(), "common");
}

static void only_some_clients_are_allowed(void **state)
{
    static const struct {
        const char *allow;
        int ret;
    } rows[] = {
        {NULL, 0},          {"a.example", 0},       {"x,a.example", 0},
        {"x, 10.0.0.1", 0}, {"b.example", -EPROTO}, {"10.0.0.11", -EPROTO},
        {",", -EPROTO},     {"a.exampl", -EPROTO},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        files.allow = rows[i].allow;
        load("DNS:a.example,IP:10.0.0.1");
        if (shake_hands("10.0.0.1", "") != rows[i].ret)
            fail_msg("row %u: %s", i, tls_reason(ends[0]));
        hang_up();
    }
    files.allow = NULL;
}

static void what_is_wanted(void **state)
{
    static const struct {
        const char *address;
        bool automatic;
    } rows[] = {
        {"127.0.0.1", false},        {"127.9.9.9", false}, {"::1", false},
        {"::ffff:127.0.0.1", false}, {"10.0.0.1", true},   {"128.0.0.1", true},
        {"::ffff:10.0.0.1", true},   {"::", true},         {"0.0.0.0", true},
        {"fe80::1", true},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct sockaddr_in in = {.sin_family = AF_INET};
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
        const struct sockaddr *sa = (struct sockaddr *)&in6;

        if (inet_pton(AF_INET, rows[i].address, &in.sin_addr) == 1)
            sa = (struct sockaddr *)&in;
        else
            inet_pton(AF_INET6, rows[i].address, &in6.sin6_addr);
        assert_true(tls_wanted(TLS_AUTO, sa) == rows[i].automatic);
        assert_true(tls_wanted(TLS_ON, sa));
        assert_false(tls_wanted(TLS_OFF, sa));
    }
}

static void says_which_file_is_wrong(void **state)
{
    struct tls_files wrong = files;
    struct tls *tls;

    (void)state;
    load("IP:10.0.0.2");
    wrong.client_key = "/nowhere/key.pem";
    assert_int_equal(tls_load(&wrong, error), -EINVAL);
    assert_string_equal(error, "/nowhere/key.pem: No such file or directory");
    wrong.client_key = paths[0];
    assert_int_equal(tls_load(&wrong, error), -EINVAL);
    assert_says(error, "/0.pem: cannot be used");
    tls = tls_accept(); /* by those that were there before */
    assert_non_null(tls);
    tls_free(tls);
}

/* What there was before stays, too. */
static void a_key_is_its_certificates(void **state)
{
    EVP_PKEY *others[] = {EVP_EC_gen("P-256"), EVP_RSA_gen(2048)};
    struct tls_files wrong = files;
    char path[64];

    (void)state;
    load("DNS:b.example");
    snprintf(path, sizeof(path), "%s/other.pem", directory);
    wrong.server_key = path;
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
        FILE *file = fopen(path, "w");

        assert_true(
            PEM_write_PrivateKey(file, others[i], NULL, NULL, 0, NULL, NULL));
        fclose(file);
        EVP_PKEY_free(others[i]);
        assert_int_equal(tls_load(&wrong, error), -EINVAL);
        assert_says(error, "/other.pem: cannot be used");
        assert_string_equal(tls_name(), "b.example");
    }
    unlink(path);
}

/* Though standard input has the answer: the main thread cannot wait for it. */
static void no_password_is_asked_for(void **state)
{
    struct tls_files wrong = files;
    int stdin_before = dup(STDIN_FILENO), fds[2];
    char path[64];
    FILE *file;

    (void)state;
    load("DNS:b.example");
    snprintf(path, sizeof(path), "%s/secret.pem", directory);
    file = fopen(path, "w");
    assert_true(PEM_write_PrivateKey(file, key, EVP_aes_256_cbc(),
                                     (const unsigned char *)"sesame", 6, NULL,
                                     NULL));
    fclose(file);
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "sesame\nsesame\n", 14), 14);
    dup2(fds[0], STDIN_FILENO);
    wrong.server_key = path;
    assert_int_equal(tls_load(&wrong, error), -EINVAL);
    assert_says(error, "/secret.pem: cannot be used");
    dup2(stdin_before, STDIN_FILENO);
    close(stdin_before);
    close(fds[0]);
    close(fds[1]);
    unlink(path);
}

static void talks_in_memory(void **state)
{
    static uint8_t data[200000];
    size_t bytes = sizeof(data);

    (void)state;
    load("IP:10.0.0.2");
    assert_int_equal(shake_hands("10.0.0.2", ""), 0);
    memset(data, 0x5a, bytes);
    assert_int_equal(tls_put(ends[1], data, bytes, wires[0]), 0);
    assert_int_equal(
        evbuffer_search(wires[0], "\x5a\x5a\x5a\x5a\x5a\x5a", 6, NULL).pos, -1);
    assert_int_equal(tls_take(ends[0], wires[0], texts[0], wires[1]), 0);
    assert_int_equal(evbuffer_get_length(texts[0]), bytes);
    assert_memory_equal(evbuffer_pullup(texts[0], -1), data, bytes);
    assert_false(tls_surplus(ends[0]));
    /* One bit, and no byte more is believed. */
    assert_int_equal(tls_put(ends[1], data, 100, wires[0]), 0);
    evbuffer_pullup(wires[0], -1)[50] ^= 1;
    assert_int_equal(tls_take(ends[0], wires[0], texts[0], wires[1]), -EPROTO);
    assert_int_equal(evbuffer_get_length(texts[0]), bytes);
    assert_false(tls_is_clear(ends[0]));
    hang_up();
}

/* ---- on sockets, from threads ---- */

#define CHUNK   (1u << 20)
#define CHUNKS  1100 /* more than a key lasts */
#define ANSWERS 2000

static uint8_t pattern[CHUNK];

static void *send_much(void *opaque)
{
    for (unsigned i = 0; i < CHUNKS; i++) {
        /* As frames have it: a header, and many pages or few in a row. */
        struct iovec iov[64] = {{&i, sizeof(i)}};
        unsigned count = 1, at = 0;

        for (size_t left = CHUNK - sizeof(i); left; count++) {
            size_t part = MIN((1u << (i + count) % 19) + i % 7, left);

            part = count == ARRAY_SIZE(iov) - 1 ? left : part;
            iov[count] =
                (struct iovec){(uint8_t *)pattern + CHUNK - left, part};
            left -= part;
        }
        while (at < count) {
            ssize_t done = tls_writev(opaque, iov + at, count - at);

            assert_true(done > 0);
            while (at < count && (size_t)done >= iov[at].iov_len)
                done -= (ssize_t)iov[at++].iov_len;
            if (at < count) {
                iov[at].iov_base = (uint8_t *)iov[at].iov_base + done;
                iov[at].iov_len -= (size_t)done;
            }
        }
    }
    return NULL;
}

static void *send_answers(void *opaque)
{
    for (unsigned i = 0; i < ANSWERS; i++) {
        struct iovec iov = {&i, sizeof(i)};

        assert_int_equal(tls_writev(opaque, &iov, 1), sizeof(i));
    }
    return NULL;
}

static void *take_answers(void *opaque)
{
    for (unsigned i = 0, got; i < ANSWERS; i++) {
        assert_int_equal(tls_read(opaque, &got, sizeof(got)), sizeof(got));
        assert_int_equal(got, i);
    }
    return NULL;
}

static void both_ways_at_once_and_new_keys(void **state)
{
    static uint8_t data[CHUNK];
    pthread_t threads[3];
    int fds[2];

    (void)state;
    load("IP:10.0.0.2");
    assert_int_equal(shake_hands("10.0.0.2", ""), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    for (unsigned i = 0; i < CHUNK; i++)
        pattern[i] = (uint8_t)(i ^ i >> 8 ^ i >> 13);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(tls_use_socket(ends[i], fds[i]), 0);
    pthread_create(&threads[0], NULL, send_much, ends[0]);
    pthread_create(&threads[1], NULL, take_answers, ends[0]);
    pthread_create(&threads[2], NULL, send_answers, ends[1]);
    for (unsigned i = 0, number; i < CHUNKS; i++) {
        for (size_t at = 0; at < CHUNK;) {
            ssize_t got = tls_read(ends[1], data + at, CHUNK - at);

            assert_true(got > 0);
            at += (size_t)got;
        }
        memcpy(&number, data, sizeof(number));
        assert_int_equal(number, i);
        assert_memory_equal(data + sizeof(number), pattern + sizeof(number),
                            CHUNK - sizeof(number));
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    shutdown(fds[0], SHUT_RDWR);
    assert_int_equal(tls_read(ends[1], data, 1), 0);
    hang_up();
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_wanted),
        cmocka_unit_test(a_server_is_who_it_says),
        cmocka_unit_test(a_name_goes_into_tickets),
        cmocka_unit_test(only_some_clients_are_allowed),
        cmocka_unit_test(says_which_file_is_wrong),
        cmocka_unit_test(a_key_is_its_certificates),
        cmocka_unit_test(no_password_is_asked_for),
        cmocka_unit_test(talks_in_memory),
        cmocka_unit_test(both_ways_at_once_and_new_keys),
    };

    return cmocka_run_group_tests_name("tls", tests, set_up, tear_down);
}
