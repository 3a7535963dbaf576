/* Every REST route of the server. */
#include "api/tscaf.pb-c.h"
#include "server/handlers.h"
#include "server/ops.h"
#include "server/rest.h"

#define CALL(m, p, who, message, fn, code)                                     \
    {                                                                          \
        .method = m, .path = p, .role = SRV_ROLE_##who,                        \
        .request = &tscaf__v1__##message##__descriptor,                        \
        .handler = srv_handle_##fn, .status = code                             \
    }
#define PLAIN(p, who, fn)                                                      \
    {                                                                          \
        .method = "GET", .path = p, .role = SRV_ROLE_##who,                    \
        .request = &tscaf__v1__empty__descriptor, .plain = srv_ops_##fn        \
    }

#define IDENTITIES "/v1/identities"
#define FACES IDENTITIES "/{identity_id}/faces"

/* clang-format off */
const struct srv_route srv_routes[] = {
    PLAIN("/livez", NONE, health),
    PLAIN("/healthz", NONE, health),
    PLAIN("/readyz", NONE, ready),
    PLAIN("/metrics", ANALYZE, metrics),

    CALL("POST", "/v1/analyze", ANALYZE, analyze_request, analyze, 200),
    CALL("POST", "/v1/verify", ANALYZE, verify_request, verify, 200),
    CALL("POST", "/v1/search", ANALYZE, search_request, search, 200),
    CALL("GET", "/v1/models", ANALYZE, list_models_request, list_models, 200),

    CALL("POST", IDENTITIES, ENROLL, create_identity_request, create_identity, 201),
    CALL("GET", IDENTITIES, ENROLL, list_identities_request, list_identities, 200),
    CALL("GET", IDENTITIES "/{id}", ENROLL, identity_ref, get_identity, 200),
    CALL("PATCH", IDENTITIES "/{id}", ENROLL, update_identity_request, update_identity, 200),
    CALL("DELETE", IDENTITIES "/{id}", ENROLL, identity_ref, delete_identity, 204),
    CALL("POST", FACES, ENROLL, enroll_face_request, enroll_face, 201),
    CALL("GET", FACES, ENROLL, list_faces_request, list_faces, 200),
    CALL("DELETE", FACES "/{face_id}", ENROLL, face_ref, delete_face, 204),
    CALL("GET", FACES "/{face_id}/crop", ENROLL, face_ref, get_face_crop, 200),

    CALL("POST", "/v1/keys", ADMIN, create_key_request, create_key, 201),
    CALL("GET", "/v1/keys", ADMIN, list_keys_request, list_keys, 200),
    CALL("DELETE", "/v1/keys/{id}", ADMIN, key_ref, delete_key, 204),
    CALL("GET", "/v1/audit", ADMIN, list_audit_request, list_audit, 200),
};
/* clang-format on */
const int srv_n_routes = sizeof(srv_routes) / sizeof(srv_routes[0]);
