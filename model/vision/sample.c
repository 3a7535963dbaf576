/* Drawn faces: ellipses and strokes over the places of the ArcFace template,
 * anti-aliased by their distance, lit from one side, with grain. */
#include <math.h>

#include "model/vision/face.h"

#define SIDE MDL_FACE_SIDE_PX

struct colour {
    float r, g, b;
};

struct canvas {
    struct colour px[SIDE * SIDE];
};

/* A number in [0, 1), the k-th of identity id. */
static float trait(uint32_t id, uint32_t k)
{
    uint32_t h = id * 2654435761u ^ (k + 1) * 2246822519u;

    h = (h ^ h >> 15) * 2246822519u;
    h = (h ^ h >> 13) * 3266489917u;
    return (float)((h ^ h >> 16) >> 8) / 16777216.0f;
}

static struct colour mix(struct colour a, struct colour b, float t)
{
    return (struct colour){a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t,
                           a.b + (b.b - a.b) * t};
}

/* Fills an ellipse; its edge is soft pixels wide. */
static void ellipse(struct canvas *c, float x, float y, float rx, float ry,
                    struct colour col, float soft)
{
    if (rx < 0.5f || ry < 0.5f)
        return;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            float dx = ((float)j - x) / rx, dy = ((float)i - y) / ry;
            float r = sqrtf(dx * dx + dy * dy);
            float cover = (1 - r) * (rx < ry ? rx : ry) / soft + 0.5f;

            if (cover > 0)
                c->px[i * SIDE + j] =
                    mix(c->px[i * SIDE + j], col, cover < 1 ? cover : 1);
        }
}

static void eye(struct canvas *c, const struct mdl_sample_face *s, float x,
                float y, struct colour skin)
{
    float rx = 8 + 2 * trait(s->identity, 20);
    float ry = 1 + 4 * s->eyes;
    struct colour white = {235, 235, 230}, dark = {20, 18, 16};
    struct colour iris = {40 + 90 * trait(s->identity, 21),
                          60 + 60 * trait(s->identity, 22),
                          40 + 110 * trait(s->identity, 23)};

    ellipse(c, x, y, rx + 1, ry + 1.5f, mix(skin, dark, 0.55f), 1.5f);
    if (s->eyes < 0.15f)
        return;
    ellipse(c, x, y, rx, ry, white, 1);
    ellipse(c, x + 2 * s->turn, y, ry < 4 ? ry : 4, ry, iris, 1);
    ellipse(c, x + 2 * s->turn, y, 2, ry < 2 ? ry : 2, dark, 1);
}

static void features(struct canvas *c, const struct mdl_sample_face *s,
                     struct colour skin, struct colour hair)
{
    uint32_t id = s->identity;
    float shift = 5 * s->turn, spread = 1 - 0.12f * fabsf(s->turn);
    float left = 56 - 17.7f * spread + shift,
          right = 56 + 17.5f * spread + shift;
    float brow = 40 - 5 * trait(id, 10), thick = 1.2f + 2 * trait(id, 11);
    struct colour lip = {150 + 50 * trait(id, 30), 60 + 30 * trait(id, 31), 70};
    struct colour dark = {45, 15, 18};
    float nose = 5 + 3 * trait(id, 12);

    ellipse(c, left, brow, 10, thick, hair, 1.5f);
    ellipse(c, right, brow, 10, thick, hair, 1.5f);
    eye(c, s, left, 51.6f, skin);
    eye(c, s, right, 51.5f, skin);
    ellipse(c, 56 + 1.6f * shift, 64, nose * 0.55f, 12,
            mix(skin, (struct colour){255, 245, 235}, 0.25f), 4);
    ellipse(c, 56 + 1.6f * shift, 73, nose, 3.5f,
            mix(skin, (struct colour){70, 30, 20}, 0.35f), 3);
    ellipse(c, 56 + shift, 92.3f, 13 + 4 * trait(id, 13),
            2.5f + trait(id, 14) + 12 * s->mouth, lip, 1.5f);
    if (s->mouth > 0.05f)
        ellipse(c, 56 + shift, 92.3f, 11 + 2 * trait(id, 13), 11 * s->mouth,
                dark, 1.5f);
    if (trait(id, 40) > 0.6f) /* a beard */
        ellipse(c, 56 + shift, 108, 24, 8, mix(skin, hair, 0.7f), 5);
    if (trait(id, 41) > 0.7f) { /* a mole */
        float at = trait(id, 42) > 0.5f ? 30 : 80;

        ellipse(c, at + shift, 78, 2, 2, (struct colour){60, 35, 25}, 1);
    }
}

static uint8_t level(float v)
{
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5f);
}

void mdl_sample_face_draw(const struct mdl_sample_face *s, uint8_t *out)
{
    uint32_t id = s->identity, grain = s->noise * 747796405u + 1;
    float tone = trait(id, 0), dim = 0.08f + 0.92f * s->light;
    struct colour skin =
        mix((struct colour){240, 205, 180}, (struct colour){95, 62, 45}, tone);
    struct colour hair = mix((struct colour){25, 20, 18},
                             (struct colour){200, 150, 70}, trait(id, 1));
    struct colour back = {90 + 90 * trait(id, 2), 100 + 80 * trait(id, 3),
                          110 + 80 * trait(id, 4)};
    struct canvas c;

    for (int i = 0; i < SIDE * SIDE; i++)
        c.px[i] = back;
    ellipse(&c, 56 + 2 * s->turn, 40 - 6 * trait(id, 5), 50 + 6 * trait(id, 6),
            48, hair, 2);
    ellipse(&c, 56 + 4 * s->turn, 66, 40 + 8 * trait(id, 7),
            56 + 5 * trait(id, 8), skin, 2);
    features(&c, s, skin, hair);
    for (int i = 0; i < SIDE * SIDE; i++) {
        /* Light falls from the left; the grain is that of a cheap sensor. */
        float side = 1.08f - 0.16f * (float)(i % SIDE) / SIDE, noise;

        grain = grain * 1664525u + 1013904223u;
        noise = ((float)(grain >> 16) / 65536 - 0.5f) * 10;
        out[3 * i] = level(c.px[i].r * dim * side + noise);
        out[3 * i + 1] = level(c.px[i].g * dim * side + noise);
        out[3 * i + 2] = level(c.px[i].b * dim * side + noise);
    }
}
