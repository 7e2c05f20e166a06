// edgeprune_preprocess, edgeprune_detect, edgeprune_classify and edgeprune_tile_order: the border in front of images/.

#include <cstdint>

#include "api/handle.hpp"
#include "backends/tensors.hpp"
#include "images/classes.hpp"
#include "images/detections.hpp"
#include "images/tiles.hpp"

using namespace edgeprune;

namespace {

void need_aligned(const void *data, const char *name, DType dtype) {
    need(data, name);
    if (reinterpret_cast<std::uintptr_t>(data) % size_of(dtype))
        throw wrong_request(name, " must be aligned to the ", size_of(dtype), " bytes of a ", name_of(dtype),
                            ", it is at ", data);
}

void need_nbytes(std::size_t nbytes, std::size_t wanted, const char *name) {
    if (nbytes != wanted) throw wrong_request(name, " must have ", wanted, " bytes, got ", nbytes);
}

// One image's part of an output of a bundle of that kind.
View of_one_image(const edgeprune_bundle &bundle, Gives wanted, const char *name, const void *data, std::size_t nbytes) {
    const Spec *spec = find(bundle.backend->outputs(), name);
    if (bundle.files.manifest.gives() != wanted || !spec || spec->shape.size() < 2) {
        const bool detects = wanted == Gives::DETECTIONS;
        throw wrong_request(detects ? "detections need a bundle of a detector" : "classes need a bundle of a classifier",
                            ", this one gives ", names_of(bundle.backend->outputs()));
    }
    need_aligned(data, name, spec->dtype);
    const View view{spec->dtype, {spec->shape.begin() + 1, spec->shape.end()}, data};
    need_nbytes(nbytes, view.count() * size_of(spec->dtype), name);
    return view;
}

}  // namespace

edgeprune_status edgeprune_preprocess(edgeprune_bundle *bundle, const uint8_t *rgb, size_t width, size_t height,
                                      size_t stride, void *pixels, size_t pixels_nbytes) {
    return with(bundle, [&](edgeprune_bundle &open) {
        const Spec &spec = *find(open.backend->inputs(), "pixel_values");
        need(rgb, "rgb");
        need_aligned(pixels, "pixels", spec.dtype);
        need_nbytes(pixels_nbytes, image_nbytes(open), "pixels, of one image,");
        const std::lock_guard<std::mutex> turn(open.preparing);
        open.preprocessing({rgb, width, height, stride}, spec.dtype, pixels);
    });
}

edgeprune_status edgeprune_detect(const edgeprune_bundle *bundle, const void *logits, size_t logits_nbytes,
                                  const void *boxes, size_t boxes_nbytes, size_t width, size_t height, float threshold,
                                  edgeprune_detection *detections, size_t capacity, size_t *count) {
    return with(bundle, [&](const edgeprune_bundle &open) {
        need(count, "count");
        if (capacity) need(detections, "detections");
        const View classes = of_one_image(open, Gives::DETECTIONS, "logits", logits, logits_nbytes);
        const View corners = of_one_image(open, Gives::DETECTIONS, "pred_boxes", boxes, boxes_nbytes);
        *count = detect(classes, corners, width, height, threshold, detections, capacity);
    });
}

edgeprune_status edgeprune_classify(const edgeprune_bundle *bundle, const void *logits, size_t logits_nbytes,
                                    edgeprune_class *classes, size_t capacity) {
    return with(bundle, [&](const edgeprune_bundle &open) {
        if (capacity) need(classes, "classes");
        classify(of_one_image(open, Gives::LOGITS, "logits", logits, logits_nbytes), classes, capacity);
    });
}

edgeprune_status edgeprune_tile_order(const edgeprune_bundle *bundle, const int32_t *indices, size_t indices_nbytes,
                                      size_t width, size_t height, int32_t *order, size_t order_nbytes) {
    return with(bundle, [&](const edgeprune_bundle &open) {
        const Manifest &manifest = open.files.manifest;
        const Spec *spec = find(open.backend->outputs(), "indices");
        if (!open.preprocessing.tiled() || !spec || spec->shape.size() != 2)
            throw wrong_request("the order of tiles needs a bundle that cuts images into tiles, this one does not");
        need_aligned(indices, "indices", EDGEPRUNE_INT32);
        need_aligned(order, "order", EDGEPRUNE_INT32);
        need_nbytes(indices_nbytes, spec->nbytes(), "indices");
        need_nbytes(order_nbytes, spec->nbytes(), "order");
        const auto size = [&](std::size_t at) { return static_cast<std::size_t>(spec->shape[at]); };
        tile_order(indices, size(0), size(1), {manifest.rows, manifest.columns},
                   open.preprocessing.tile_shape(height, width), open.preprocessing.squeezed(),
                   open.preprocessing.whole_image(), order);
    });
}
