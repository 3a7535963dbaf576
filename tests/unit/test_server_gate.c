/* The gate: who may go into use, and the words why not. */
#include <string.h>

#include "server/inference/engine.h"
#include "server/inference/gate.h"
#include "tests/support/unit.h"

#define BOTH (SRV_TASK_FATIGUE | SRV_TASK_RECOGNITION)
#define STATE(x) TSCAF__V1__MODEL_STATE__MODEL_STATE_##x

static Tscaf__V1__JobFigures figures(const char *task, float auc, float active)
{
    Tscaf__V1__JobFigures f = TSCAF__V1__JOB_FIGURES__INIT;

    f.task = (char *)(uintptr_t)task;
    f.auc = auc;
    f.base_auc = 0.5f; /* that of the base decides nothing */
    f.active_auc = active;
    return f;
}

static void gate__two_branches_measured__no_worse_than_active(void **state)
{
    static const struct {
        float fatigue, active_fatigue, recognition, active_recognition;
        const char *words; /* NULL: passes */
    } rows[] = {
        {0.97f, 0.96f, 0.99f, 0.98f, NULL},
        {0.97f, 0.97f, 0.99f, 0.99f, NULL},
        {0.966f, 0.97f, 0.99f, 0.99f, NULL}, /* within the slack */
        {0.964f, 0.97f, 0.99f, 0.99f,
         "fatigue: held-out AUC 0.9640 is below the 0.9700 of model aaaa"},
        {0.97f, 0.97f, 0.90f, 0.99f,
         "recognition: held-out AUC 0.9000 is below the 0.9900 of model aaaa"},
        {0.61f, 0.52f, 0.99f, 0.99f, NULL},
        {0.59f, 0.52f, 0.99f, 0.99f,
         "fatigue: held-out AUC 0.5900 is below "
         "0.60"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Tscaf__V1__JobFigures f[2] = {
            figures("fatigue", rows[i].fatigue, rows[i].active_fatigue),
            figures("recognition", rows[i].recognition,
                    rows[i].active_recognition)};
        Tscaf__V1__JobFigures *list[2] = {&f[0], &f[1]};
        const struct srv_gate g = {
            .active = "aaaa",
            .base = i % 2 ? "aaaa" : "bbbb",
            .answers = BOTH,
            .candidate = BOTH,
            .figures = list,
            .n = 2,
        };
        char why[256];

        if (srv_gate_pass(&g, why, sizeof(why)) != !rows[i].words)
            fail_msg("row %zu: %s", i, why);
        if (!strstr(why, rows[i].words ? rows[i].words : "no worse"))
            fail_msg("row %zu: %s", i, why);
    }
}

static void gate__passed__both_models_figures_told(void **state)
{
    Tscaf__V1__JobFigures f[2] = {figures("fatigue", 0.97f, 0.96f),
                                  figures("recognition", 0.99f, 0.985f)};
    Tscaf__V1__JobFigures *list[2] = {&f[0], &f[1]};
    const struct srv_gate g = {.active = "aaaa",
                               .base = "aaaa",
                               .answers = BOTH,
                               .candidate = BOTH,
                               .figures = list,
                               .n = 2};
    char why[256];

    (void)state;
    assert_true(srv_gate_pass(&g, why, sizeof(why)));
    assert_string_equal(why,
                        "held-out AUC is no worse than that of model aaaa, "
                        "then in use: fatigue 0.9700 (0.9600), recognition "
                        "0.9900 (0.9850)");
}

/* Only fatigue has a dataset: what becomes of recognition? */
static void
gate__branch_without_data__only_if_it_is_the_active_ones(void **state)
{
    static const struct {
        bool frozen_root;
        const char *base;
        const char *words;
    } rows[] = {
        {true, "aaaa", NULL},
        {true, "bbbb", "comes from model bbbb, not from aaaa"},
        {false, "aaaa", "frozen_root leaves it as it is"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Tscaf__V1__JobFigures f = figures("fatigue", 0.97f, 0.96f);
        Tscaf__V1__JobFigures *list[] = {&f};
        const struct srv_gate g = {
            .active = "aaaa",
            .base = rows[i].base,
            .frozen_root = rows[i].frozen_root,
            .answers = BOTH,
            .candidate = BOTH,
            .figures = list,
            .n = 1,
        };
        char why[256];

        if (srv_gate_pass(&g, why, sizeof(why)) != !rows[i].words)
            fail_msg("row %zu: %s", i, why);
        if (rows[i].words && (!strstr(why, rows[i].words) ||
                              !strstr(why, "recognition was not measured")))
            fail_msg("row %zu: %s", i, why);
    }
}

static void gate__not_measured__does_not_pass(void **state)
{
    Tscaf__V1__JobFigures f = figures("fatigue", 0, 0);
    Tscaf__V1__JobFigures *list[] = {&f};
    const struct srv_gate g = {.active = "aaaa",
                               .base = "aaaa",
                               .answers = SRV_TASK_FATIGUE,
                               .candidate = SRV_TASK_FATIGUE,
                               .figures = list,
                               .n = 1};
    char why[256];

    (void)state;
    f.error = (char *)(uintptr_t) "fewer than two labelled pictures";
    assert_false(srv_gate_pass(&g, why, sizeof(why)));
    assert_string_equal(
        why, "fatigue was not measured: fewer than two labelled pictures");
}

/* A task more than the active model answers is welcome, one less is not. */
static void gate__other_tasks_than_the_active__none_is_lost(void **state)
{
    Tscaf__V1__JobFigures f = figures("fatigue", 0.9f, 0);
    Tscaf__V1__JobFigures *list[] = {&f};
    struct srv_gate g = {.active = "aaaa",
                         .base = "aaaa",
                         .answers = SRV_TASK_RECOGNITION,
                         .candidate = SRV_TASK_FATIGUE,
                         .figures = list,
                         .n = 1};
    char why[256];

    (void)state;
    assert_false(srv_gate_pass(&g, why, sizeof(why)));
    assert_string_equal(why, "it does not answer recognition, as model aaaa "
                             "does");
    g.frozen_root = true;
    g.candidate = BOTH;
    assert_true(srv_gate_pass(&g, why, sizeof(why)));
    g.answers = 0;
    g.candidate = SRV_TASK_FATIGUE;
    assert_true(srv_gate_pass(&g, why, sizeof(why)));
}

static void admits__verdict_beside_another__only_with_what_answers(void **state)
{
    static const struct {
        bool passed;
        Tscaf__V1__ModelState state;
        const char *compared_with, *words;
    } rows[] = {
        {true, STATE(CANDIDATE), "aaaa", NULL},
        {true, STATE(CANDIDATE), "bbbb",
         "was compared with bbbb, not with aaaa, which answers now"},
        {false, STATE(CANDIDATE), "aaaa", "did not pass: for a reason"},
        {false, STATE(PREVIOUS), "bbbb", NULL},
        {false, STATE(ACTIVE), "bbbb", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Tscaf__V1__ModelRef ref = TSCAF__V1__MODEL_REF__INIT;
        Tscaf__V1__ModelInfo m = TSCAF__V1__MODEL_INFO__INIT;
        struct ut_error e = {0};

        ref.version = (char *)(uintptr_t) "cccc";
        m.model = &ref;
        m.passed = rows[i].passed;
        m.state = rows[i].state;
        m.reason = (char *)(uintptr_t) "for a reason";
        m.compared_with = (char *)(uintptr_t)rows[i].compared_with;
        assert_int_equal(srv_gate_admits(&m, "aaaa", &e),
                         rows[i].words ? UT_ESTATE : UT_OK);
        if (rows[i].words && !strstr(e.msg, rows[i].words))
            fail_msg("row %zu: %s", i, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gate__two_branches_measured__no_worse_than_active),
        cmocka_unit_test(gate__passed__both_models_figures_told),
        cmocka_unit_test(
            gate__branch_without_data__only_if_it_is_the_active_ones),
        cmocka_unit_test(gate__not_measured__does_not_pass),
        cmocka_unit_test(gate__other_tasks_than_the_active__none_is_lost),
        cmocka_unit_test(
            admits__verdict_beside_another__only_with_what_answers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
