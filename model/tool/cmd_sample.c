/* tscaf-model sample: a drawn face as a picture. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tool/cmd.h"
#include "model/vision/face.h"

static const char help[] =
    "usage: tscaf-model sample [--identity N] [--eyes X] [--mouth X] "
    "[--light X]\n"
    "                          [--turn X] [--noise N] OUT.png|OUT.jpg\n"
    "\n"
    "Draws an aligned 112x112 face of nobody: the same numbers draw the same\n"
    "picture. Eyes and mouth are 0 closed to 1 open, light 0 night to 1 day,\n"
    "turn -1 left to 1 right.\n";

static int write_picture(const char *path, const uint8_t *rgb)
{
    size_t len = strlen(path), n = 0;
    uint8_t *bytes = NULL;
    struct ut_error e;
    enum ut_err rc;
    FILE *f;

    if (len > 4 && !strcmp(path + len - 4, ".jpg"))
        rc = mdl_image_encode_jpeg(rgb, MDL_FACE_SIDE_PX, MDL_FACE_SIDE_PX, 92,
                                   &bytes, &n, &e);
    else
        rc = mdl_image_encode_png(rgb, MDL_FACE_SIDE_PX, MDL_FACE_SIDE_PX,
                                  &bytes, &n, &e);
    if (!rc) {
        f = fopen(path, "wb");
        if (!f || fwrite(bytes, 1, n, f) != n)
            rc = ut_fail(&e, UT_EIO, "%s: cannot be written: %m", path);
        if (f && fclose(f) && !rc)
            rc = ut_fail(&e, UT_EIO, "%s: cannot be written: %m", path);
    }
    free(bytes);
    return rc ? cmd_fail(&e) : 0;
}

int cmd_sample(int argc, char **argv)
{
    static const struct option options[] = {
        {"identity", required_argument, NULL, 'i'},
        {"eyes", required_argument, NULL, 'e'},
        {"mouth", required_argument, NULL, 'm'},
        {"light", required_argument, NULL, 'l'},
        {"turn", required_argument, NULL, 't'},
        {"noise", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct mdl_sample_face s = {.identity = 1, .eyes = 1, .light = 1};
    static uint8_t rgb[MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3];
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        double v = c == '?' || c == 'h' ? 0 : atof(optarg);

        if (c == 'h')
            return fputs(help, stdout) < 0;
        if (c == '?')
            return 2;
        if (v < -1 || ((c == 'e' || c == 'm' || c == 'l') && v < 0) ||
            (c != 'i' && c != 'n' && v > 1)) {
            fprintf(stderr, "tscaf-model: %s is out of range\n", optarg);
            return 2;
        }
        switch (c) {
        case 'i':
            s.identity = (uint32_t)v;
            break;
        case 'e':
            s.eyes = (float)v;
            break;
        case 'm':
            s.mouth = (float)v;
            break;
        case 'l':
            s.light = (float)v;
            break;
        case 't':
            s.turn = (float)v;
            break;
        default:
            s.noise = (uint32_t)v;
        }
    }
    if (argc - optind != 1) {
        fputs(help, stderr);
        return 2;
    }
    mdl_sample_face_draw(&s, rgb);
    return write_picture(argv[optind], rgb);
}
