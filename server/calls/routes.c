/* Every method of the server: its path over REST, its name over RPC. */
#include "api/health/health.pb-c.h"
#include "api/oip/inference.pb-c.h"
#include "api/reflection/reflection.pb-c.h"
#include "api/tscaf.pb-c.h"
#include "server/calls/dispatch.h"
#include "server/methods/handlers.h"
#include "server/ops.h"

#define CALL(m, p, who, message, fn, code, service, name)                      \
    {                                                                          \
        .method = m, .path = p, .role = SRV_ROLE_##who,                        \
        .request = &tscaf__v1__##message##__descriptor,                        \
        .handler = srv_handle_##fn, .status = code,                            \
        .rpc = "tscaf.v1." #service "/" #name                                  \
    }
#define STREAM(m, p, who, message, fn, code, service, name)                    \
    {                                                                          \
        .method = m, .path = p, .role = SRV_ROLE_##who,                        \
        .request = &tscaf__v1__##message##__descriptor,                        \
        .handler = srv_handle_##fn, .status = code,                            \
        .rpc = "tscaf.v1." #service "/" #name, .streams = true                 \
    }
#define DUPLEX(who, message, fn, service, name)                                \
    {                                                                          \
        .method = "POST", .role = SRV_ROLE_##who,                              \
        .request = &tscaf__v1__##message##__descriptor,                        \
        .handler = srv_handle_##fn, .status = 200,                             \
        .rpc = "tscaf.v1." #service "/" #name, .streams = true, .duplex = true \
    }
#define OIP(m, p, who, fn, name)                                               \
    {                                                                          \
        .method = m, .path = p, .role = SRV_ROLE_##who,                        \
        .request = &inference__##fn##_request__descriptor,                     \
        .handler = srv_handle_##fn, .status = 200, .rpc = name                 \
    }
#define HEALTH(fn, name, is_stream)                                            \
    {                                                                          \
        .method = "GET", .role = SRV_ROLE_NONE, .status = 200,                 \
        .request = &grpc__health__v1__health_check_request__descriptor,        \
        .handler = srv_handle_##fn, .rpc = "grpc.health.v1.Health/" name,      \
        .streams = is_stream, .early = true                                    \
    }
#define REFLECTION(version)                                                    \
    {                                                                          \
        .method = "POST", .role = SRV_ROLE_ANALYZE, .status = 200,             \
        .request =                                                             \
            &grpc__reflection__v1__server_reflection_request__descriptor,      \
        .handler = srv_handle_reflection, .streams = true, .duplex = true,     \
        .early = true,                                                         \
        .rpc = "grpc.reflection." version                                      \
               ".ServerReflection/ServerReflectionInfo"                        \
    }
#define PLAIN(p, who, fn)                                                      \
    {                                                                          \
        .method = "GET", .path = p, .role = SRV_ROLE_##who,                    \
        .request = &tscaf__v1__empty__descriptor, .plain = srv_ops_##fn        \
    }

#define IDENTITIES "/v1/identities"
#define FACES IDENTITIES "/{identity_id}/faces"
#define MODELS "/v1/models"
#define DATASETS "/v1/datasets"
#define JOBS "/v1/jobs"
#define OIP_MODEL "/v2/models/{name}"
#define OIP_VERSION OIP_MODEL "/versions/{version}"
#define OIP_INFER "/v2/models/{model_name}"
#define OIP_REPOSITORY "/v2/repository/models/{model_name}"
#define RPC(name) "inference.GRPCInferenceService/" #name

/* clang-format off */
const struct srv_route srv_routes[] = {
    PLAIN("/livez", NONE, health),
    PLAIN("/healthz", NONE, health),
    PLAIN("/readyz", NONE, ready),
    PLAIN("/metrics", ANALYZE, metrics),

    CALL("POST", "/v1/analyze", ANALYZE, analyze_request, analyze, 200, DriverMonitor, Analyze),
    DUPLEX(ANALYZE, analyze_request, analyze, DriverMonitor, AnalyzeStream),
    CALL("POST", "/v1/embed", ANALYZE, embed_request, embed, 200, DriverMonitor, Embed),
    CALL("POST", "/v1/verify", ANALYZE, verify_request, verify, 200, DriverMonitor, Verify),
    CALL("POST", "/v1/search", ANALYZE, search_request, search, 200, DriverMonitor, Search),
    CALL("POST", "/v1/explain", ANALYZE, explain_request, explain, 200, DriverMonitor, Explain),
    CALL("GET", MODELS, ANALYZE, list_models_request, list_models, 200, Models, ListModels),

    CALL("POST", IDENTITIES, ENROLL, create_identity_request, create_identity, 201, Identities, CreateIdentity),
    CALL("GET", IDENTITIES, ENROLL, list_identities_request, list_identities, 200, Identities, ListIdentities),
    CALL("GET", IDENTITIES "/{id}", ENROLL, identity_ref, get_identity, 200, Identities, GetIdentity),
    CALL("PATCH", IDENTITIES "/{id}", ENROLL, update_identity_request, update_identity, 200, Identities, UpdateIdentity),
    CALL("DELETE", IDENTITIES "/{id}", ENROLL, identity_ref, delete_identity, 204, Identities, DeleteIdentity),
    CALL("POST", FACES, ENROLL, enroll_face_request, enroll_face, 201, Identities, EnrollFace),
    CALL("GET", FACES, ENROLL, list_faces_request, list_faces, 200, Identities, ListFaces),
    CALL("DELETE", FACES "/{face_id}", ENROLL, face_ref, delete_face, 204, Identities, DeleteFace),
    CALL("GET", FACES "/{face_id}/crop", ENROLL, face_ref, get_face_crop, 200, Identities, GetFaceCrop),

    CALL("POST", MODELS "/rollback", ADMIN, rollback_model_request, rollback_model, 200, Models, RollbackModel),
    CALL("GET", MODELS "/{version}", ANALYZE, model_version_ref, get_model, 200, Models, GetModel),
    CALL("POST", MODELS "/{version}/activate", ADMIN, activate_model_request, activate_model, 202, Models, ActivateModel),
    CALL("GET", MODELS "/{version}/reenrolment", ENROLL, model_version_ref, list_reenrolment, 200, Models, ListReenrolment),
    CALL("DELETE", MODELS "/{version}", ADMIN, model_version_ref, delete_model, 204, Models, DeleteModel),

    CALL("POST", DATASETS, ADMIN, create_dataset_request, create_dataset, 201, Datasets, CreateDataset),
    CALL("GET", DATASETS, ADMIN, list_datasets_request, list_datasets, 200, Datasets, ListDatasets),
    CALL("GET", DATASETS "/{id}", ADMIN, dataset_ref, get_dataset, 200, Datasets, GetDataset),
    CALL("DELETE", DATASETS "/{id}", ADMIN, dataset_ref, delete_dataset, 204, Datasets, DeleteDataset),
    CALL("POST", DATASETS "/{id}/archive", ADMIN, upload_dataset_request, upload_dataset, 200, Datasets, UploadDataset),
    CALL("POST", DATASETS "/{id}/samples", ADMIN, add_sample_request, add_sample, 201, Datasets, AddSample),
    CALL("GET", DATASETS "/{id}/samples", ADMIN, list_samples_request, list_samples, 200, Datasets, ListSamples),

    CALL("POST", JOBS, ADMIN, create_job_request, create_job, 202, Jobs, CreateJob),
    CALL("GET", JOBS, ADMIN, list_jobs_request, list_jobs, 200, Jobs, ListJobs),
    CALL("GET", JOBS "/{id}", ADMIN, job_ref, get_job, 200, Jobs, GetJob),
    CALL("DELETE", JOBS "/{id}", ADMIN, job_ref, delete_job, 204, Jobs, DeleteJob),
    CALL("POST", JOBS "/{id}/cancel", ADMIN, job_ref, cancel_job, 200, Jobs, CancelJob),
    CALL("POST", JOBS "/{id}/pause", ADMIN, job_ref, pause_job, 200, Jobs, PauseJob),
    CALL("POST", JOBS "/{id}/resume", ADMIN, job_ref, resume_job, 200, Jobs, ResumeJob),
    CALL("POST", JOBS "/{id}/compare", ADMIN, job_ref, compare_job, 202, Jobs, CompareJob),
    CALL("GET", JOBS "/{id}/losses", ADMIN, job_ref, get_job_losses, 200, Jobs, GetJobLosses),
    STREAM("GET", JOBS "/{id}/events", ADMIN, job_ref, watch_job, 200, Jobs, WatchJob),

    CALL("POST", "/v1/keys", ADMIN, create_key_request, create_key, 201, Admin, CreateKey),
    CALL("GET", "/v1/keys", ADMIN, list_keys_request, list_keys, 200, Admin, ListKeys),
    CALL("DELETE", "/v1/keys/{id}", ADMIN, key_ref, delete_key, 204, Admin, DeleteKey),
    CALL("GET", "/v1/audit", ADMIN, list_audit_request, list_audit, 200, Admin, ListAudit),

    HEALTH(health_check, "Check", false),
    HEALTH(health_watch, "Watch", true),

    REFLECTION("v1"),
    REFLECTION("v1alpha"), /* the same messages */

    PLAIN("/v2/health/live", NONE, live),
    OIP("GET", NULL, NONE, server_live, RPC(ServerLive)),
    OIP("GET", "/v2/health/ready", NONE, server_ready, RPC(ServerReady)),
    OIP("GET", "/v2", ANALYZE, server_metadata, RPC(ServerMetadata)),
    OIP("GET", "/v2/models/stats", ANALYZE, model_statistics, NULL),
    OIP("GET", OIP_MODEL, ANALYZE, model_metadata, RPC(ModelMetadata)),
    OIP("GET", OIP_VERSION, ANALYZE, model_metadata, NULL),
    OIP("GET", OIP_MODEL "/ready", ANALYZE, model_ready, RPC(ModelReady)),
    OIP("GET", OIP_VERSION "/ready", ANALYZE, model_ready, NULL),
    OIP("GET", OIP_MODEL "/stats", ANALYZE, model_statistics, RPC(ModelStatistics)),
    OIP("GET", OIP_VERSION "/stats", ANALYZE, model_statistics, NULL),
    OIP("POST", OIP_INFER "/infer", ANALYZE, model_infer, RPC(ModelInfer)),
    OIP("POST", OIP_INFER "/versions/{model_version}/infer", ANALYZE, model_infer, NULL),
    OIP("POST", "/v2/repository/index", ANALYZE, repository_index, RPC(RepositoryIndex)),
    OIP("POST", OIP_REPOSITORY "/load", ADMIN, repository_model_load, RPC(RepositoryModelLoad)),
    OIP("POST", OIP_REPOSITORY "/unload", ADMIN, repository_model_unload, RPC(RepositoryModelUnload)),
};
/* clang-format on */
const int srv_n_routes = sizeof(srv_routes) / sizeof(srv_routes[0]);
