/* A model that was made elsewhere: trained by the tool, grafted, calibrated. */
#include "server/add_model.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/tscaf.pb-c.h"
#include "base/file.h"
#include "server/calls/message.h"
#include "server/inference/generations.h"
#include "server/store/store.h"

/* Unless it is there; its record may be there without it: made by another
 * server, or the file was deleted. */
static enum ut_err put_file(const struct srv_config *c, const char *version,
                            struct ut_error *e)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%.4000s/models", c->data);
    if (mkdir(path, 0700) && errno != EEXIST)
        return ut_fail(e, UT_EIO, "%.150s: %m", path);
    srv_model_path(c->data, version, path);
    return access(path, R_OK) ? ut_file_copy(c->add_model, path, e) : UT_OK;
}

static enum ut_err put_record(struct srv_store *store,
                              const struct mdl_model *m, struct ut_error *e)
{
    Tscaf__V1__ModelInfo info;
    Tscaf__V1__ModelRef ref;
    const struct srv_record record = {SRV_TABLE_MODEL, m->version, &info.base};
    char *at = NULL;
    enum ut_err rc = srv_candidate_info(m, &info, &ref, e);

    if (rc)
        return rc;
    info.reason = (char *)(uintptr_t) "it was added by hand, and nothing here "
                                      "has measured it";
    if (srv_message_set_now(&at)) {
        info.created_at = at;
        rc = srv_store_put(store, "local", "model.create", m->version, &record,
                           1, e);
    } else {
        rc = ut_fail(e, UT_ENOMEM, "no memory for a model's record");
    }
    free(at);
    free(info.spec);
    return rc;
}

enum ut_err srv_add_model(const struct srv_config *c, char version[17],
                          struct ut_error *e)
{
    struct srv_store *store = NULL;
    ProtobufCMessage *known;
    struct mdl_model m;
    enum ut_err rc = mdl_model_open(c->add_model, &m, e);

    if (rc)
        return rc;
    snprintf(version, 17, "%s", m.version);
    rc = srv_store_open(c->data, c->store, &store, e);
    if (!rc)
        rc = put_file(c, version, e);
    if (!rc) {
        rc = srv_store_get(store, SRV_TABLE_MODEL, version,
                           &tscaf__v1__model_info__descriptor, &known, e);
        if (!rc)
            protobuf_c_message_free_unpacked(known, NULL);
        if (rc == UT_ENOTFOUND)
            rc = put_record(store, &m, e);
    }
    srv_store_close(store);
    mdl_model_close(&m);
    return rc;
}
