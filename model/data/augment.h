#ifndef MODEL_DATA_AUGMENT_H
#define MODEL_DATA_AUGMENT_H

#include <stdint.h>

/* What a camera in a car does to a face, drawn at random. Strengths are 0 for
 * none; chances 0 to 1. */
struct mdl_augment {
    float flip;    /* chance */
    float shift;   /* of the side, either way */
    float zoom;    /* either way */
    float turn;    /* degrees, either way */
    float light;   /* brightness and contrast, either way */
    float night;   /* chance of a dark picture */
    float grey;    /* chance of infrared: grey */
    float blur;    /* chance */
    float noise;   /* standard deviation, of 255 */
    float jpeg;    /* chance of being compressed, quality 20 to 80 */
    float occlude; /* chance of a covered box: over the eyes, over the mouth, or
                    * anywhere */
};

/* The usual ones. */
extern const struct mdl_augment mdl_augment_default;

/* rgb [side, side, 3] to out, changed by the generator *seed, which moves on.
 * Thread: any. */
void mdl_augment(const struct mdl_augment *a, const uint8_t *rgb, int side,
                 uint64_t *seed, uint8_t *out);

/* What of it leaves every pixel at its place: blur, light, noise, occlusion; in
 * place. No blur over 512 px a side. */
void mdl_augment_look(const struct mdl_augment *a, int side, uint64_t *seed,
                      uint8_t *rgb);

/* Another picture's share in rgb: blended in, up to a half, or a box of it. */
void mdl_mix(const uint8_t *other, int side, uint64_t *seed, uint8_t *rgb);

/* The generator: uniform in [0, 1). */
double mdl_uniform(uint64_t *seed);

#endif
