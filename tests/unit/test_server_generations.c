/* Which model answers at the start, how long one lives, what a job starts from,
 * and galleries that change together. */
#include "server/inference/generations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "model/model.h"
#include "model/vision/face.h"
#include "model/vision/image.h"
#include "server/app.h"
#include "server/inference/engine.h"
#include "tests/support/unit.h"
#include "tests/unit/hold.h"

#define STATE(x) TSCAF__V1__MODEL_STATE__MODEL_STATE_##x
#define DIM 16
#define MODELS 4

static const char spec_text[] =
    "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"mobilenetv2\","
    "\"width\":0.1,\"children\":[{\"name\":\"fatigue\",\"module\":\"none\","
    "\"head\":\"binary\"},{\"name\":\"recognition\",\"module\":\"none\","
    "\"head\":\"embedding\",\"dim\":16}]}]}";

/* A data folder with its store, and model files beside it. */
static struct srv_app app;
static struct srv_config config;
static char dir[64], data[80], files[MODELS][96], versions[MODELS][17];
static uint8_t *crop_png; /* of every stored face */
static size_t crop_len;

static void write_model(const char *text, uint64_t seed, const char *path,
                        const struct mdl_st_pair *meta, size_t n_meta)
{
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_model m;
    struct ut_error e;

    assert_non_null(spec);
    assert_int_equal(mdl_spec_parse(text, strlen(text), spec, &e), UT_OK);
    assert_int_equal(mdl_model_fresh(spec, seed, &m, &e), UT_OK);
    assert_int_equal(
        mdl_model_write(path, spec, &m.graph, meta, n_meta, NULL, 0, &e),
        UT_OK);
    mdl_model_close(&m);
    free(spec);
}

static void make_model(int i)
{
    struct mdl_model m;
    struct ut_error e;

    snprintf(files[i], sizeof(files[i]), "%s/%d.safetensors", dir, i);
    write_model(spec_text, (uint64_t)i + 1, files[i], NULL, 0);
    assert_int_equal(mdl_model_open(files[i], &m, &e), UT_OK);
    memcpy(versions[i], m.version, sizeof(versions[i]));
    mdl_model_close(&m);
}

static void draw_crop(void)
{
    static uint8_t rgb[MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3];
    const struct mdl_sample_face s = {.eyes = 1, .light = 1};
    struct ut_error e;

    mdl_sample_face_draw(&s, rgb);
    assert_int_equal(mdl_image_encode_png(rgb, MDL_FACE_SIDE_PX,
                                          MDL_FACE_SIDE_PX, &crop_png,
                                          &crop_len, &e),
                     UT_OK);
}

static int set_up(void **state)
{
    char path[128];
    struct ut_error e;

    (void)state;
    memset(&app, 0, sizeof(app));
    snprintf(dir, sizeof(dir), "/tmp/tscaf-generations-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(data, sizeof(data), "%s/data", dir);
    snprintf(path, sizeof(path), "%s/models", data);
    mkdir(data, 0700);
    mkdir(path, 0700);
    for (int i = 0; i < MODELS; i++)
        make_model(i);
    draw_crop();
    config = (struct srv_config){.data = data,
                                 .model = files[0],
                                 .backend = (char *)(uintptr_t) "cpu",
                                 .precision = MDL_PREC_F32,
                                 .max_batch = 1,
                                 .max_queue = 1,
                                 .gallery_max_faces = 100};
    app.config = &config;
    pthread_mutex_init(&app.generations.lock, NULL);
    pthread_mutex_init(&app.generations.next_lock, NULL);
    if (srv_store_open(data, NULL, &app.store, &e))
        fail_msg("%s", e.msg);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    srv_generations_free(&app);
    srv_store_close(app.store);
    pthread_mutex_destroy(&app.generations.lock);
    pthread_mutex_destroy(&app.generations.next_lock);
    free(crop_png);
    ut_remove_tree(dir);
    return 0;
}

static void put_record(Tscaf__V1__ModelState model_state, const char *version)
{
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT;
    Tscaf__V1__ModelRef ref = TSCAF__V1__MODEL_REF__INIT;
    const struct srv_record put = {SRV_TABLE_MODEL, version, &info.base};
    struct ut_error e;

    ref.version = (char *)(uintptr_t)version;
    info.model = &ref;
    info.state = model_state;
    assert_int_equal(srv_store_put(app.store, NULL, NULL, NULL, &put, 1, &e),
                     UT_OK);
}

/* Moves model i into the repository, with a record in that state. */
static void keep(int i, Tscaf__V1__ModelState model_state, const char *version)
{
    char path[PATH_MAX];

    srv_model_path(data, version, path);
    assert_int_equal(rename(files[i], path), 0);
    put_record(model_state, version);
}

/* A stored face of an identity, embedded by that version, perhaps without a
 * crop to embed it anew from. */
static void add_face(const char *version, bool crop, char identity[SRV_ID_LEN],
                     char face[SRV_ID_LEN])
{
    struct srv_identity x = {.name = strdup("Ada"),
                             .external_id = strdup(""),
                             .consent_ref = strdup("")};
    float embedding[DIM] = {1};
    struct srv_face f = {.embedding = embedding, .dim = DIM};
    struct ut_error e;

    if (crop) {
        f.crop = crop_png;
        f.crop_len = crop_len;
    }
    snprintf(f.model_version, sizeof(f.model_version), "%s", version);
    assert_int_equal(srv_store_identity_create(app.store, "local", &x, &e),
                     UT_OK);
    memcpy(f.identity_id, x.id, SRV_ID_LEN);
    if (srv_store_face_add(app.store, "local", &f, &e))
        fail_msg("%s", e.msg);
    memcpy(identity, x.id, SRV_ID_LEN);
    memcpy(face, f.id, SRV_ID_LEN);
    srv_identity_fini(&x);
}

static void open_first(void)
{
    struct ut_error e;
    size_t unusable;

    if (srv_generations_open(&app, &unusable, &e))
        fail_msg("%s", e.msg);
}

static const char *current(void)
{
    return srv_generation_version(app.generations.current);
}

/* ---- which one answers first ---- */

static void open__nothing_activated__the_file_that_was_named(void **state)
{
    struct srv_generation *g;

    (void)state;
    open_first();
    assert_string_equal(current(), versions[0]);
    assert_string_equal(app.generations.initial, versions[0]);
    g = app.generations.current;
    assert_string_equal(g->path, files[0]);
    assert_true(srv_generation_is_current(g));
}

static void open__one_activated__it_goes_before_the_file(void **state)
{
    (void)state;
    keep(1, STATE(ACTIVE), versions[1]);
    open_first();
    assert_string_equal(current(), versions[1]);
}

static void open__activated_file_is_another__refused_by_name(void **state)
{
    struct ut_error e;
    size_t unusable;

    (void)state;
    keep(1, STATE(ACTIVE), "0123456789abcdef");
    assert_int_equal(srv_generations_open(&app, &unusable, &e), UT_EFORMAT);
    assert_non_null(strstr(e.msg, versions[1]));
    assert_non_null(strstr(e.msg, "not 0123456789abcdef"));
}

static void open__activated_file_is_gone__refused_by_name(void **state)
{
    char path[PATH_MAX];
    struct ut_error e;
    size_t unusable;

    (void)state;
    keep(1, STATE(ACTIVE), versions[1]);
    srv_model_path(data, versions[1], path);
    unlink(path);
    assert_int_equal(srv_generations_open(&app, &unusable, &e), UT_ENOTFOUND);
    assert_non_null(strstr(e.msg, versions[1]));
}

/* Only what this model embedded is searched; what another did is counted. */
static void open__faces_of_two_models__own_filled_others_counted(void **state)
{
    char identity[SRV_ID_LEN], own[SRV_ID_LEN], others[SRV_ID_LEN];
    struct ut_error e;
    size_t unusable;

    (void)state;
    add_face(versions[0], true, identity, own);
    add_face(versions[1], true, identity, others);
    assert_int_equal(srv_generations_open(&app, &unusable, &e), UT_OK);
    assert_int_equal(unusable, 1);
    assert_true(srv_gallery_has(app.generations.current->gallery, own));
    assert_false(srv_gallery_has(app.generations.current->gallery, others));
}

static void
open__more_faces_than_the_limit__option_and_number_named(void **state)
{
    char identity[SRV_ID_LEN], face[SRV_ID_LEN];
    struct ut_error e;
    size_t unusable;

    (void)state;
    for (int i = 0; i < 5; i++)
        add_face(versions[0], true, identity, face);
    config.gallery_max_faces = 3;
    assert_int_equal(srv_generations_open(&app, &unusable, &e), UT_EBUSY);
    assert_string_equal(e.msg,
                        "--gallery-max-faces is 3, and 5 faces are enrolled");
}

/* ---- how long one lives ---- */

static void take__changed_meanwhile__kept_to_the_last_drop(void **state)
{
    struct srv_generation *held, *next;
    struct ut_error e;

    (void)state;
    open_first();
    held = srv_generation_take(&app);
    assert_int_equal(held->refs, 2);
    assert_int_equal(srv_generation_new(&app, files[1], &next, &e), UT_OK);
    app.generations.current = next;
    srv_generation_drop(held); /* the change over's own hold */
    /* The request goes on with what it began with. */
    assert_int_equal(held->refs, 1);
    assert_string_equal(srv_generation_version(held), versions[0]);
    assert_false(srv_generation_is_current(held));
    assert_string_equal(current(), versions[1]);
    srv_generation_drop(held); /* a leak, or a use after, is ASan's to tell */
    srv_generation_drop(NULL);
}

static void fill__twice__each_face_once(void **state)
{
    char identity[SRV_ID_LEN], face[SRV_ID_LEN];
    struct srv_gallery *g;
    struct ut_error e;

    (void)state;
    add_face(versions[0], true, identity, face);
    open_first();
    g = app.generations.current->gallery;
    assert_int_equal(srv_gallery_faces(g), 1);
    assert_int_equal(srv_generation_fill(app.generations.current, &e), UT_OK);
    assert_int_equal(srv_gallery_faces(g), 1);
}

/* Another server on the same database may take more. */
static void add_face__past_the_limit__passed_over_and_logged_once(void **state)
{
    char identity[SRV_ID_LEN], face[SRV_ID_LEN], text[2048];
    struct srv_gallery *g;
    FILE *file = tmpfile();
    struct ut_error e;

    (void)state;
    assert_non_null(file);
    assert_int_equal(srv_log_new(fileno(file), SRV_LOG_WARN, &app.log, &e),
                     UT_OK);
    config.gallery_max_faces = 1;
    open_first();
    g = app.generations.current->gallery;
    for (int i = 0; i < 3; i++) {
        add_face(versions[0], true, identity, face);
        assert_int_equal(srv_generations_add_face(&app, face, &e), UT_OK);
        assert_int_equal(srv_gallery_has(g, face), i == 0);
    }
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    assert_non_null(strstr(text, "past this one's --gallery-max-faces 1"));
    assert_string_equal(strchr(text, '\n'), "\n"); /* one line */
    srv_log_free(app.log);
    fclose(file);
}

/* ---- what is said of one ---- */

/* Whatever its leaves are called. */
static void info__candidate_and_in_use__the_same_thresholds(void **state)
{
    static const char text[] =
        "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":"
        "\"mobilenetv2\",\"width\":0.1,\"children\":[{\"name\":\"drowsy\","
        "\"module\":\"none\",\"head\":\"binary\"},{\"name\":\"who\","
        "\"module\":\"none\",\"head\":\"embedding\",\"dim\":16}]}]}";
    const struct mdl_st_pair meta[] = {{"threshold.drowsy", "0.75"},
                                       {"threshold.who", "0.25"}};
    Tscaf__V1__ModelInfo info;
    Tscaf__V1__ModelRef ref;
    struct srv_generation *g;
    struct mdl_model m;
    char path[96];
    struct ut_error e;

    (void)state;
    snprintf(path, sizeof(path), "%s/named.safetensors", dir);
    write_model(text, 1, path, meta, 2);
    assert_int_equal(mdl_model_open(path, &m, &e), UT_OK);
    assert_int_equal(srv_candidate_info(&m, &info, &ref, &e), UT_OK);
    assert_true(info.fatigue_threshold == 0.75f);
    assert_true(info.identity_threshold == 0.25f);
    free(info.spec);
    mdl_model_close(&m);
    assert_int_equal(srv_generation_new(&app, path, &g, &e), UT_OK);
    assert_int_equal(srv_generation_info(g, &info, &ref, &e), UT_OK);
    assert_true(info.fatigue_threshold == 0.75f);
    assert_true(info.identity_threshold == 0.25f);
    free(info.spec);
    srv_generation_drop(g);
}

/* ---- the gallery of the one before is kept true too ---- */

static void remove__face_and_identity__in_both_galleries(void **state)
{
    char identities[2][SRV_ID_LEN], faces[2][SRV_ID_LEN];
    struct srv_generations *all = &app.generations;
    struct ut_error e;

    (void)state;
    add_face(versions[0], true, identities[0], faces[0]);
    add_face(versions[0], true, identities[1], faces[1]);
    open_first();
    assert_int_equal(srv_generation_new(&app, files[0], &all->previous, &e),
                     UT_OK);
    assert_int_equal(srv_generation_fill(all->previous, &e), UT_OK);
    assert_int_equal(srv_gallery_faces(all->previous->gallery), 2);
    srv_generations_remove_face(&app, faces[0]);
    assert_false(srv_gallery_has(all->current->gallery, faces[0]));
    assert_false(srv_gallery_has(all->previous->gallery, faces[0]));
    srv_generations_remove_identity(&app, identities[1]);
    assert_int_equal(srv_gallery_faces(all->current->gallery), 0);
    assert_int_equal(srv_gallery_faces(all->previous->gallery), 0);
}

/* ---- what a job starts from ---- */

static void base__asked_or_not__version_and_file(void **state)
{
    char version[17], path[PATH_MAX], want[PATH_MAX];
    struct ut_error e;

    (void)state;
    keep(1, STATE(CANDIDATE), versions[1]);
    open_first();
    assert_int_equal(
        srv_generations_base(&app, "", version, path, app.store, &e), UT_OK);
    assert_string_equal(version, versions[0]);
    assert_string_equal(path, files[0]);
    assert_int_equal(
        srv_generations_base(&app, versions[1], version, path, app.store, &e),
        UT_OK);
    assert_string_equal(version, versions[1]);
    srv_model_path(data, versions[1], want);
    assert_string_equal(path, want);
    assert_int_equal(
        srv_generations_base(&app, "nowhere", version, path, app.store, &e),
        UT_ENOTFOUND);
}

/* The one that came with --model is found again by the link that a change over
 * leaves, and without a link as long as the server runs on. */
static void find__the_first_model__named_file_or_repository(void **state)
{
    char path[PATH_MAX];
    const char *file;
    struct ut_error e;

    (void)state;
    open_first();
    assert_int_equal(srv_model_find(&app, versions[0], path, &file, &e), UT_OK);
    assert_string_equal(file, files[0]);
    srv_model_path(data, versions[0], path);
    assert_int_equal(symlink(files[0], path), 0);
    assert_int_equal(srv_model_find(&app, versions[0], path, &file, &e), UT_OK);
    assert_ptr_equal(file, path);
    assert_int_equal(srv_model_find(&app, "0123456789abcdef", path, &file, &e),
                     UT_ENOTFOUND);
    assert_non_null(strstr(e.msg, "0123456789abcdef"));
}

/* ---- a change over on its way ---- */

#define MANY 40 /* more than are embedded at once */
#define POLL_US 1000

static void on_changed(void *arg, const char *version, const struct ut_error *e)
{
    (void)version;
    memcpy(arg, e, sizeof(*e));
}

/* Until all are embedded and the store's thread, which is held, is asked. */
static void wait_for_the_store(void)
{
    char why[300];

    while (!srv_pool_queued(app.store_pool)) {
        if (srv_change_over_failed(&app, versions[1], why, sizeof(why)))
            fail_msg("%s", why);
        usleep(POLL_US);
    }
}

static void assert_said(const char *want)
{
    char text[100];

    assert_true(srv_change_over_state(&app, versions[1], text, sizeof(text)));
    assert_string_equal(text, want);
}

static void start_threads(void)
{
    struct ut_error e;

    uv_loop_init(&app.loop);
    assert_int_equal(srv_mailbox_new(&app.loop, &app.mailbox, &e), UT_OK);
    assert_int_equal(srv_pool_new("models", 1, 4, &app.model_pool, &e), UT_OK);
    assert_int_equal(srv_pool_new("store", 1, 4, &app.store_pool, &e), UT_OK);
}

static void stop_threads(void)
{
    srv_generations_free(&app);
    srv_pool_free(app.model_pool);
    srv_pool_free(app.store_pool);
    app.model_pool = app.store_pool = NULL;
    srv_mailbox_free(app.mailbox);
    uv_run(&app.loop, UV_RUN_DEFAULT);
    uv_loop_close(&app.loop);
}

static void wait_changed(const struct ut_error *changed)
{
    while (changed->code == UT_EIO)
        uv_run(&app.loop, UV_RUN_ONCE);
}

/* To its end; what it says. */
static struct ut_error change(const char *version, bool rollback)
{
    struct ut_error e, changed = {.code = UT_EIO};

    if (srv_change_over(&app, "local", version, true, rollback, on_changed,
                        &changed, &e))
        fail_msg("%s", e.msg);
    wait_changed(&changed);
    return changed;
}

/* The threads are held where the change over would go on: what is seen does
 * not depend on how fast it is. */
static void state__counted_embedded_enrolled_meanwhile__told(void **state)
{
    char identity[SRV_ID_LEN], face[SRV_ID_LEN], text[100];
    struct ut_error e, changed = {.code = UT_EIO};
    struct hold models, store, again;

    (void)state;
    keep(1, STATE(CANDIDATE), versions[1]);
    for (int i = 0; i < MANY; i++)
        add_face(versions[0], true, identity, face);
    open_first();
    start_threads();
    hold(app.model_pool, &models);
    hold(app.store_pool, &store);
    uv_sem_wait(&store.begun);
    assert_int_equal(srv_change_over(&app, "local", versions[1], true, false,
                                     on_changed, &changed, &e),
                     UT_OK);
    assert_said("the faces to embed are being counted");
    assert_false(srv_change_over_state(&app, versions[0], text, sizeof(text)));
    uv_sem_post(&models.go);
    wait_for_the_store();
    assert_said("40 of 40 faces are embedded");

    add_face(versions[0], true, identity, face);
    hold(app.store_pool, &again);
    uv_sem_post(&store.go);
    uv_sem_wait(&again.begun); /* the change was tried, and is to be again */
    wait_for_the_store();
    assert_said("41 of 41 faces are embedded");
    assert_string_equal(current(), versions[0]);
    uv_sem_post(&again.go);
    wait_changed(&changed);
    assert_int_equal(changed.code, UT_OK);
    assert_string_equal(current(), versions[1]);
    assert_int_equal(srv_gallery_faces(app.generations.current->gallery),
                     MANY + 1);
    assert_false(srv_change_over_state(&app, versions[1], text, sizeof(text)));

    stop_threads();
    hold_fini(&models);
    hold_fini(&store);
    hold_fini(&again);
}

/* There is no third in memory; where a change over fails, the former one is
 * opened anew. */
static void change_over__to_a_third__the_first_goes_before(void **state)
{
    static const char missing[] = "0123456789abcdef", wrong[] = "fedcba98";
    struct srv_generations *all = &app.generations;
    char identity[SRV_ID_LEN], face[SRV_ID_LEN];
    struct srv_generation *first;

    (void)state;
    keep(1, STATE(CANDIDATE), versions[1]);
    keep(2, STATE(CANDIDATE), versions[2]);
    keep(3, STATE(CANDIDATE), wrong);
    put_record(STATE(CANDIDATE), missing);
    add_face(versions[0], true, identity, face);
    open_first();
    first = all->current;
    start_threads();
    assert_int_equal(change(versions[1], false).code, UT_OK);
    assert_ptr_equal(all->previous, first);
    /* What cannot begin costs nothing, nor does what is there. */
    assert_int_equal(change(missing, false).code, UT_ENOTFOUND);
    assert_int_equal(change(versions[1], false).code, UT_OK);
    assert_ptr_equal(all->previous, first);
    assert_int_equal(change("", true).code, UT_OK);
    assert_ptr_equal(all->current, first);

    assert_int_equal(change(wrong, false).code, UT_EFORMAT);
    assert_ptr_equal(all->current, first);
    assert_null(all->previous);
    assert_int_equal(change("", true).code, UT_OK);
    assert_string_equal(current(), versions[1]);
    assert_true(srv_gallery_has(all->current->gallery, face));
    assert_ptr_equal(all->previous, first);
    assert_int_equal(change(versions[2], false).code, UT_OK);
    assert_string_equal(srv_generation_version(all->previous), versions[1]);
    stop_threads();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(open__nothing_activated__the_file_that_was_named),
        TEST(open__one_activated__it_goes_before_the_file),
        TEST(open__activated_file_is_another__refused_by_name),
        TEST(open__activated_file_is_gone__refused_by_name),
        TEST(open__faces_of_two_models__own_filled_others_counted),
        TEST(open__more_faces_than_the_limit__option_and_number_named),
        TEST(take__changed_meanwhile__kept_to_the_last_drop),
        TEST(fill__twice__each_face_once),
        TEST(add_face__past_the_limit__passed_over_and_logged_once),
        TEST(info__candidate_and_in_use__the_same_thresholds),
        TEST(remove__face_and_identity__in_both_galleries),
        TEST(base__asked_or_not__version_and_file),
        TEST(find__the_first_model__named_file_or_repository),
        TEST(state__counted_embedded_enrolled_meanwhile__told),
        TEST(change_over__to_a_third__the_first_goes_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
