/* consumer BUNDLE: what a grey image's tokens are. C99, and nothing of edgeprune but its header. */
#include <edgeprune.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Say why, and let go of everything. */
static int leave(edgeprune_bundle *bundle, const char *doing) {
    fprintf(stderr, "%s: %s\n", doing, edgeprune_error(bundle));
    edgeprune_close(bundle);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: consumer BUNDLE\n");
        return 2;
    }
    edgeprune_bundle *bundle;
    if (edgeprune_open(argv[1], NULL, &bundle) != EDGEPRUNE_OK) return leave(NULL, "open");

    edgeprune_info info = EDGEPRUNE_INFO;
    edgeprune_tensor input, output;
    if (edgeprune_get_info(bundle, &info) != EDGEPRUNE_OK) return leave(bundle, "info");
    if (edgeprune_find(bundle, "pixel_values", &input) != EDGEPRUNE_OK) return leave(bundle, "input");
    if (edgeprune_find(bundle, "tokens", &output) != EDGEPRUNE_OK) return leave(bundle, "output");

    const size_t width = 640, height = 480;
    unsigned char *rgb = malloc(3 * width * height);
    void *pixels = malloc(input.nbytes), *tokens = malloc(output.nbytes);
    int failed = rgb == NULL || pixels == NULL || tokens == NULL;
    if (!failed) {
        memset(rgb, 128, 3 * width * height);
        edgeprune_buffer in = {input.name, pixels, input.nbytes}, out = {output.name, tokens, output.nbytes};
        failed = edgeprune_preprocess(bundle, rgb, width, height, 0, pixels, info.image_nbytes) != EDGEPRUNE_OK ||
                 edgeprune_run(bundle, &in, 1, &out, 1) != EDGEPRUNE_OK;
        if (failed) fprintf(stderr, "run: %s\n", edgeprune_error(bundle));
        else printf("%s on %s: %d tokens, edgeprune %s\n", info.method, info.device, (int)info.keep, edgeprune_version());
    }
    free(rgb);
    free(pixels);
    free(tokens);
    edgeprune_close(bundle);
    return failed;
}
