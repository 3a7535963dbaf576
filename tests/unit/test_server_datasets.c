/* Samples that come one by one: counted as reading all of them would, without
 * reading all of them. */
#include "server/datasets/datasets.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "model/data/dataset.h"
#include "model/vision/image.h"
#include "server/datasets/dataset_index.h"
#include "tests/support/unit.h"

#define RECOGNITION TSCAF__V1__DATASET_KIND__DATASET_KIND_RECOGNITION
#define FATIGUE TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE

static struct srv_config config;
static struct srv_datasets d;

static int set_up(void **state)
{
    struct ut_error e;

    (void)state;
    config.data = (char *)(uintptr_t)test_dir();
    config.dataset_max_bytes = 1 << 20;
    d.config = &config;
    d.server = "here";
    return srv_store_open(test_dir(), NULL, &d.store, &e);
}

static int tear_down(void **state)
{
    (void)state;
    srv_datasets_fini(&d);
    srv_store_close(d.store);
    return 0;
}

static void make(Tscaf__V1__DatasetKind kind, char id[SRV_ID_LEN])
{
    Tscaf__V1__CreateDatasetRequest r = TSCAF__V1__CREATE_DATASET_REQUEST__INIT;
    Tscaf__V1__DatasetRecord *x;
    struct ut_error e;

    r.name = (char *)(uintptr_t) "x";
    r.kind = kind;
    if (srv_dataset_create(&d, "local", &r, &x, &e))
        fail_msg("%s", e.msg);
    snprintf(id, SRV_ID_LEN, "%s", x->id);
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
}

/* Adds one; the label's number, or -1 and e. The record's counts are what
 * reading the manifest gives. */
static int try_add(const char *id, const char *label, const char *group,
                   bool checked, struct ut_error *e)
{
    Tscaf__V1__AddSampleRequest r = TSCAF__V1__ADD_SAMPLE_REQUEST__INIT;
    char sample[SRV_ID_LEN], path[256];
    Tscaf__V1__DatasetRecord *x;
    struct mdl_dataset set;
    uint32_t n;

    r.id = (char *)(uintptr_t)id;
    r.label = (char *)(uintptr_t)label;
    r.group = (char *)(uintptr_t)group;
    if (srv_dataset_add_sample(&d, "local", &r, (const uint8_t *)"png", 3,
                               sample, &n, &x, e))
        return -1;
    snprintf(path, sizeof(path), "%s/datasets/%s/manifest.tsv", config.data,
             id);
    if (checked) {
        assert_int_equal(mdl_dataset_open(path, &set, e), UT_OK);
        assert_int_equal(x->pictures, set.n);
        assert_int_equal(x->groups, set.groups);
        assert_int_equal(x->classes, set.classes); /* no label is left out */
        assert_int_equal(set.examples[set.n - 1].label, n);
        mdl_dataset_fini(&set);
    }
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
    return (int)n;
}

static int add(const char *id, const char *label, const char *group)
{
    struct ut_error e;
    int n = try_add(id, label, group, true, &e);

    if (n < 0)
        fail_msg("%s", e.msg);
    return n;
}

static void in_folder(const char *id, const char *command)
{
    char line[512];

    snprintf(line, sizeof(line), "cd %s/datasets/%s && %s", config.data, id,
             command);
    if (system(line))
        fail_msg("%s", line);
}

static void samples__classes_and_groups__as_reading_all_would(void **state)
{
    char id[SRV_ID_LEN];
    struct ut_error e;

    (void)state;
    make(RECOGNITION, id);
    assert_int_equal(add(id, "Ada", ""), 0);
    assert_int_equal(add(id, "Bo", "night"), 1);
    assert_int_equal(add(id, "Ada", "night"), 0);
    assert_int_equal(add(id, "1", "day"), 2);
    in_folder(id, "printf 'Ada\\nBo\\n1\\n' | cmp - classes.txt");
    /* What is refused counts for nothing. */
    assert_int_equal(try_add(id, "", "", true, &e), -1);
    assert_int_equal(try_add(id, "new", "a\nb", true, &e), -1);
    assert_non_null(strstr(e.msg, "group: "));
    assert_int_equal(add(id, "Cy", ""), 3);
}

/* More datasets than are kept in mind, in turn. */
static void samples__many_datasets__each_its_own(void **state)
{
    char id[SRV_DATASET_INDEXES + 1][SRV_ID_LEN], label[16];

    (void)state;
    for (int i = 0; i <= SRV_DATASET_INDEXES; i++)
        make(i % 2 ? FATIGUE : RECOGNITION, id[i]);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i <= SRV_DATASET_INDEXES; i++) {
            snprintf(label, sizeof(label), "p%d", round);
            assert_int_equal(
                add(id[i], i % 2 ? round % 2 ? "drowsy" : "alert" : label, "g"),
                i % 2 ? round % 2 : round);
        }
}

/* Samples of one, however many, push no other out of mind. */
static void samples__many_of_one__another_stays_in_mind(void **state)
{
    char id[2][SRV_ID_LEN];
    struct srv_dataset_index *kept;

    (void)state;
    srv_datasets_fini(&d);
    make(FATIGUE, id[0]);
    make(FATIGUE, id[1]);
    add(id[0], "alert", "");
    kept = d.indexes[SRV_DATASET_INDEXES - 1];
    for (int i = 0; i <= SRV_DATASET_INDEXES; i++)
        add(id[1], "alert", "");
    assert_ptr_equal(d.indexes[SRV_DATASET_INDEXES - 2], kept);
    assert_string_equal(kept->id, id[0]);
    srv_dataset_index_drop(&d, id[1]);
    assert_ptr_equal(d.indexes[SRV_DATASET_INDEXES - 1], kept);
}

/* What a crash leaves: half a line, half a class, a record that is behind. */
static void samples__after_a_crash__whole_lines_count(void **state)
{
    char id[SRV_ID_LEN];

    (void)state;
    make(RECOGNITION, id);
    assert_int_equal(add(id, "Ada", "a"), 0);
    in_folder(id, "printf 'samples/x.png\\t7' >> manifest.tsv; printf 'Be' >> "
                  "classes.txt");
    srv_datasets_fini(&d); /* a new process */
    assert_int_equal(add(id, "Cy", "b"), 1);
    in_folder(id, "printf 'Ada\\nCy\\n' | cmp - classes.txt");
    /* Half a line again, of a manifest that is in mind. */
    in_folder(id, "printf 'samples/x.png' >> manifest.tsv");
    assert_int_equal(add(id, "Ada", "c"), 0);
    in_folder(id, "printf 'samples/y.png\\t5\\t\\n' >> manifest.tsv && printf "
                  "'D\\nE\\nF\\nG\\n' >> classes.txt");
    assert_int_equal(try_add(id, "G", "c", false, &(struct ut_error){0}), 5);
    in_folder(id, "[ $(wc -l < manifest.tsv) = 6 ]");
}

/* Bytes that this thread has read so far, or -1. */
static long long bytes_read(void)
{
    FILE *f = fopen("/proc/thread-self/io", "r");
    long long n = -1;

    if (f && fscanf(f, "rchar: %lld", &n) != 1)
        n = -1;
    if (f)
        fclose(f);
    return n;
}

static void samples__one_more__does_not_read_all_before_it(void **state)
{
    char id[SRV_ID_LEN], path[256];
    struct ut_error e;
    long long from;
    long size;
    FILE *f;

    (void)state;
    if (bytes_read() < 0) {
        print_message("SKIPPED samples__one_more: no /proc/thread-self/io\n");
        skip();
    }
    make(RECOGNITION, id);
    snprintf(path, sizeof(path), "%s/datasets/%s/manifest.tsv", config.data,
             id);
    f = fopen(path, "a");
    for (int i = 0; i < 30000; i++)
        fprintf(f, "parts/00000/%05d.png\t0\tnight shift %d\n", i, i % 500);
    size = ftell(f);
    fclose(f);
    in_folder(id, "yes 'a class' | head -n 30000 | nl > classes.txt");
    assert_true(try_add(id, "Ada", "", false, &e) >= 0); /* this one reads it */
    from = bytes_read();
    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof(path), "new %d", i);
        assert_true(try_add(id, path, "", false, &e) >= 0);
    }
    /* 100 records, and what the store looks up: less than reading it once. */
    if (!(bytes_read() - from < size))
        fail_msg("%lld bytes read for 100 samples, the manifest has %ld",
                 bytes_read() - from, size);
}

static void
samples__bytes_at_the_limit_and_one_past__taken_and_refused(void **state)
{
    char id[SRV_ID_LEN];
    struct ut_error e;

    (void)state;
    make(FATIGUE, id);
    config.dataset_max_bytes = 6;
    assert_int_equal(add(id, "alert", ""), 0);
    assert_int_equal(add(id, "drowsy", ""), 1);
    assert_int_equal(try_add(id, "alert", "", true, &e), -1);
    assert_int_equal(e.code, UT_EBUSY);
    assert_non_null(strstr(e.msg, "over 6 bytes, the limit"));
    config.dataset_max_bytes = 1 << 20;
    assert_int_equal(add(id, "alert", ""), 0);
}

static void samples__deleted__forgotten(void **state)
{
    char id[SRV_ID_LEN];
    struct ut_error e;

    (void)state;
    make(FATIGUE, id);
    assert_int_equal(add(id, "alert", ""), 0);
    assert_int_equal(srv_dataset_delete(&d, "local", id, &e), UT_OK);
    assert_int_equal(try_add(id, "alert", "", true, &e), -1);
    assert_int_equal(e.code, UT_ENOTFOUND);
}

/* ---- what a store refuses ---- */

static void store(const char *sql)
{
    char path[256];
    sqlite3 *db;

    snprintf(path, sizeof(path), "%s/%s", config.data, SRV_STORE_FILE);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

#define REFUSE                                                                 \
    "CREATE TRIGGER no BEFORE UPDATE ON dataset BEGIN"                         \
    " SELECT RAISE(ABORT, 'no'); END"
#define ACCEPT "DROP TRIGGER no"

static void samples__refused_by_the_store__sent_again_there_once(void **state)
{
    char id[SRV_ID_LEN];
    struct ut_error e;

    (void)state;
    make(FATIGUE, id);
    assert_int_equal(add(id, "alert", "a"), 0);
    store(REFUSE);
    assert_int_equal(try_add(id, "drowsy", "b", true, &e), -1);
    store(ACCEPT);
    assert_int_equal(add(id, "drowsy", "b"), 1);
    in_folder(id, "test $(grep -c samples/ manifest.tsv) = 2");
    in_folder(id, "test $(ls samples | wc -l) = 2");
}

/* The contents of an archive with one folder and one picture. */
static uint8_t *archive(size_t *len)
{
    static const uint8_t rgb[4 * 4 * 3];
    struct ut_buf tar;
    char path[256], line[600];
    struct ut_error e;
    uint8_t *bytes;
    size_t n;
    FILE *f;

    if (mdl_image_encode_png(rgb, 4, 4, &bytes, &n, &e))
        fail_msg("%s", e.msg);
    snprintf(path, sizeof(path), "%s/alert.png", config.data);
    f = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    free(bytes);
    snprintf(line, sizeof(line),
             "cd %s && mkdir -p in/alert && mv alert.png in/alert/1.png && "
             "tar -C in -cf in.tar .",
             config.data);
    assert_int_equal(system(line), 0);
    snprintf(path, sizeof(path), "%s/in.tar", config.data);
    ut_buf_init(&tar, 1 << 20);
    assert_int_equal(ut_buf_add_file(&tar, path, &e), UT_OK);
    *len = tar.len;
    return (uint8_t *)tar.data;
}

static void upload__refused_by_the_store__sent_again_there_once(void **state)
{
    Tscaf__V1__UploadDatasetRequest r = TSCAF__V1__UPLOAD_DATASET_REQUEST__INIT;
    Tscaf__V1__DatasetRecord *x;
    char id[SRV_ID_LEN];
    struct ut_error e;

    (void)state;
    make(FATIGUE, id);
    r.id = id;
    r.archive.data = archive(&r.archive.len);
    assert_int_equal(add(id, "alert", "a"), 0);
    store(REFUSE);
    assert_true(srv_dataset_upload(&d, "local", &r, &x, &e) != UT_OK);
    store(ACCEPT);
    if (srv_dataset_upload(&d, "local", &r, &x, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(x->pictures, 2);
    in_folder(id, "test $(grep -c parts/ manifest.tsv) = 1");
    in_folder(id, "test $(ls parts | wc -l) = 1");
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
    free(r.archive.data);
}

/* ---- deletion ---- */

static bool there(const char *prefix, const char *id)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/datasets/%s%s", config.data, prefix, id);
    return access(path, F_OK) == 0;
}

static void delete__killed_in_between__ended_by_the_next_start(void **state)
{
    char kept[SRV_ID_LEN], gone[SRV_ID_LEN], line[300];
    const struct srv_record record = {SRV_TABLE_DATASET, gone, NULL};
    struct ut_error e;

    (void)state;
    make(FATIGUE, kept);
    make(FATIGUE, gone);
    assert_int_equal(add(kept, "alert", "a"), 0);
    snprintf(line, sizeof(line),
             "cd %s/datasets && mv %s gone-%s && mv %s gone-%s", config.data,
             kept, kept, gone, gone);
    assert_int_equal(system(line), 0);
    assert_int_equal(
        srv_store_put(d.store, "local", "dataset.delete", gone, &record, 1, &e),
        UT_OK);
    srv_datasets_sweep(&d);
    assert_false(there("gone-", gone) || there("", gone));
    assert_true(there("", kept));
    assert_int_equal(add(kept, "drowsy", "b"), 1);
    /* And one that the store refuses to delete stays whole. */
    store("CREATE TRIGGER no BEFORE DELETE ON dataset BEGIN"
          " SELECT RAISE(ABORT, 'no'); END");
    assert_true(srv_dataset_delete(&d, "local", kept, &e) != UT_OK);
    store(ACCEPT);
    assert_int_equal(add(kept, "alert", "c"), 0);
    assert_int_equal(srv_dataset_delete(&d, "local", kept, &e), UT_OK);
    assert_false(there("gone-", kept) || there("", kept));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples__classes_and_groups__as_reading_all_would),
        cmocka_unit_test(samples__many_datasets__each_its_own),
        cmocka_unit_test(samples__many_of_one__another_stays_in_mind),
        cmocka_unit_test(samples__after_a_crash__whole_lines_count),
        cmocka_unit_test(samples__one_more__does_not_read_all_before_it),
        cmocka_unit_test(
            samples__bytes_at_the_limit_and_one_past__taken_and_refused),
        cmocka_unit_test(samples__deleted__forgotten),
        cmocka_unit_test(samples__refused_by_the_store__sent_again_there_once),
        cmocka_unit_test(upload__refused_by_the_store__sent_again_there_once),
        cmocka_unit_test(delete__killed_in_between__ended_by_the_next_start),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
