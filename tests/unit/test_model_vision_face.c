/* Alignment, suppression, quality and the drawn samples. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/vision/face.h"
#include "tests/support/unit.h"

#define SIDE MDL_FACE_SIDE_PX
#define CROP (SIDE * SIDE * 3)

/* The template's points, turned, scaled and moved. */
static void place(double scale, double degrees, double tx, double ty,
                  float out[5][2])
{
    double c = scale * cos(degrees * 3.14159265358979 / 180);
    double s = scale * sin(degrees * 3.14159265358979 / 180);

    for (int i = 0; i < 5; i++) {
        double x = mdl_face_template[i][0], y = mdl_face_template[i][1];

        out[i][0] = (float)(c * x - s * y + tx);
        out[i][1] = (float)(s * x + c * y + ty);
    }
}

static void similarity__known_one__found_again(void **state)
{
    static const double cases[][4] = {
        {1, 0, 0, 0}, {2.5, 30, 10, -7}, {0.1, -120, 500, 300}, {1, 180, 0, 0}};
    struct mdl_similarity m;
    struct ut_error e;
    float points[5][2];

    (void)state;
    for (int i = 0; i < 4; i++) {
        const double *k = cases[i];
        double turn = k[1] * 3.14159265358979 / 180;

        place(k[0], k[1], k[2], k[3], points);
        assert_int_equal(mdl_face_similarity(mdl_face_template, points, &m, &e),
                         UT_OK);
        assert_true(fabs(m.a - k[0] * cos(turn)) < 1e-4);
        assert_true(fabs(m.b - k[0] * sin(turn)) < 1e-4);
        assert_true(fabs(m.tx - k[2]) < 1e-2);
        assert_true(fabs(m.ty - k[3]) < 1e-2);
    }
    /* The best for points that no similarity reaches: nearer than its
     * neighbours. */
    place(1, 0, 0, 0, points);
    points[2][0] += 9;
    assert_int_equal(mdl_face_similarity(mdl_face_template, points, &m, &e),
                     UT_OK);
    assert_true(fabs(m.tx - 1.8) < 0.7 && m.a > 0.9 && m.a < 1.1);
}

static void similarity__one_point_or_nan__refused(void **state)
{
    struct mdl_similarity m;
    struct ut_error e;
    float points[5][2] = {{3, 3}, {3, 3}, {3, 3}, {3, 3}, {3, 3}};

    (void)state;
    assert_int_equal(mdl_face_similarity(points, mdl_face_template, &m, &e),
                     UT_EINVAL);
    place(1, 0, 0, 0, points);
    points[4][1] = NAN;
    assert_int_equal(mdl_face_similarity(points, mdl_face_template, &m, &e),
                     UT_EINVAL);
}

static void draw(uint32_t identity, float light, uint8_t *crop)
{
    struct mdl_sample_face s = {
        .identity = identity, .eyes = 1, .light = light, .noise = 1};

    mdl_sample_face_draw(&s, crop);
}

static double distance(const uint8_t *a, const uint8_t *b)
{
    double sum = 0;

    for (int i = 0; i < CROP; i++)
        sum += abs(a[i] - b[i]);
    return sum / CROP;
}

static void align__a_crop_in_its_place__comes_back(void **state)
{
    uint8_t *crop = malloc(CROP), *out = malloc(CROP);
    uint8_t *frame = calloc(1, 400 * 300 * 3);
    struct mdl_image im = {.rgb = frame,
                           .width = 400,
                           .height = 300,
                           .full_width = 400,
                           .full_height = 300};
    struct mdl_face f = {0};
    struct ut_error e;

    (void)state;
    draw(5, 1, crop);
    for (int y = 0; y < SIDE; y++)
        memcpy(frame + 3 * ((y + 80) * 400 + 130), crop + 3 * y * SIDE,
               3 * SIDE);
    place(1, 0, 130, 80, f.landmark);
    assert_int_equal(mdl_face_align(&im, &f, out, &e), UT_OK);
    assert_true(distance(crop, out) < 0.5);

    /* The frame was decoded at half the size that the landmarks are in. */
    im.full_width = 800;
    im.full_height = 600;
    place(2, 0, 260, 160, f.landmark);
    assert_int_equal(mdl_face_align(&im, &f, out, &e), UT_OK);
    assert_true(distance(crop, out) < 6);

    memset(f.landmark, 0, sizeof(f.landmark));
    assert_int_equal(mdl_face_align(&im, &f, out, &e), UT_EINVAL);
    free(crop);
    free(out);
    free(frame);
}

static void crop__sizes__square_and_large_enough(void **state)
{
    static const struct {
        int w, h;
        enum ut_err rc;
    } cases[] = {{112, 112, UT_OK}, {32, 32, UT_OK},       {31, 31, UT_EINVAL},
                 {110, 100, UT_OK}, {112, 100, UT_EINVAL}, {500, 480, UT_OK}};
    uint8_t *rgb = calloc(1, 500 * 500 * 3), *out = malloc(CROP);
    struct ut_error e;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mdl_image im = {
            .rgb = rgb, .width = cases[i].w, .height = cases[i].h};

        if (mdl_face_crop(&im, out, &e) != cases[i].rc)
            fail_msg("%dx%d", cases[i].w, cases[i].h);
    }
    free(rgb);
    free(out);
}

static void suppress__overlapping__the_best_stay_in_order(void **state)
{
    struct mdl_face f[] = {
        {.x = 0, .y = 0, .w = 10, .h = 10, .score = 0.6f},
        {.x = 1, .y = 0, .w = 10, .h = 10, .score = 0.9f},
        {.x = 50, .y = 0, .w = 10, .h = 10, .score = 0.7f},
        {.x = 5, .y = 0, .w = 10, .h = 10, .score = 0.8f}, /* IoU 6/14 with 1 */
    };

    (void)state;
    assert_true(fabsf(mdl_face_iou(&f[0], &f[1]) - 9.0f / 11) < 1e-6f);
    assert_true(mdl_face_iou(&f[0], &f[2]) == 0);
    assert_int_equal(mdl_face_suppress(f, 4, 0.5f, 10), 3);
    assert_true(f[0].score == 0.9f && f[1].score == 0.8f && f[2].score == 0.7f);
    assert_int_equal(mdl_face_suppress(f, 3, 0.4f, 10), 2);
    assert_int_equal(mdl_face_suppress(f, 2, 0.4f, 1), 1);
    assert_int_equal(mdl_face_suppress(f, 0, 0.4f, 1), 0);
}

static struct mdl_face good_face(void)
{
    struct mdl_face f = {.w = 100, .h = 120, .score = 0.99f};

    place(1, 0, 0, 0, f.landmark);
    return f;
}

static void quality__each_reason__at_its_limit_and_past(void **state)
{
    uint8_t *crop = malloc(CROP), *dark = malloc(CROP), *flat = malloc(CROP);
    struct mdl_face f = good_face();

    (void)state;
    draw(3, 1, crop);
    draw(3, 0, dark);
    memset(flat, 128, CROP);
    assert_int_equal(mdl_face_quality(crop, &f), 0);
    assert_int_equal(mdl_face_quality(crop, NULL), 0);
    assert_true(mdl_face_brightness(flat) > 127 &&
                mdl_face_brightness(flat) < 129);
    assert_true(mdl_face_sharpness(flat) == 0);
    assert_true(mdl_face_quality(dark, NULL) & MDL_QUALITY_LOW_BRIGHTNESS);
    assert_int_equal(mdl_face_quality(flat, NULL), MDL_QUALITY_LOW_SHARPNESS);
    memset(flat, (int)MDL_QUALITY_MIN_BRIGHTNESS + 1, CROP);
    assert_int_equal(mdl_face_quality(flat, NULL), MDL_QUALITY_LOW_SHARPNESS);
    memset(flat, (int)MDL_QUALITY_MIN_BRIGHTNESS - 1, CROP);
    assert_int_equal(mdl_face_quality(flat, NULL),
                     MDL_QUALITY_LOW_SHARPNESS | MDL_QUALITY_LOW_BRIGHTNESS);

    f.w = MDL_QUALITY_MIN_BOX_PX;
    assert_int_equal(mdl_face_quality(crop, &f), 0);
    f.w = MDL_QUALITY_MIN_BOX_PX - 1;
    assert_int_equal(mdl_face_quality(crop, &f),
                     MDL_QUALITY_SMALL_BOUNDING_BOX);
    f = good_face();
    f.score = MDL_QUALITY_MIN_SCORE;
    assert_int_equal(mdl_face_quality(crop, &f), 0);
    f.score = MDL_QUALITY_MIN_SCORE - 0.01f;
    assert_int_equal(mdl_face_quality(crop, &f), MDL_QUALITY_LOW_CONFIDENCE);

    f = good_face();
    place(1, 44, 0, 0, f.landmark);
    assert_int_equal(mdl_face_quality(crop, &f), 0);
    place(1, 46, 0, 0, f.landmark);
    assert_int_equal(mdl_face_quality(crop, &f), MDL_QUALITY_EXTREME_POSE);
    place(1, 0, 0, 0, f.landmark);
    f.landmark[2][0] += 25; /* a nose beside the eye: turned away */
    assert_int_equal(mdl_face_quality(crop, &f), MDL_QUALITY_EXTREME_POSE);
    free(crop);
    free(dark);
    free(flat);
}

static void pose__template_turned__roll_alone(void **state)
{
    struct mdl_face f = good_face();
    struct mdl_face_pose straight = mdl_face_pose(&f), turned;

    (void)state;
    place(3, 20, 5, 5, f.landmark);
    turned = mdl_face_pose(&f);
    assert_true(fabsf(straight.roll) < 1);
    assert_true(fabsf(straight.pitch - 0.49f) < 0.02f);
    assert_true(fabsf(turned.roll - straight.roll - 20) < 0.01f);
    assert_true(fabsf(turned.yaw - straight.yaw) < 1e-3f);
    assert_true(fabsf(turned.pitch - straight.pitch) < 1e-3f);
}

static void sample__every_number__changes_the_picture(void **state)
{
    struct mdl_sample_face base = {
        .identity = 9, .eyes = 1, .mouth = 0, .light = 1, .noise = 4};
    struct mdl_sample_face other[6];
    uint8_t *a = malloc(CROP), *b = malloc(CROP);

    (void)state;
    mdl_sample_face_draw(&base, a);
    mdl_sample_face_draw(&base, b);
    assert_memory_equal(a, b, CROP);
    for (int i = 0; i < 6; i++)
        other[i] = base;
    other[0].identity = 10;
    other[1].eyes = 0;
    other[2].mouth = 1;
    other[3].light = 0.2f;
    other[4].turn = 0.8f;
    other[5].noise = 5;
    for (int i = 0; i < 6; i++) {
        mdl_sample_face_draw(&other[i], b);
        assert_true(distance(a, b) > 0.2);
    }
    free(a);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(similarity__known_one__found_again),
        cmocka_unit_test(similarity__one_point_or_nan__refused),
        cmocka_unit_test(align__a_crop_in_its_place__comes_back),
        cmocka_unit_test(crop__sizes__square_and_large_enough),
        cmocka_unit_test(suppress__overlapping__the_best_stay_in_order),
        cmocka_unit_test(quality__each_reason__at_its_limit_and_past),
        cmocka_unit_test(pose__template_turned__roll_alone),
        cmocka_unit_test(sample__every_number__changes_the_picture),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
