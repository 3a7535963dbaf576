#ifndef SERVER_DEVICES_H
#define SERVER_DEVICES_H

#include "base/buf.h"
#include "server/inference/engine.h"
#include "server/inference/gallery.h"

/* What the devices of the model that answers say of themselves. Nothing where
 * the model runs on the processor. */

/* Whether batches run on all of them: a device whose last
 * SRV_DEVICE_FAILURES batches failed has not come back from an error that
 * stayed, and takes ever more batches, since they fail at once. Else why. */
#define SRV_DEVICE_FAILURES 16
bool srv_devices_well(const struct srv_engine *en, struct ut_error *why);
/* As Prometheus's series, tscaf_device_*. Errors: those of ut_buf_addf. */
UT_MUSTUSE enum ut_err srv_devices_metrics(const struct srv_engine *en,
                                           struct ut_buf *out,
                                           struct ut_error *e);
/* tscaf_gallery_*: how its searches were answered, also by the processor. */
UT_MUSTUSE enum ut_err srv_devices_gallery(struct srv_gallery *g,
                                           struct ut_buf *out,
                                           struct ut_error *e);
/* ,"devices":[{"device":0,...},...] */
UT_MUSTUSE enum ut_err srv_devices_json(const struct srv_engine *en,
                                        struct ut_buf *out, struct ut_error *e);

#endif
