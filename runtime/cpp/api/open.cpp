// edgeprune_open and edgeprune_close, edgeprune_error, edgeprune_version.

#include <atomic>

#include "api/handle.hpp"
#include "backends/cut.hpp"
#include "bundle/shown.hpp"

using namespace edgeprune;

namespace {

edgeprune_options read(const edgeprune_options *given) {
    edgeprune_options options = EDGEPRUNE_OPTIONS;
    if (!given) return options;
    if (given->struct_nbytes != sizeof options)
        throw wrong_request("struct_nbytes of the options must be ", sizeof options,
                            ", as EDGEPRUNE_OPTIONS sets it, got ", given->struct_nbytes,
                            "; compile with the header of this library, ", EDGEPRUNE_VERSION);
    options = *given;
    return options;
}

Choice choice_of(const edgeprune_options &options) {
    Choice choice;
    choice.device = options.device;
    choice.gpu = options.gpu;
    choice.threads = options.threads;
    choice.split = options.split != 0;
    if (options.onnxruntime) choice.onnxruntime = options.onnxruntime;
    if (const edgeprune_log log = options.log)
        choice.log = [log, context = options.log_context](const std::string &text) {
            log(context, shown(text).c_str());
        };
    return choice;
}

edgeprune_bundle *opened(const char *folder, const edgeprune_options &options) {
    static std::atomic<std::uint64_t> numbers{0};
    Bundle files = Bundle::open(folder, !options.skip_hashes);
    Preprocessing preprocessing(files.manifest.preprocessing);
    std::unique_ptr<Backend> backend = open_backend(files, choice_of(options));
    if (options.keep) backend = cut_to(std::move(backend), files.manifest, options.keep);
    return new edgeprune_bundle(++numbers, std::move(files), std::move(backend), std::move(preprocessing),
                                !options.skip_finite);
}

}  // namespace

const char *edgeprune_version(void) { return EDGEPRUNE_VERSION; }

edgeprune_status edgeprune_open(const char *folder, const edgeprune_options *options, edgeprune_bundle **bundle) {
    return guarded(0, [&] {
        need(bundle, "bundle");
        *bundle = nullptr;
        need(folder, "folder");
        *bundle = opened(folder, read(options));
    });
}

void edgeprune_close(edgeprune_bundle *bundle) { delete bundle; }

const char *edgeprune_error(const edgeprune_bundle *bundle) { return last_error(bundle ? bundle->number : 0); }
