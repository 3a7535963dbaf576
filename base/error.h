#ifndef BASE_ERROR_H
#define BASE_ERROR_H

/* Errors. A function either cannot fail, or returns enum ut_err, hands its
 * results out through pointers and takes a struct ut_error *e last. On
 * failure outputs are NULL or untouched. */

enum ut_err {
    UT_OK = 0,
    UT_EINVAL,    /* the caller, or the request, broke the contract     */
    UT_EFORMAT,   /* the bytes are not what they claim to be            */
    UT_ENOMEM,    /* memory could not be had                            */
    UT_EIO,       /* file or socket                                     */
    UT_EBUSY,     /* a limit is reached; trying later may work          */
    UT_EDEVICE,   /* oneDNN, CUDA or cuDNN said no                      */
    UT_ENOTFOUND, /* the named thing does not exist                    */
    UT_EEXISTS,   /* the thing exists already                           */
    UT_ESTATE,    /* the system is not in the state this needs          */
};

struct ut_error {
    enum ut_err code;
    char msg[256]; /* one line: the thing, the value, the limit */
};

#define UT_MUSTUSE __attribute__((warn_unused_result))

/* Records code and text in *e (which may be NULL) and returns code. A text
 * that does not fit is cut. Never allocates. Thread: any. */
enum ut_err ut_fail(struct ut_error *e, enum ut_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The code's name in lower case ("format", "no memory"), for logs. A static
 * string. Thread: any. */
const char *ut_err_name(enum ut_err code);

#endif
