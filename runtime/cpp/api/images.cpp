// edgeprune_preprocess, edgeprune_detect and edgeprune_tile_order: the border in front of images/.

#include "api/handle.hpp"
#include "images/detections.hpp"

using namespace edgeprune;

edgeprune_status edgeprune_preprocess(edgeprune_bundle *bundle, const uint8_t *rgb, size_t width, size_t height,
                                      size_t stride, void *pixels, size_t pixels_nbytes) {
    return with(bundle, [&](edgeprune_bundle &open) {
        need(rgb, "rgb");
        need(pixels, "pixels");
        edgeprune_info info = EDGEPRUNE_INFO;
        describe(open, info);
        if (pixels_nbytes != info.image_nbytes)
            throw wrong_request("pixels must have the ", info.image_nbytes, " bytes of one image, got ", pixels_nbytes);
        if (stride && stride / 3 < width)
            throw wrong_request("stride must be 0 or at least the 3 bytes of each of ", width, " pixels, got ", stride);
        const std::lock_guard<std::mutex> turn(open.preparing);
        open.preprocessing({rgb, width, height, stride ? stride : 3 * width}, find(open.backend->inputs(), "pixel_values")->dtype, pixels);
    });
}
