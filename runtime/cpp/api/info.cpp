// What a handle is, and its tensors.

#include <algorithm>

#include "api/handle.hpp"
#include "backends/tensors.hpp"

using namespace edgeprune;

namespace {

constexpr const char *PIXELS = "pixel_values";

edgeprune_tensor shown_as(const Spec &spec) {
    const auto rank = static_cast<std::int32_t>(spec.shape.size());
    edgeprune_tensor tensor{spec.name.c_str(), spec.dtype, rank, {}, spec.nbytes()};
    if (spec.shape.size() > EDGEPRUNE_MAX_RANK)
        throw bad_bundle(spec.name, " must have at most ", EDGEPRUNE_MAX_RANK, " dimensions, it is ", spec.shown(),
                         "; use a later library");
    std::copy(spec.shape.begin(), spec.shape.end(), tensor.shape);
    return tensor;
}

const Spec &at_place(const std::vector<Spec> &specs, std::size_t at, const char *kind) {
    if (at >= specs.size())
        throw wrong_request("the number of an ", kind, " must be in 0..", specs.size() - 1, ", got number ", at);
    return specs[at];
}

edgeprune_info described(const edgeprune_bundle &bundle) {
    const Manifest &manifest = bundle.files.manifest;
    const Backend &backend = *bundle.backend;
    edgeprune_info info = EDGEPRUNE_INFO;
    info.method = manifest.method.c_str();
    info.model = manifest.model.c_str();
    info.precision = manifest.precision.c_str();
    info.device = backend.device();
    info.source = backend.source().c_str();
    info.tiles = manifest.tiled() ? manifest.tiles : 1;
    info.pooled = manifest.pooled();
    info.grid_rows = manifest.rows;
    info.grid_columns = manifest.columns;
    info.nested = manifest.nested;
    info.detects = manifest.gives() == Gives::DETECTIONS;
    info.inputs = backend.inputs().size();
    info.outputs = backend.outputs().size();
    info.labels = manifest.labels.size();
    info.keep = manifest.keep;
    if (const Spec *indices = find(backend.outputs(), "indices"))
        if (indices->shape.size() == 2) info.keep = static_cast<std::int32_t>(indices->shape[1]);
    if (const Spec *pixels = find(backend.inputs(), PIXELS)) {
        const auto size = [&](std::size_t at) {
            return at < pixels->shape.size() ? static_cast<std::int32_t>(pixels->shape[at]) : 0;
        };
        const std::size_t first = pixels->dtype == EDGEPRUNE_UINT8 ? 1 : 2;
        info.batch = size(0);
        info.height = size(first);
        info.width = size(first + 1);
        info.image_nbytes = image_nbytes(bundle);
    }
    if (bundle.halves) info.seen_nbytes = bundle.halves->encode.backend->outputs()[0].nbytes();
    return info;
}

}  // namespace

std::size_t edgeprune::image_nbytes(const edgeprune_bundle &bundle) {
    const Spec &pixels = *find(bundle.backend->inputs(), PIXELS);
    const bool several = !bundle.files.manifest.tiled() && !pixels.open() && !pixels.shape.empty();
    return several ? pixels.nbytes() / static_cast<std::size_t>(pixels.shape[0]) : pixels.nbytes();
}

edgeprune_status edgeprune_get_info(const edgeprune_bundle *bundle, edgeprune_info *info) {
    return with(bundle, [&](const edgeprune_bundle &open) {
        need(info, "info");
        if (info->struct_nbytes != sizeof *info)
            throw wrong_request("struct_nbytes of the info must be ", sizeof *info, ", as EDGEPRUNE_INFO sets it, got ",
                                info->struct_nbytes, "; compile with the header of this library, ", EDGEPRUNE_VERSION);
        *info = described(open);
    });
}

edgeprune_status edgeprune_get_input(const edgeprune_bundle *bundle, size_t at, edgeprune_tensor *tensor) {
    return with(bundle, [&](const edgeprune_bundle &open) {
        need(tensor, "tensor");
        *tensor = shown_as(at_place(open.backend->inputs(), at, "input"));
    });
}

edgeprune_status edgeprune_get_output(const edgeprune_bundle *bundle, size_t at, edgeprune_tensor *tensor) {
    return with(bundle, [&](const edgeprune_bundle &open) {
        need(tensor, "tensor");
        *tensor = shown_as(at_place(open.backend->outputs(), at, "output"));
    });
}

edgeprune_status edgeprune_find(const edgeprune_bundle *bundle, const char *name, edgeprune_tensor *tensor) {
    return with(bundle, [&](const edgeprune_bundle &open) {
        need(name, "name");
        need(tensor, "tensor");
        const Spec *spec = find(open.backend->inputs(), name);
        if (!spec) spec = find(open.backend->outputs(), name);
        if (!spec)
            throw wrong_request("the bundle has no tensor ", name, "; it has the inputs ",
                                names_of(open.backend->inputs()), " and the outputs ",
                                names_of(open.backend->outputs()));
        *tensor = shown_as(*spec);
    });
}

const char *edgeprune_label(const edgeprune_bundle *bundle, size_t at) {
    if (!bundle || at >= bundle->files.manifest.labels.size()) return nullptr;
    return bundle->files.manifest.labels[at].c_str();
}
