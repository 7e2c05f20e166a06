// Which executor opens a bundle: the one that is named, or the best that is here. What runtime/devices.py is for
// Python.
//
// auto   a plan that fits this machine, else the graph in ONNX Runtime on CUDA, else on the CPU

#include "backends/backend.hpp"

#include "backends/execution_providers.hpp"
#include "backends/gpu.hpp"
#include "backends/halves.hpp"
#include "backends/plan.hpp"
#include "backends/tensors.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

std::unique_ptr<Backend> open_on(Bundle &bundle, Choice choice, edgeprune_device device) {
    choice.device = device;
    if (choice.split) return open_halves(bundle, choice);
    auto backend = device == EDGEPRUNE_TENSORRT ? open_plan(bundle, choice) : open_onnxruntime(bundle, choice);
    check_tensors(bundle, choice.graph, *backend);
    return backend;
}

// Why no plan need be tried.
std::string no_plan(const Bundle &bundle, const Choice &choice) {
    if (!has_plan(bundle)) return "the bundle has no plan";
    return choice.split ? "a plan holds the encoder whole" : "";
}

// Why CUDA need not be tried.
std::string no_cuda(const Choice &choice) {
    try {
        return missing(OnnxRuntime::open(choice.onnxruntime), provider_of(EDGEPRUNE_CUDA), choice.gpu);
    } catch (const Error &error) {
        return error.what();
    }
}

std::unique_ptr<Backend> open_best(Bundle &bundle, const Choice &choice) {
    std::string plan_why;
    for (const auto device : {EDGEPRUNE_TENSORRT, EDGEPRUNE_CUDA}) {
        const bool plan = device == EDGEPRUNE_TENSORRT;
        std::string why = plan ? no_plan(bundle, choice) : no_cuda(choice);
        if (why.empty()) {
            try {
                return open_on(bundle, choice, device);
            } catch (const Error &error) {
                if (error.status == EDGEPRUNE_BAD_BUNDLE) throw;
                why = error.what();
            }
        }
        if (choice.log) choice.log(line("not ", plan ? "tensorrt" : "cuda", ": ", why));
        if (plan) plan_why = why;
    }
    try {
        return open_on(bundle, choice, EDGEPRUNE_CPU);
    } catch (const Error &error) {  // where there is a plan, what keeps it from running matters more
        if (error.status != EDGEPRUNE_NO_DEVICE || choice.split || !has_plan(bundle)) throw;
        throw no_device(plan_why, "; device cpu: ", error.what());
    }
}

}  // namespace

std::unique_ptr<Backend> open_backend(Bundle &bundle, const Choice &choice) {
    if (choice.device < EDGEPRUNE_AUTO || choice.device > EDGEPRUNE_ORT_TENSORRT_RTX)
        throw wrong_request("device must be one of edgeprune_device, 0..", static_cast<int>(EDGEPRUNE_ORT_TENSORRT_RTX),
                            ", got ", static_cast<int>(choice.device));
    if (choice.threads < 0)
        throw wrong_request("threads must be at least 1, or 0 for ONNX Runtime's own choice, got ", choice.threads);
    if (choice.gpu < 0) throw wrong_request("gpu must be at least 0, got ", choice.gpu);
    if (bundle.manifest.graphs.find(choice.graph) == bundle.manifest.graphs.end())
        throw wrong_request(bundle.folder, " has no graph ", choice.graph);
    if (choice.split) check_halves(bundle, choice.device);
    return choice.device == EDGEPRUNE_AUTO ? open_best(bundle, choice) : open_on(bundle, choice, choice.device);
}

}  // namespace edgeprune
