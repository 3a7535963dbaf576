#ifndef TESTS_SUPPORT_SCRIPT_H
#define TESTS_SUPPORT_SCRIPT_H

#include <pthread.h>

/* A server that reads requests and answers as it is told, whatever they say,
 * one connection after another. Anything that fails here fails the test. */

#define SCRIPT_ANSWER(status, more, body)                                      \
    "HTTP/1.1 " status " x\r\nConnection: close\r\n" more "\r\n" body
/* After it the connection waits for another request. */
#define SCRIPT_KEEP_ALIVE "HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\n{}"
/* Closes the connection without a word. */
#define SCRIPT_CLOSE ""

struct script {
    const char *const *answers; /* one a request, NULL-ended; the last one
                                   again and again */
    void (*before)(int n);      /* NULL, or called on the server's thread before
                                   answer n, counted from 0, leaves */
    int listener, port;
    _Atomic int asked; /* requests, up to the last answer */
    int timeout_ms;    /* Connect-Timeout-Ms of the last request */
    pthread_t thread;
};

void script_start(struct script *s, const char *const *answers,
                  void (*before)(int n));
void script_end(struct script *s); /* once its clients have closed */

#endif
