/* What is UTF-8 and what is not, at every border. */
#include "base/utf8.h"

#include <string.h>

#include "tests/support/unit.h"

static void utf8__each_border__known(void **state)
{
    static const struct {
        const char *text;
        int len; /* of its first sequence */
    } rows[] = {
        {"a", 1},
        {"\x7f", 1},
        {"\x80", 0},
        {"\xc1\xbf", 0}, /* longer than it need be */
        {"\xc2\x80", 2},
        {"\xdf\xbf", 2},
        {"\xe0\x9f\xbf", 0},
        {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xed\xa0\x80", 0}, /* a surrogate */
        {"\xef\xbf\xbf", 3},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\xf4\x90\x80\x80", 0}, /* past U+10FFFF */
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\xc3", 0}, /* cut off */
        {"\xe2\x82", 0},
        {"\xf0\x90\x80", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[16] = "k\xc3\xa4";

        assert_int_equal(ut_utf8_len(rows[i].text), rows[i].len);
        strcat(text, rows[i].text);
        assert_int_equal(ut_utf8_ok(text), rows[i].len > 0);
    }
    assert_true(ut_utf8_ok(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8__each_border__known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
