#ifndef SERVER_HANDLERS_H
#define SERVER_HANDLERS_H

#include "server/calls/call.h"

/* Every method's handler, whatever transport carries the call. Each is
 * started on the loop, must not block it, and ends the call exactly once, on
 * the loop, by c->reply or c->fail. c->request is the method's request
 * message of api/tscaf.proto. */

/* handle_monitor.c */
void srv_handle_analyze(struct srv_call *c);
void srv_handle_embed(struct srv_call *c);
void srv_handle_verify(struct srv_call *c);
void srv_handle_search(struct srv_call *c);

/* handle_explain.c */
void srv_handle_explain(struct srv_call *c);

/* handle_identities.c; faces in handle_faces.c */
void srv_handle_create_identity(struct srv_call *c);
void srv_handle_list_identities(struct srv_call *c);
void srv_handle_get_identity(struct srv_call *c);
void srv_handle_update_identity(struct srv_call *c);
void srv_handle_delete_identity(struct srv_call *c);
void srv_handle_enroll_face(struct srv_call *c);
void srv_handle_list_faces(struct srv_call *c);
void srv_handle_delete_face(struct srv_call *c);
void srv_handle_get_face_crop(struct srv_call *c);

/* handle_models.c */
void srv_handle_list_models(struct srv_call *c);
void srv_handle_get_model(struct srv_call *c);
void srv_handle_activate_model(struct srv_call *c);
void srv_handle_rollback_model(struct srv_call *c);
void srv_handle_list_reenrolment(struct srv_call *c);
void srv_handle_delete_model(struct srv_call *c);

/* handle_datasets.c */
void srv_handle_create_dataset(struct srv_call *c);
void srv_handle_upload_dataset(struct srv_call *c);
void srv_handle_add_sample(struct srv_call *c);
void srv_handle_list_samples(struct srv_call *c);
void srv_handle_list_datasets(struct srv_call *c);
void srv_handle_get_dataset(struct srv_call *c);
void srv_handle_delete_dataset(struct srv_call *c);

/* handle_jobs.c */
void srv_handle_create_job(struct srv_call *c);
void srv_handle_list_jobs(struct srv_call *c);
void srv_handle_get_job(struct srv_call *c);
void srv_handle_cancel_job(struct srv_call *c);
void srv_handle_pause_job(struct srv_call *c);
void srv_handle_resume_job(struct srv_call *c);
void srv_handle_compare_job(struct srv_call *c);
void srv_handle_delete_job(struct srv_call *c);
void srv_handle_get_job_losses(struct srv_call *c);
void srv_handle_watch_job(struct srv_call *c); /* streams */

/* handle_inference.c: the Open Inference Protocol, of api/oip/inference.proto
 */
void srv_handle_server_live(struct srv_call *c);
void srv_handle_server_ready(struct srv_call *c);
void srv_handle_server_metadata(struct srv_call *c);
void srv_handle_model_ready(struct srv_call *c);
void srv_handle_model_metadata(struct srv_call *c);
void srv_handle_model_statistics(struct srv_call *c);
void srv_handle_model_infer(struct srv_call *c);
void srv_handle_repository_index(struct srv_call *c); /* handle_models.c */
void srv_handle_repository_model_load(struct srv_call *c);
void srv_handle_repository_model_unload(struct srv_call *c);

/* handle_health.c: gRPC's health checking, of api/health/health.proto */
void srv_handle_health_check(struct srv_call *c);
void srv_handle_health_watch(struct srv_call *c); /* streams */

/* handle_reflection.c: gRPC's server reflection, of
 * api/reflection/reflection.proto */
void srv_handle_reflection(struct srv_call *c);

/* handle_admin.c */
void srv_handle_create_key(struct srv_call *c);
void srv_handle_list_keys(struct srv_call *c);
void srv_handle_delete_key(struct srv_call *c);
void srv_handle_list_audit(struct srv_call *c);

#endif
