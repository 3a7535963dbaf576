/* Who is at this machine. */
#include "server/local.h"

#include <string.h>

#include "server/config.h"

/* A Host's or an Origin's name, with or without a port, is of this machine: a
 * page that had its own name resolve to loopback (DNS rebinding) is not. */
static bool names_loopback(const char *authority)
{
    const char *from = authority + (*authority == '[');
    size_t n = strcspn(from, *authority == '[' ? "]" : ":");
    char host[64];

    if (n >= sizeof(host))
        return false;
    memcpy(host, from, n);
    host[n] = '\0';
    return srv_config_loopback(host);
}

/* What proxies say of whom they ask for. nginx says nothing unless told to, and
 * then names this machine as the Host, but asks over HTTP/1.0 (before 1.29.7),
 * which browsers, curl and clients of today do not. */
static bool is_passed_on(const struct srv_http_exchange *x)
{
    static const char *const fields[] = {
        "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
        "X-Real-IP",       "Forwarded",        "Via"};

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (srv_http_field(x, fields[i]))
            return true;
    return x->http10;
}

/* https://fetch.spec.whatwg.org/#origin-header: with all but plain GETs. */
static bool of_another_page(const struct srv_http_exchange *x, const char *host)
{
    const char *origin = srv_http_field(x, "Origin");
    const char *name = origin ? strstr(origin, "://") : NULL;

    return origin && (!name || strcmp(name + 3, host) != 0);
}

bool srv_local(const struct srv_http_exchange *x)
{
    const char *host = srv_http_field(x, "Host");

    return x->loopback && host && names_loopback(host) &&
           !of_another_page(x, host) && !is_passed_on(x);
}
