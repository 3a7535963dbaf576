/* Options: where they come from, in what order, and what is refused. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/config.h"
#include "tests/support/unit.h"

#define MAX_ARGS 8

static enum ut_err read_args(const char *const *args, char *const *env,
                             struct srv_config *c, struct ut_error *e)
{
    char *argv[MAX_ARGS + 1] = {"tscafd"};
    int argc = 1;

    while (*args && argc < MAX_ARGS)
        argv[argc++] = (char *)(uintptr_t)*args++;
    return srv_config_read(argc, argv, env, c, e);
}

#define ARGS(...)                                                              \
    (const char *const[])                                                      \
    {                                                                          \
        __VA_ARGS__, NULL                                                      \
    }
#define NO_ARGS                                                                \
    (const char *const[])                                                      \
    {                                                                          \
        NULL                                                                   \
    }
#define ENV(...)                                                               \
    (char *const[])                                                            \
    {                                                                          \
        __VA_ARGS__, NULL                                                      \
    }

static char path[] = "/tmp/tscaf-config-XXXXXX";

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_file(void **state)
{
    (void)state;
    return close(mkstemp(path));
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void defaults__nothing_given__as_documented(void **state)
{
    struct srv_config c;
    struct ut_error e;

    (void)state;
    assert_int_equal(read_args(NO_ARGS, NULL, &c, &e), UT_OK);
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 8080);
    assert_string_equal(c.data, "tscaf-data");
    assert_null(c.model);
    assert_null(c.detector);
    assert_null(c.backend);
    assert_int_equal(c.precision, MDL_PREC_F32);
    assert_int_equal(c.max_body_bytes, 32 * 1024 * 1024);
    assert_int_equal(c.max_batch, 8);
    assert_true(c.store_crops);
    assert_int_equal(c.log_level, SRV_LOG_INFO);
    assert_false(c.help || c.version);
    srv_config_fini(&c);
}

static void store__of_another_kind__refused_without_being_shown(void **state)
{
    struct srv_config c;
    struct ut_error e;

    (void)state;
    assert_int_equal(
        read_args(ARGS("--store=postgres://u:geheim@h/d"), NULL, &c, &e),
        UT_OK);
    assert_string_equal(c.store, "postgres://u:geheim@h/d");
    srv_config_fini(&c);
    assert_int_equal(
        read_args(NO_ARGS, ENV("TSCAF_STORE=postgresql://h/d"), &c, &e), UT_OK);
    srv_config_fini(&c);
    assert_int_equal(
        read_args(ARGS("--store=mysql://u:geheim@h/d"), NULL, &c, &e),
        UT_EINVAL);
    assert_non_null(strstr(e.msg, "--store"));
    assert_null(strstr(e.msg, "geheim"));
}

static void sources__all_three__flag_over_environment_over_file(void **state)
{
    struct srv_config c;
    struct ut_error e;

    (void)state;
    write_file("# a comment\n\n max_batch = 2 \nbatch_delay_us=5\n"
               "model = a b.safetensors\r\nstore_crops = no");
    assert_int_equal(
        read_args(ARGS("--config", path, "--max-batch=16"),
                  ENV("TSCAF_MAX_BATCH=4", "TSCAF_BATCH_DELAY_US=6",
                      "TSCAF_EXCHANGES=/somebody/elses", "PATH=/bin"),
                  &c, &e),
        UT_OK);
    assert_int_equal(c.max_batch, 16);
    assert_int_equal(c.batch_delay_us, 6);
    assert_string_equal(c.model, "a b.safetensors");
    assert_false(c.store_crops);
    srv_config_fini(&c);
    /* The file's name from the environment; an empty text is none. */
    write_file("listen = [::1]:0\ngrpc = [::1]:1\n");
    {
        char name[64];

        snprintf(name, sizeof(name), "TSCAF_CONFIG=%s", path);
        assert_int_equal(read_args(ARGS("--model="),
                                   ENV(name, "TSCAF_MODEL=m", "TSCAF_GRPC="),
                                   &c, &e),
                         UT_OK);
    }
    assert_string_equal(c.host, "::1");
    assert_int_equal(c.port, 0);
    assert_null(c.grpc);
    assert_null(c.model);
    srv_config_fini(&c);
}

static void flags__every_form__taken(void **state)
{
    struct srv_config c;
    struct ut_error e;

    (void)state;
    assert_int_equal(read_args(ARGS("-h"), NULL, &c, &e), UT_OK);
    assert_true(c.help);
    srv_config_fini(&c);
    assert_int_equal(
        read_args(ARGS("--version", "--create-key", "admin:x"), NULL, &c, &e),
        UT_OK);
    assert_true(c.version);
    assert_string_equal(c.create_key, "admin:x");
    srv_config_fini(&c);
    assert_int_equal(read_args(ARGS("--precision", "bf16", "--log-level",
                                    "debug", "--max-queue-bytes", "1gib"),
                               NULL, &c, &e),
                     UT_OK);
    assert_int_equal(c.precision, MDL_PREC_BF16);
    assert_int_equal(c.log_level, SRV_LOG_DEBUG);
    assert_int_equal(c.max_queue_bytes, 1024LL * 1024 * 1024);
    srv_config_fini(&c);
}

static void values__wrong_ones__named_with_what_is_right(void **state)
{
    const struct {
        const char *flag, *value, *says;
    } rows[] = {
        {"--max-batch", "33", "--max-batch: \"33\" is not a power of two"},
        {"--max-batch", "64", "from 1 to 32"},
        {"--max-batch", "0", "--max-batch"},
        {"--max-batch", "3", "--max-batch"},
        {"--max-batch", "8x", "--max-batch"},
        {"--max-batch", "", "--max-batch"},
        {"--max-queue", "1000001", "from 1 to 1000000"},
        {"--max-queue", "-1", "--max-queue"},
        {"--max-queue", "99999999999999999999", "--max-queue"},
        {"--max-queue", "1KiB", "--max-queue"},
        {"--max-body-bytes", "1023", "also with KiB"},
        {"--max-body-bytes", "1025MiB", "1073741824"},
        {"--max-body-bytes", "9223372036854775807KiB", "--max-body-bytes"},
        {"--max-body-bytes", "-18014398509481983KiB", "--max-body-bytes"},
        {"--store-crops", "maybe", "true or false"},
        {"--precision", "float9", "float32 or bfloat16"},
        {"--log-level", "loud", "error, warn, info or debug"},
        {"--listen", "", "ADDR:PORT"},
        {"--listen", "8080", "ADDR:PORT"},
        {"--listen", ":8080", "ADDR:PORT"},
        {"--listen", "a:65536", "ADDR:PORT"},
        {"--listen", "a:", "ADDR:PORT"},
        {"--listen", "::1:80", "ADDR:PORT"},
        {"--listen", "[]:80", "ADDR:PORT"},
        {"--listen", "[::1:80", "ADDR:PORT"},
        {"--data", "", "--data"},
        {"--nonsense", "1", "--nonsense"},
        {"max-batch", "1", "no such option"},
        {"--config", "/nowhere/at/all", "/nowhere/at/all"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct srv_config c = {0};
        struct ut_error e = {0};

        if (!read_args(ARGS(rows[i].flag, rows[i].value), NULL, &c, &e))
            fail_msg("%s %s was taken", rows[i].flag, rows[i].value);
        if (!strstr(e.msg, rows[i].says))
            fail_msg("%s %s: %s", rows[i].flag, rows[i].value, e.msg);
        assert_null(c.listen); /* nothing half-read comes out */
    }
}

static void values__at_their_limits__taken(void **state)
{
    const char *const rows[][2] = {
        {"--max-batch", "1"},           {"--max-batch", "32"},
        {"--max-queue", "1000000"},     {"--max-body-bytes", "1KiB"},
        {"--max-body-bytes", "256MiB"}, {"--max-queue-bytes", "32MiB"},
        {"--listen", "a:65535"},        {"--batch-delay-us", "0"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct srv_config c;
        struct ut_error e;

        if (read_args(ARGS(rows[i][0], rows[i][1]), NULL, &c, &e))
            fail_msg("%s", e.msg);
        srv_config_fini(&c);
    }
}

static void body_limit__over_that_of_all_bodies__refused(void **state)
{
    struct srv_config c;
    struct ut_error e;

    (void)state;
    assert_int_not_equal(
        read_args(ARGS("--max-body-bytes", "262145KiB"), NULL, &c, &e), UT_OK);
    assert_non_null(strstr(e.msg, "--max-queue-bytes, 268435456"));
    assert_int_equal(read_args(ARGS("--max-body-bytes", "1024MiB",
                                    "--max-queue-bytes", "1GiB"),
                               NULL, &c, &e),
                     UT_OK);
    srv_config_fini(&c);
}

static void mistakes__by_source__say_where(void **state)
{
    const struct {
        const char *text, *says;
    } files[] = {
        {"\nmax_batch = 5\n", ":2: max_batch: \"5\""},
        {"max-batch = 8\n", "no such key"},
        {"nonsense = 8\n", ":1: nonsense"},
        {"config = x\n", "no such key"},
        {"create_key = admin:x\n", "no such key"},
        {"just words\n", ":1: no \"key = value\""},
    };
    struct srv_config c;
    struct ut_error e;

    (void)state;
    assert_int_not_equal(read_args(NO_ARGS, ENV("TSCAF_MAX_BATCH=5"), &c, &e),
                         UT_OK);
    assert_non_null(strstr(e.msg, "TSCAF_MAX_BATCH: \"5\""));
    assert_int_not_equal(read_args(ARGS("--model"), NULL, &c, &e), UT_OK);
    assert_non_null(strstr(e.msg, "needs a value"));
    assert_int_not_equal(
        read_args(ARGS("--grpc", "a:1", "--grpc-key", "k"), NULL, &c, &e),
        UT_OK);
    assert_non_null(strstr(e.msg, "--grpc-cert and --grpc-key"));
    assert_int_not_equal(
        read_args(ARGS("--grpc-cert", "c", "--grpc-key", "k"), NULL, &c, &e),
        UT_OK);
    assert_non_null(strstr(e.msg, "needs --grpc"));
    assert_int_not_equal(read_args(ARGS("--if-none"), NULL, &c, &e), UT_OK);
    assert_non_null(strstr(e.msg, "needs --create-key"));
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        write_file(files[i].text);
        assert_int_not_equal(read_args(ARGS("--config", path), NULL, &c, &e),
                             UT_OK);
        if (!strstr(e.msg, files[i].says))
            fail_msg("%s: %s", files[i].text, e.msg);
    }
}

static void loopback__addresses__told_apart(void **state)
{
    const struct {
        const char *listen;
        bool loopback;
    } rows[] = {
        {"127.0.0.1:1", true},    {"127.9.8.7:1", true},
        {"localhost:1", true},    {"[::1]:1", true},
        {"0.0.0.0:1", false},     {"[::]:1", false},
        {"192.168.0.1:1", false}, {"127.example:1", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct srv_config c;
        struct ut_error e;

        assert_int_equal(
            read_args(ARGS("--listen", rows[i].listen), NULL, &c, &e), UT_OK);
        if (srv_config_loopback(c.host) != rows[i].loopback)
            fail_msg("%s", rows[i].listen);
        srv_config_fini(&c);
    }
}

static void help__printed__names_every_option_and_default(void **state)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    (void)state;
    srv_config_help(f);
    fclose(f);
    assert_non_null(strstr(text, "--listen ADDR:PORT"));
    assert_non_null(strstr(text, "(default 127.0.0.1:8080)"));
    assert_non_null(strstr(text, "a power of two from 1 to 32 (default 8)"));
    assert_non_null(strstr(text, "--create-key ROLE:NAME"));
    assert_non_null(strstr(text, "TSCAF_MAX_BATCH"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults__nothing_given__as_documented),
        cmocka_unit_test(store__of_another_kind__refused_without_being_shown),
        cmocka_unit_test(sources__all_three__flag_over_environment_over_file),
        cmocka_unit_test(flags__every_form__taken),
        cmocka_unit_test(values__wrong_ones__named_with_what_is_right),
        cmocka_unit_test(values__at_their_limits__taken),
        cmocka_unit_test(body_limit__over_that_of_all_bodies__refused),
        cmocka_unit_test(mistakes__by_source__say_where),
        cmocka_unit_test(loopback__addresses__told_apart),
        cmocka_unit_test(help__printed__names_every_option_and_default),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
