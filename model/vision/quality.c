/* Why a face is poor: plain measures against the limits in face.h.
 *
 *   crop [112,112,3] -> grey [N,N] of the middle -> brightness, sharpness
 *   landmarks [5,2]  -> roll, yaw, pitch proxies */
#include <math.h>

#include "model/vision/face.h"

/* The middle of the crop: no black border, little hair or background. */
#define FROM 16
#define TO 96
#define N (TO - FROM)

static void middle_grey(const uint8_t *crop, float grey[N][N])
{
    for (int y = 0; y < N; y++)
        for (int x = 0; x < N; x++) {
            const uint8_t *p =
                crop + 3 * ((y + FROM) * MDL_FACE_SIDE_PX + x + FROM);

            grey[y][x] = 0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2];
        }
}

float mdl_face_brightness(const uint8_t *crop)
{
    float grey[N][N];
    double sum = 0;

    middle_grey(crop, grey);
    for (int y = 0; y < N; y++)
        for (int x = 0; x < N; x++)
            sum += grey[y][x];
    return (float)(sum / (N * N));
}

float mdl_face_sharpness(const uint8_t *crop)
{
    float grey[N][N];
    double sum = 0, squares = 0;
    int n = (N - 2) * (N - 2);

    middle_grey(crop, grey);
    for (int y = 1; y < N - 1; y++)
        for (int x = 1; x < N - 1; x++) {
            double l = grey[y - 1][x] + grey[y + 1][x] + grey[y][x - 1] +
                       grey[y][x + 1] - 4 * grey[y][x];

            sum += l;
            squares += l * l;
        }
    return (float)(squares / n - (sum / n) * (sum / n));
}

struct mdl_face_pose mdl_face_pose(const struct mdl_face *f)
{
    const float(*p)[2] = f->landmark;
    double ex = p[1][0] - p[0][0], ey = p[1][1] - p[0][1];
    double eyes = hypot(ex, ey);
    double mx = (p[3][0] + p[4][0] - p[0][0] - p[1][0]) / 2;
    double my = (p[3][1] + p[4][1] - p[0][1] - p[1][1]) / 2;
    double nx = p[2][0] - (p[0][0] + p[1][0]) / 2;
    double ny = p[2][1] - (p[0][1] + p[1][1]) / 2;
    double drop, cross = ex * my - ey * mx;
    struct mdl_face_pose pose = {0};

    pose.roll = (float)(atan2(ey, ex) * 180 / 3.14159265358979);
    if (!(eyes > 0) || !(fabs(cross) > 1e-6 * eyes)) {
        pose.yaw = pose.pitch = 1e6f; /* no face lies like that */
        return pose;
    }
    /* nose = eyes' middle + yaw * (eye to eye) + pitch * (eyes to mouth):
     * roll and a leaning mouth drop out. */
    drop = (ex * ny - ey * nx) / cross;
    pose.pitch = (float)drop;
    pose.yaw = (float)((nx * my - ny * mx) / cross);
    return pose;
}

unsigned mdl_face_quality(const uint8_t *crop, const struct mdl_face *face)
{
    unsigned bits = 0;

    if (mdl_face_sharpness(crop) < MDL_QUALITY_MIN_SHARPNESS)
        bits |= MDL_QUALITY_LOW_SHARPNESS;
    if (mdl_face_brightness(crop) < MDL_QUALITY_MIN_BRIGHTNESS)
        bits |= MDL_QUALITY_LOW_BRIGHTNESS;
    if (face) {
        struct mdl_face_pose p = mdl_face_pose(face);

        /* Written so that NaN is poor. */
        if (!(fminf(face->w, face->h) >= MDL_QUALITY_MIN_BOX_PX))
            bits |= MDL_QUALITY_SMALL_BOUNDING_BOX;
        if (!(face->score >= MDL_QUALITY_MIN_SCORE))
            bits |= MDL_QUALITY_LOW_CONFIDENCE;
        if (!(fabsf(p.roll) <= MDL_QUALITY_MAX_ROLL_DEG) ||
            !(fabsf(p.yaw) <= MDL_QUALITY_MAX_YAW) ||
            !(p.pitch >= MDL_QUALITY_MIN_PITCH) ||
            !(p.pitch <= MDL_QUALITY_MAX_PITCH))
            bits |= MDL_QUALITY_EXTREME_POSE;
    }
    return bits;
}

const char *mdl_quality_name(enum mdl_quality bit)
{
    switch (bit) {
    case MDL_QUALITY_SMALL_BOUNDING_BOX:
        return "SMALL_BOUNDING_BOX";
    case MDL_QUALITY_LOW_SHARPNESS:
        return "LOW_SHARPNESS";
    case MDL_QUALITY_LOW_BRIGHTNESS:
        return "LOW_BRIGHTNESS";
    case MDL_QUALITY_EXTREME_POSE:
        return "EXTREME_POSE";
    case MDL_QUALITY_LOW_CONFIDENCE:
        return "LOW_CONFIDENCE";
    }
    return "UNKNOWN";
}
