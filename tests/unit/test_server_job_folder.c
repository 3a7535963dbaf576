/* What a job's process is given to be compared. */
#include "server/jobs/job_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/unit.h"

#define VERSION "0123456789abcdef"

static char models[] = "/dev/shm/tscaf-models-XXXXXX";

static int set_up(void **state)
{
    char path[PATH_MAX];

    (void)state;
    snprintf(path, sizeof(path), "%s/jobs", test_dir());
    if (mkdir(path, 0700))
        return -1;
    srv_job_path(test_dir(), "job_a", "", path);
    return mkdir(path, 0700) || !mkdtemp(models);
}

static int tear_down(void **state)
{
    (void)state;
    ut_remove_tree(models);
    return 0;
}

static void take__no_model__said_and_no_result_stays(void **state)
{
    char result[PATH_MAX];
    struct ut_error e;

    (void)state;
    srv_job_path(test_dir(), "job_a", "result.json", result);
    assert_int_equal(ut_file_write(result, "{}", 2, &e), UT_OK);
    assert_int_equal(srv_job_take_model(test_dir(), "job_a", VERSION, &e),
                     UT_ESTATE);
    assert_non_null(strstr(e.msg, VERSION));
    assert_int_not_equal(access(result, F_OK), 0);
}

/* On the volume of the jobs, and on one of their own. */
static void take__models_here_and_on_another_volume__the_same_file(void **state)
{
    char dir[PATH_MAX], model[PATH_MAX + 40], path[PATH_MAX];
    struct stat st, here, there;
    struct ut_error e;

    (void)state;
    snprintf(dir, sizeof(dir), "%s/models", test_dir());
    srv_job_path(test_dir(), "job_a", "model.safetensors", path);
    assert_int_equal(stat(test_dir(), &here), 0);
    assert_int_equal(stat(models, &there), 0);
    assert_true(here.st_dev != there.st_dev);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(i ? symlink(models, dir) : mkdir(dir, 0700), 0);
        snprintf(model, sizeof(model), "%s/" VERSION ".safetensors", dir);
        assert_int_equal(ut_file_write(model, "weights", 7, &e), UT_OK);
        for (int again = 0; again < 2; again++)
            if (srv_job_take_model(test_dir(), "job_a", VERSION, &e))
                fail_msg("%s", e.msg);
        assert_int_equal(stat(model, &there), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_true(st.st_dev == there.st_dev && st.st_ino == there.st_ino);
        /* What the job drops is its own. */
        srv_job_drop_work(test_dir(), "job_a");
        assert_int_not_equal(lstat(path, &st), 0);
        assert_int_equal(access(model, F_OK), 0);
        ut_remove_tree(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take__no_model__said_and_no_result_stays),
        cmocka_unit_test(
            take__models_here_and_on_another_volume__the_same_file),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
