#ifndef SERVER_ANSWER_H
#define SERVER_ANSWER_H

#include "api/tscaf.pb-c.h"
#include "server/calls/call.h"
#include "server/inference/faces.h"
#include "server/store/store.h"

/* What several handlers say alike: model, face, identity. Thread: the loop.
 * Messages made here view the job's memory and live no longer; sub-messages
 * are the caller's storage. */

/* Everything one Face message points to. */
struct srv_answer_face {
    Tscaf__V1__Face face;
    Tscaf__V1__Box box;
    Tscaf__V1__Point points[5];
    Tscaf__V1__Point *point_list[5];
    char *reasons[8];
    Tscaf__V1__Fatigue fatigue;
    Tscaf__V1__Identity identity;
    Tscaf__V1__Match *matches;     /* owned; [n_matches] */
    Tscaf__V1__Match **match_list; /* owned */
    uint8_t *crop;                 /* owned; PNG */
    Tscaf__V1__Attention attention[SRV_LEAVES];
    Tscaf__V1__Attention *attention_list[SRV_LEAVES];
};

struct srv_answer_options {
    unsigned tasks; /* SRV_TASK_ bits */
    float fatigue_threshold, identity_threshold;
    bool landmarks, crop;
    bool embedding; /* there is one: recognition was among the job's tasks */
    int top_k;      /* matches shown; one more may be there for the verdict */
};

/* Fills *a from x. Errors: UT_ENOMEM. *a needs fini either way. */
UT_MUSTUSE enum ut_err srv_answer_face(const struct srv_engine *en,
                                       const struct srv_faces_face *x,
                                       const struct srv_answer_options *o,
                                       struct srv_answer_face *a,
                                       struct ut_error *e);
void srv_answer_face_fini(struct srv_answer_face *a);

enum srv_input srv_answer_input(Tscaf__V1__InputKind asked);

void srv_answer_model(const struct srv_engine *en, Tscaf__V1__ModelRef *out);

/* Names of a quality bit set into list [8]; how many. */
size_t srv_answer_quality(unsigned bits, char **list);

/* The model's thresholds, or the request's where it gives one above 0. */
float srv_answer_fatigue_threshold(const struct srv_engine *en, float asked);
float srv_answer_identity_threshold(const struct srv_engine *en, float asked);

/* Replies to c with faces as a ListFacesResponse. */
void srv_answer_faces(struct srv_call *c, const struct srv_face *faces,
                      size_t n);

/* Fails c for want of exactly one face, or returns true. field: "image". */
bool srv_answer_one_face(struct srv_call *c, const struct srv_faces_frame *f,
                         const char *field);

/* Fails c by an internal error, which is told in its terms. */
void srv_answer_fail(struct srv_call *c, const struct ut_error *e);

/* Fails c for a wrong field. */
void srv_answer_invalid(struct srv_call *c, const char *field,
                        const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
