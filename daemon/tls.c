/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "util.h"

#define TLS_RECORD_BYTES ((size_t)SSL3_RT_MAX_PLAIN_LENGTH)
#define TLS_BATCH_BYTES  (256u << 10) /* to and from a socket at once */
/* With a record that is begun before, heads, and what OpenSSL says unasked. */
#define TLS_WIRE_BYTES (TLS_BATCH_BYTES + 2 * TLS_RECORD_BYTES)
/* AES-GCM wants a new key after 2^24.5 records, RFC 8446, 5.5. */
#define TLS_REKEY_BYTES (1ull << 30)

/* What is encrypted, on its way between OpenSSL and a socket. */
struct wire {
    uint8_t *data;     /* TLS_WIRE_BYTES, or NULL: there is no socket yet */
    size_t start, end; /* of what has not been taken out */
};

struct tls {
    SSL *ssl;
    int fd;                          /* the socket, or -1 */
    pthread_mutex_t lock;            /* of ssl; never held while waiting */
    struct wire in, out;             /* outside of it: who reads fills in,
                                      * who writes sends what is in out */
    uint8_t *gather;                 /* short pieces, for one record */
    uint64_t written, rekeyed_bytes; /* on the socket; when it last had a key */
    bool clear;
    char address[INET6_ADDRSTRLEN], name[TLS_NAME_BYTES]; /* of a server */
    char reason[ERROR_TEXT_BYTES];
};

static SSL_CTX *server, *client;
static char **allowed; /* NULL: every client */
static char own_name[TLS_NAME_BYTES];

/* ---- memory ---- */

/* OpenSSL decrypts and encrypts in buffers of its own, each for a record at
 * least: what is as large has pages of its own, which no core holds. */
#define TLS_LARGE_BYTES TLS_RECORD_BYTES

struct allocation {
    _Alignas(16) size_t bytes; /* with this head */
};

static void *tls_alloc(size_t bytes, const char *file, int line)
{
    struct allocation *head;

    (void)file;
    (void)line;
    if (!bytes || bytes > SIZE_MAX - sizeof(*head))
        return NULL;
    bytes += sizeof(*head);
    if (bytes < TLS_LARGE_BYTES) {
        head = malloc(bytes);
        if (!head)
            return NULL;
    } else {
        head = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (head == MAP_FAILED)
            return NULL;
        madvise(head, bytes, MADV_DONTDUMP);
        madvise(head, bytes, MADV_DONTFORK);
    }
    head->bytes = bytes;
    return head + 1;
}

static void tls_release(void *memory, const char *file, int line)
{
    struct allocation *head;

    (void)file;
    (void)line;
    if (!memory)
        return;
    head = (struct allocation *)memory - 1;
    if (head->bytes < TLS_LARGE_BYTES)
        free(head);
    else
        munmap(head, head->bytes);
}

static void *tls_resize(void *memory, size_t bytes, const char *file, int line)
{
    void *other = tls_alloc(bytes, file, line);

    if (memory && (other || !bytes)) {
        size_t had = ((struct allocation *)memory - 1)->bytes -
                     sizeof(struct allocation);

        if (other)
            memcpy(other, memory, MIN(had, bytes));
        tls_release(memory, file, line);
    }
    return other;
}

__attribute__((constructor)) static void tls_own_memory(void)
{
    if (!CRYPTO_set_mem_functions(tls_alloc, tls_resize, tls_release))
        abort();
}

/* ---- who the other side is ---- */

static bool cert_has(X509 *cert, const char *name)
{
    return X509_check_ip_asc(cert, name, 0) == 1 ||
           X509_check_host(cert, name, 0, 0, NULL) == 1;
}

static bool cert_allowed(X509 *cert)
{
    for (char **name = allowed; name && *name; name++) {
        if (cert_has(cert, *name))
            return true;
    }
    return !allowed;
}

/* The first name that a host could be called by. */
static void cert_name(X509 *cert, char *text, size_t size)
{
    GENERAL_NAMES *names =
        X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);

    *text = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && !*text; i++) {
        int kind;
        const ASN1_STRING *value =
            GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &kind);
        size_t bytes = (size_t)ASN1_STRING_length(value);

        if (kind == GEN_DNS && bytes && bytes < size &&
            !memchr(ASN1_STRING_get0_data(value), 0, bytes))
            snprintf(text, size, "%.*s", (int)bytes,
                     ASN1_STRING_get0_data(value));
    }
    GENERAL_NAMES_free(names);
    if (!*text &&
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName,
                                  text, (int)size) < 0)
        *text = 0;
}

/* As a part of OpenSSL's own check, so that the other side gets an alert. */
static int verify(int good, X509_STORE_CTX *store)
{
    SSL *ssl =
        X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct tls *tls = SSL_get_app_data(ssl);
    X509 *cert = X509_STORE_CTX_get_current_cert(store);

    if (!good || X509_STORE_CTX_get_error_depth(store))
        return good;
    if (SSL_is_server(ssl) ? cert_allowed(cert)
                           : cert_has(cert, tls->address) ||
                                 (*tls->name && cert_has(cert, tls->name)))
        return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_HOSTNAME_MISMATCH);
    return 0;
}

/* ---- certificates and keys ---- */

static int file_error(char *error, const char *path)
{
    unsigned long code = ERR_get_error();

    snprintf(error, ERROR_TEXT_BYTES, "%.120s: %s%.100s", path,
             ERR_SYSTEM_ERROR(code) ? "" : "cannot be used: ",
             ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code))
                                    : ERR_reason_error_string(code));
    return -EINVAL;
}

/* For a key that is encrypted: nobody is there to be asked. */
static int no_password(char *text, int size, int writing, void *opaque)
{
    (void)text;
    (void)size;
    (void)writing;
    (void)opaque;
    return -1;
}

static int load_context(SSL_CTX *ctx, const char *ca, const char *cert,
                        const char *key, char *error)
{
    ERR_clear_error();
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                       verify);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    if (SSL_CTX_load_verify_file(ctx, ca) != 1)
        return file_error(error, ca);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return file_error(error, cert);
    /* A key of another kind than the certificate's is only noticed here. */
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
        return file_error(error, key);
    return 0;
}

static void free_allowed(char **names)
{
    for (char **name = names; name && *name; name++)
        free(*name);
    free(names);
}

static char **parse_allowed(const char *text)
{
    AUTO_FREE char *copy = text ? strdup(text) : NULL;
    char **names, *rest;
    size_t count = 0;

    if (!copy)
        return NULL;
    names = xcalloc(strlen(copy) + 1, sizeof(*names));
    for (char *name = strtok_r(copy, ", ", &rest); name;
         name = strtok_r(NULL, ", ", &rest))
        names[count++] = strdup(name);
    return names;
}

int tls_load(const struct tls_files *files, char *error)
{
    SSL_CTX *new_server = SSL_CTX_new(TLS_server_method());
    SSL_CTX *new_client = SSL_CTX_new(TLS_client_method());
    int ret;

    if (!new_server || !new_client)
        abort();
    ret = load_context(new_server, files->ca, files->server_cert,
                       files->server_key, error);
    if (!ret)
        ret = load_context(new_client, files->ca, files->client_cert,
                           files->client_key, error);
    if (ret) {
        SSL_CTX_free(new_server);
        SSL_CTX_free(new_client);
        return ret;
    }
    tls_unload();
    server = new_server;
    client = new_client;
    allowed = parse_allowed(files->allow);
    cert_name(SSL_CTX_get0_certificate(server), own_name, sizeof(own_name));
    return 0;
}

void tls_unload(void)
{
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    server = client = NULL;
    free_allowed(allowed);
    allowed = NULL;
    *own_name = 0;
}

const char *tls_name(void)
{
    return own_name;
}

static bool is_loopback(const struct sockaddr *address)
{
    const struct sockaddr_in6 *in6 = (const void *)address;
    const struct sockaddr_in *in = (const void *)address;

    if (address->sa_family == AF_INET)
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    if (address->sa_family != AF_INET6)
        return false;
    return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) &&
            in6->sin6_addr.s6_addr[12] == 127);
}

bool tls_wanted(enum tls_mode mode, const struct sockaddr *address)
{
    return mode == TLS_ON || (mode == TLS_AUTO && !is_loopback(address));
}

/* ---- a connection ---- */

static struct tls *tls_new(SSL_CTX *ctx)
{
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    struct tls *tls = xcalloc(1, sizeof(*tls));

    tls->fd = -1;
    tls->ssl = SSL_new(ctx);
    if (!tls->ssl || !in || !out || pthread_mutex_init(&tls->lock, NULL))
        abort();
    SSL_set_bio(tls->ssl, in, out);
    SSL_set_app_data(tls->ssl, tls);
    return tls;
}

struct tls *tls_accept(void)
{
    struct tls *tls;

    if (!server)
        return NULL;
    tls = tls_new(server);
    SSL_set_accept_state(tls->ssl);
    return tls;
}

struct tls *tls_connect(const char *address, const char *name)
{
    struct tls *tls;

    if (!client)
        return NULL;
    tls = tls_new(client);
    snprintf(tls->address, sizeof(tls->address), "%s", address);
    snprintf(tls->name, sizeof(tls->name), "%s", name);
    SSL_set_connect_state(tls->ssl);
    return tls;
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    SSL_free(tls->ssl);
    OPENSSL_clear_free(tls->in.data, TLS_WIRE_BYTES);
    OPENSSL_clear_free(tls->out.data, TLS_WIRE_BYTES);
    OPENSSL_clear_free(tls->gather, TLS_RECORD_BYTES);
    pthread_mutex_destroy(&tls->lock);
    free(tls);
}

void tls_link_close(struct tls_link *link)
{
    const struct linger none = {0};

    tls_free(link->tls);
    /* A QEMU that it was lent may have had this wait for its peer. */
    setsockopt(link->fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    if (link->fd >= 0)
        close(link->fd);
    *link = (struct tls_link){-1, NULL};
}

static void tls_say(struct tls *tls, const char *what, const char *detail)
{
    snprintf(tls->reason, sizeof(tls->reason), "%s%.150s", what, detail);
}

static void verify_reason(struct tls *tls)
{
    long verdict = SSL_get_verify_result(tls->ssl);

    if (verdict != X509_V_ERR_HOSTNAME_MISMATCH)
        tls_say(tls, "the peer's certificate is refused: ",
                X509_verify_cert_error_string(verdict));
    else if (SSL_is_server(tls->ssl))
        tls_say(
            tls,
            "the peer's certificate is refused: tls-allow names nobody in it",
            "");
    else
        snprintf(
            tls->reason, sizeof(tls->reason),
            "the peer's certificate is refused: it is for another host than "
            "%s%s%s",
            tls->address, *tls->name ? " or " : "", tls->name);
}

/* What OpenSSL says of a record that is none. */
static bool is_clear(int reason)
{
    return reason == SSL_R_WRONG_VERSION_NUMBER ||
           reason == SSL_R_HTTP_REQUEST ||
           reason == SSL_R_PACKET_LENGTH_TOO_LONG;
}

/* Say in tls->reason what this thread's queue of errors says. */
static int tls_fail(struct tls *tls)
{
    unsigned long code = ERR_peek_error();
    const char *text = ERR_reason_error_string(code);
    int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;

    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
        verify_reason(tls);
    else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        tls_say(tls, "the peer has shown no certificate", "");
    else if (reason == SSL_R_UNSUPPORTED_PROTOCOL ||
             reason == SSL_AD_REASON_OFFSET + SSL_AD_PROTOCOL_VERSION)
        tls_say(tls, "the peer does not speak TLS 1.3", "");
    else if (is_clear(reason) && !SSL_is_init_finished(tls->ssl))
        tls_say(tls, TLS_IS_CLEAR, "");
    else if (reason > SSL_AD_REASON_OFFSET)
        tls_say(tls, "the peer refuses this host's certificate: ",
                SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET));
    else
        tls_say(tls, "TLS: ", text ? text : "failed");
    tls->clear = is_clear(reason) && !SSL_is_init_finished(tls->ssl) &&
                 SSL_is_server(tls->ssl);
    return -EPROTO;
}

/* ---- in the main thread ---- */

static void drain(struct tls *tls, struct evbuffer *out)
{
    BIO *bio = SSL_get_wbio(tls->ssl);
    char *data;
    long bytes = BIO_get_mem_data(bio, &data);

    if (bytes > 0)
        evbuffer_add(out, data, (size_t)bytes);
    (void)BIO_reset(bio);
}

static void fill(struct tls *tls, struct evbuffer *wire)
{
    BIO *bio = SSL_get_rbio(tls->ssl);
    size_t bytes;

    while ((bytes = evbuffer_get_contiguous_space(wire))) {
        BIO_write(bio, evbuffer_pullup(wire, (ssize_t)bytes), (int)bytes);
        evbuffer_drain(wire, bytes);
    }
}

int tls_take(struct tls *tls, struct evbuffer *wire, struct evbuffer *plain,
             struct evbuffer *out)
{
    struct evbuffer_iovec space;
    size_t bytes;
    int ret = 1;

    ERR_clear_error();
    fill(tls, wire);
    if (!SSL_is_init_finished(tls->ssl))
        ret = SSL_do_handshake(tls->ssl);
    while (ret > 0) {
        if (evbuffer_reserve_space(plain, TLS_RECORD_BYTES, &space, 1) != 1)
            abort();
        ret = SSL_read_ex(tls->ssl, space.iov_base, space.iov_len, &bytes);
        if (ret <= 0)
            break;
        space.iov_len = bytes;
        evbuffer_commit_space(plain, &space, 1);
    }
    ret = SSL_get_error(tls->ssl, ret);
    drain(tls, out);
    /* The end of what it says: the end of the connection follows. */
    if (ret == SSL_ERROR_WANT_READ || ret == SSL_ERROR_ZERO_RETURN)
        return 0;
    return tls_fail(tls);
}

int tls_put(struct tls *tls, const void *data, size_t bytes,
            struct evbuffer *out)
{
    size_t done;

    ERR_clear_error();
    if (!SSL_is_init_finished(tls->ssl) ||
        SSL_write_ex(tls->ssl, data, bytes, &done) != 1)
        return -EPROTO;
    drain(tls, out);
    return 0;
}

bool tls_ready(const struct tls *tls)
{
    return SSL_is_init_finished(tls->ssl);
}

bool tls_is_clear(const struct tls *tls)
{
    return tls->clear;
}

bool tls_surplus(const struct tls *tls)
{
    return SSL_has_pending(tls->ssl);
}

const char *tls_reason(const struct tls *tls)
{
    return tls->reason;
}

const char *tls_cipher(const struct tls *tls)
{
    return SSL_get_cipher_name(tls->ssl);
}

/* ---- in the threads of channels ---- */

/* OpenSSL's end of the socket is memory: who has the lock never waits, and a
 * call carries many records. Were OpenSSL itself to read ahead, it would move
 * all that it has to the front of its buffer for each record. */

static int wire_read(BIO *bio, char *data, size_t bytes, size_t *done)
{
    struct wire *in = &((struct tls *)BIO_get_data(bio))->in;

    BIO_clear_retry_flags(bio);
    *done = MIN(bytes, in->end - in->start);
    if (!*done) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(data, in->data + in->start, *done);
    in->start += *done;
    return 1;
}

static int wire_write(BIO *bio, const char *data, size_t bytes, size_t *done)
{
    struct wire *out = &((struct tls *)BIO_get_data(bio))->out;

    if (bytes > TLS_WIRE_BYTES - out->end)
        return 0;
    memcpy(out->data + out->end, data, bytes);
    out->end += bytes;
    *done = bytes;
    return 1;
}

static long wire_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

/* Main thread. */
static BIO *wire_bio(struct tls *tls)
{
    static BIO_METHOD *method;
    BIO *bio;

    if (!method) {
        method =
            BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "wire");
        if (!method || BIO_meth_set_read_ex(method, wire_read) != 1 ||
            BIO_meth_set_write_ex(method, wire_write) != 1 ||
            BIO_meth_set_ctrl(method, wire_control) != 1)
            abort();
    }
    bio = BIO_new(method);
    if (bio) {
        BIO_set_data(bio, tls);
        BIO_set_init(bio, 1);
    }
    return bio;
}

int tls_use_socket(struct tls *tls, int fd)
{
    BIO *bio = wire_bio(tls);

    tls->fd = fd;
    tls->in.data = OPENSSL_malloc(TLS_WIRE_BYTES);
    tls->out.data = OPENSSL_malloc(TLS_WIRE_BYTES);
    tls->gather = OPENSSL_malloc(TLS_RECORD_BYTES);
    if (!bio || !tls->in.data || !tls->out.data || !tls->gather) {
        BIO_free(bio);
        return -ENOMEM;
    }
    SSL_set_bio(tls->ssl, bio, bio);
    return 0;
}

/* Where in what is to be sent. */
struct cursor {
    const struct iovec *iov;
    unsigned count;
    size_t at; /* in *iov */
};

static size_t cursor_left(const struct cursor *cursor)
{
    return cursor->iov->iov_len - cursor->at;
}

static const uint8_t *cursor_pass(struct cursor *cursor, size_t bytes)
{
    const uint8_t *data = (const uint8_t *)cursor->iov->iov_base + cursor->at;

    cursor->at += bytes;
    if (!cursor_left(cursor)) {
        cursor->iov++;
        cursor->count--;
        cursor->at = 0;
    }
    return data;
}

/* The next at most @room bytes as they lie there, or short ones gathered to a
 * record at most. */
static const uint8_t *next_piece(struct tls *tls, struct cursor *from,
                                 size_t room, size_t *bytes)
{
    *bytes = MIN(cursor_left(from), room);
    if (*bytes >= TLS_RECORD_BYTES || from->count == 1)
        return cursor_pass(from, *bytes);
    for (*bytes = 0; from->count && *bytes < TLS_RECORD_BYTES;) {
        size_t part = MIN(cursor_left(from), TLS_RECORD_BYTES - *bytes);

        memcpy(tls->gather + *bytes, cursor_pass(from, part), part);
        *bytes += part;
    }
    return tls->gather;
}

/* Encrypt a batch of @from, or all. With the lock. Return: how many bytes, or
 * -EBADMSG. */
static ssize_t seal(struct tls *tls, struct cursor from)
{
    size_t sealed = 0, bytes, done;

    ERR_clear_error();
    while (from.count && sealed < TLS_BATCH_BYTES) {
        const uint8_t *data =
            next_piece(tls, &from, TLS_BATCH_BYTES - sealed, &bytes);

        if (SSL_write_ex(tls->ssl, data, bytes, &done) != 1)
            return -EBADMSG;
        sealed += bytes;
    }
    if (tls->written + sealed - tls->rekeyed_bytes >= TLS_REKEY_BYTES) {
        SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        tls->rekeyed_bytes = tls->written + sealed;
    }
    tls->written += sealed;
    return (ssize_t)sealed;
}

static int send_all(int fd, const uint8_t *data, size_t bytes)
{
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);

        if (sent < 0 && errno != EINTR)
            return -errno;
        data += MAX(sent, 0);
        bytes -= (size_t)MAX(sent, 0);
    }
    return 0;
}

ssize_t tls_writev(struct tls *tls, const struct iovec *iov, unsigned count)
{
    struct wire *out = &tls->out;
    ssize_t sealed;
    size_t bytes;
    int ret;

    pthread_mutex_lock(&tls->lock);
    sealed = seal(tls, (struct cursor){iov, count, 0});
    bytes = out->end;
    pthread_mutex_unlock(&tls->lock);
    if (sealed < 0)
        return sealed;
    ret = send_all(tls->fd, out->data, bytes);
    /* Who reads may have been answered meanwhile; that goes with the next. */
    pthread_mutex_lock(&tls->lock);
    out->end -= bytes;
    memmove(out->data, out->data + bytes, out->end);
    pthread_mutex_unlock(&tls->lock);
    return ret ? ret : sealed;
}

ssize_t tls_read(struct tls *tls, void *data, size_t bytes)
{
    struct wire *in = &tls->in;
    size_t done;

    for (;;) {
        ssize_t got;
        int ret;

        pthread_mutex_lock(&tls->lock);
        ERR_clear_error();
        ret = SSL_read_ex(tls->ssl, data, bytes, &done);
        ret = SSL_get_error(tls->ssl, ret);
        pthread_mutex_unlock(&tls->lock);
        if (ret == SSL_ERROR_NONE)
            return (ssize_t)done;
        if (ret == SSL_ERROR_ZERO_RETURN)
            return 0;
        if (ret != SSL_ERROR_WANT_READ)
            return -EBADMSG;
        do
            got = recv(tls->fd, in->data, TLS_WIRE_BYTES, 0);
        while (got < 0 && errno == EINTR);
        if (got <= 0)
            return got ? -errno : 0;
        in->start = 0;
        in->end = (size_t)got;
    }
}
