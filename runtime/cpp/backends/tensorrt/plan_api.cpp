// The border of the library: what is thrown inside becomes a status and a line.

#include "backends/tensorrt/plan_api.h"

#include <algorithm>
#include <cstdio>
#include <new>

#include "backends/tensorrt/plan.hpp"
#include "error.hpp"

struct edgeprune_plan : edgeprune::OpenPlan {
    using OpenPlan::OpenPlan;
};

namespace {

template <class Call>
edgeprune_status guarded(edgeprune_plan_why *why, Call call) noexcept {
    const auto say = [why](const char *text) { std::snprintf(why->text, sizeof why->text, "%s", text); };
    try {
        call();
        return EDGEPRUNE_OK;
    } catch (const edgeprune::Error &error) {
        say(error.what());
        return error.status;
    } catch (const std::exception &error) {
        say(error.what());
    } catch (...) {
        say("an error that does not say what it is");
    }
    return EDGEPRUNE_FAILED;
}

edgeprune_status open(const void *content, size_t nbytes, int32_t gpu, edgeprune_plan **plan, edgeprune_plan_why *why) {
    return guarded(why, [&] { *plan = new edgeprune_plan(content, nbytes, gpu); });
}

void close(edgeprune_plan *plan) { delete plan; }

size_t count(const edgeprune_plan *plan) { return plan->tensors().size(); }

void tensor(const edgeprune_plan *plan, size_t at, edgeprune_plan_tensor *tensor) {
    const auto &found = plan->tensors()[at];
    *tensor = {found.name.c_str(), found.input, found.dtype, static_cast<int32_t>(found.shape.size()), {}};
    std::copy(found.shape.begin(), found.shape.end(), tensor->shape);
}

edgeprune_status run(edgeprune_plan *plan, const edgeprune_plan_memory *memory, size_t count, edgeprune_plan_why *why) {
    return guarded(why, [&] { plan->run(memory, count); });
}

edgeprune_status run_cuda(edgeprune_plan *plan, const edgeprune_plan_memory *memory, size_t count, void *stream,
                          edgeprune_plan_why *why) {
    return guarded(why, [&] { plan->run_cuda(memory, count, static_cast<cudaStream_t>(stream)); });
}

}  // namespace

const edgeprune_plan_functions *edgeprune_plan_api(void) {
    static const std::string release = edgeprune::OpenPlan::release();
    static const edgeprune_plan_functions functions = {
        EDGEPRUNE_PLAN_API_VERSION, edgeprune::OpenPlan::kind(), release.c_str(), open, close, count, tensor, run,
        run_cuda,
    };
    return &functions;
}
