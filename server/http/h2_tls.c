/* GnuTLS in memory: it pulls from what the socket brought and pushes into a
 * buffer, so that it never waits. */
#include "server/http/h2_tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RECORD (16 * 1024)
#define MAX_SEALED (256 * 1024) /* bytes that wait for the socket */
/* What RFC 9113 leaves of TLS 1.2: no renegotiation, no compression (GnuTLS
 * has neither here), ephemeral keys, authenticated encryption. */
#define PRIORITY                                                               \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-ECDSA:"         \
    "+ECDHE-RSA:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:"     \
    "-MAC-ALL:+AEAD:%SERVER_PRECEDENCE"

struct h2_tls {
    gnutls_certificate_credentials_t credentials;
    gnutls_priority_t priority;
    uint8_t plain[MAX_RECORD]; /* what was opened: consumed at once */
};

struct h2_tls_conn {
    struct h2_tls *tls;
    gnutls_session_t session;
    const char *in; /* [in_len], during h2_tls_in */
    size_t in_len;
    struct ut_buf sealed;
    bool ready, said_bye;
};

/* ---- The listener's ---- */

/* Names the file that is at fault: GnuTLS reads both at once. */
static enum ut_err check_files(const char *cert, const char *key,
                               struct ut_error *e)
{
    const char *const paths[] = {cert, key};

    for (int i = 0; i < 2; i++) {
        gnutls_datum_t text;
        int rc = gnutls_load_file(paths[i], &text);

        if (rc)
            return ut_fail(e, UT_EIO, "%s: cannot be read", paths[i]);
        gnutls_memset(text.data, 0, text.size);
        gnutls_free(text.data);
    }
    return UT_OK;
}

enum ut_err h2_tls_new(const char *cert, const char *key, struct h2_tls **out,
                       struct ut_error *e)
{
    enum ut_err rc = check_files(cert, key, e);
    struct h2_tls *t;
    int no;

    *out = NULL;
    if (rc)
        return rc;
    t = calloc(1, sizeof(*t));
    if (!t || gnutls_certificate_allocate_credentials(&t->credentials)) {
        h2_tls_free(t);
        return ut_fail(e, UT_ENOMEM, "no memory for TLS");
    }
    no = gnutls_certificate_set_x509_key_file(t->credentials, cert, key,
                                              GNUTLS_X509_FMT_PEM);
    if (no >= 0)
        no = gnutls_priority_init(&t->priority, PRIORITY, NULL);
    if (no < 0) {
        h2_tls_free(t);
        return ut_fail(e, UT_EFORMAT, "%s with the key %s: %s", cert, key,
                       gnutls_strerror(no));
    }
    *out = t;
    return UT_OK;
}

void h2_tls_free(struct h2_tls *t)
{
    if (!t)
        return;
    if (t->credentials)
        gnutls_certificate_free_credentials(t->credentials);
    if (t->priority)
        gnutls_priority_deinit(t->priority);
    free(t);
}

/* ---- A connection's ---- */

static ssize_t on_pull(gnutls_transport_ptr_t arg, void *out, size_t max)
{
    struct h2_tls_conn *c = arg;
    size_t n = c->in_len < max ? c->in_len : max;

    if (!n) {
        gnutls_transport_set_errno(c->session, EAGAIN);
        return -1;
    }
    memcpy(out, c->in, n);
    c->in += n;
    c->in_len -= n;
    return (ssize_t)n;
}

static ssize_t on_push(gnutls_transport_ptr_t arg, const void *data, size_t n)
{
    struct h2_tls_conn *c = arg;
    struct ut_error e;

    if (!ut_buf_add(&c->sealed, data, n, &e))
        return (ssize_t)n;
    gnutls_transport_set_errno(c->session, ENOMEM);
    return -1;
}

struct h2_tls_conn *h2_tls_open(struct h2_tls *t)
{
    static const gnutls_datum_t h2 = {(unsigned char *)(uintptr_t) "h2", 2};
    struct h2_tls_conn *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->tls = t;
    ut_buf_init(&c->sealed, MAX_SEALED);
    if (gnutls_init(&c->session, GNUTLS_SERVER | GNUTLS_NONBLOCK) ||
        gnutls_priority_set(c->session, t->priority) ||
        gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE,
                               t->credentials) ||
        gnutls_alpn_set_protocols(c->session, &h2, 1, GNUTLS_ALPN_MANDATORY)) {
        h2_tls_close(c);
        return NULL;
    }
    gnutls_transport_set_ptr(c->session, c);
    gnutls_transport_set_pull_function(c->session, on_pull);
    gnutls_transport_set_push_function(c->session, on_push);
    return c;
}

void h2_tls_close(struct h2_tls_conn *c)
{
    if (!c)
        return;
    if (c->session)
        gnutls_deinit(c->session);
    ut_buf_fini(&c->sealed);
    free(c);
}

bool h2_tls_ready(const struct h2_tls_conn *c)
{
    return c->ready;
}

/* ---- In ---- */

static enum ut_err failed(struct h2_tls_conn *c, ssize_t why,
                          struct ut_error *e)
{
    gnutls_alert_send_appropriate(c->session, (int)why);
    return ut_fail(e, UT_EIO, "TLS: %s", gnutls_strerror((int)why));
}

static enum ut_err shake(struct h2_tls_conn *c, struct ut_error *e)
{
    gnutls_datum_t chosen;
    int rc;

    do {
        rc = gnutls_handshake(c->session);
    } while (rc == GNUTLS_E_INTERRUPTED ||
             rc == GNUTLS_E_WARNING_ALERT_RECEIVED);
    if (rc == GNUTLS_E_AGAIN)
        return UT_OK;
    if (rc)
        return failed(c, rc, e);
    /* One that names protocols without h2 is refused by the library. */
    if (gnutls_alpn_get_selected_protocol(c->session, &chosen)) {
        gnutls_alert_send(c->session, GNUTLS_AL_FATAL,
                          GNUTLS_A_NO_APPLICATION_PROTOCOL);
        return ut_fail(e, UT_EIO, "TLS: the client does not ask for h2 (ALPN)");
    }
    c->ready = true;
    return UT_OK;
}

enum ut_err h2_tls_in(struct h2_tls_conn *c, const char *bytes, size_t len,
                      ssize_t (*plain)(void *arg, const uint8_t *data,
                                       size_t len),
                      void *arg, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    c->in = bytes;
    c->in_len = len;
    if (!c->ready)
        rc = shake(c, e);
    while (!rc && c->ready) {
        ssize_t n = gnutls_record_recv(c->session, c->tls->plain, MAX_RECORD);

        if (n == GNUTLS_E_AGAIN)
            break;
        if (n == GNUTLS_E_INTERRUPTED)
            continue;
        if (n == 0)
            rc = ut_fail(e, UT_EIO, "TLS: the client has ended it");
        else if (n < 0)
            rc = failed(c, n, e);
        else if (plain(arg, c->tls->plain, (size_t)n) < 0)
            rc = ut_fail(e, UT_EIO, "what it says is no HTTP/2");
    }
    c->in = NULL;
    c->in_len = 0;
    return rc;
}

/* ---- Out ---- */

bool h2_tls_out(struct h2_tls_conn *c, struct ut_buf *b)
{
    struct ut_buf sealed;

    for (size_t at = 0; at < b->len;) {
        ssize_t n = gnutls_record_send(c->session, b->data + at, b->len - at);

        if (n > 0)
            at += (size_t)n;
        else if (n != GNUTLS_E_INTERRUPTED)
            return false;
    }
    b->len = 0;
    sealed = c->sealed;
    c->sealed = *b;
    c->sealed.limit = sealed.limit;
    sealed.limit = b->limit;
    *b = sealed;
    return true;
}

void h2_tls_bye(struct h2_tls_conn *c)
{
    if (c->ready && !c->said_bye)
        gnutls_bye(c->session, GNUTLS_SHUT_WR);
    c->said_bye = true;
}
