#ifndef API_ERROR_RPC_H
#define API_ERROR_RPC_H

#include "api/error.h"
#include "base/buf.h"

/* Errors as RPC clients read them: details are typed protobuf messages, ours
 * being tscaf.v1.ErrorDetail. Errors: those of ut_buf_add. Thread: any. */

/* Appends {"code","message","details":[{"type","value","debug"}]}: Connect's,
 * its debug being the detail as REST has it. */
UT_MUSTUSE enum ut_err api_error_connect(struct ut_buf *b,
                                         const struct api_error *err,
                                         struct ut_error *e);

/* Appends a google.rpc.Status in base64: the value of
 * grpc-status-details-bin. */
UT_MUSTUSE enum ut_err api_error_status(struct ut_buf *b,
                                        const struct api_error *err,
                                        struct ut_error *e);

#endif
