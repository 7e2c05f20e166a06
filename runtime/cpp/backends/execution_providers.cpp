#include "backends/execution_providers.hpp"

#include "backends/gpu.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

constexpr ExecutionProvider PROVIDERS[] = {
    {EDGEPRUNE_CPU, "cpu", "CPUExecutionProvider"},
    {EDGEPRUNE_CUDA, "cuda", "CUDAExecutionProvider"},
    {EDGEPRUNE_ORT_TENSORRT, "ort-tensorrt", "TensorrtExecutionProvider"},
    {EDGEPRUNE_ORT_TENSORRT_RTX, "ort-tensorrt-rtx", "NvTensorRTRTXExecutionProvider"},
};

Error unusable(const ExecutionProvider &wanted, const std::string &why) {
    return no_device("device ", wanted.name, " cannot be used: ", why, "; install an ONNX Runtime that was built with ",
                     wanted.provider, " and the libraries that it needs, or use --device cpu");
}

}  // namespace

const ExecutionProvider &provider_of(edgeprune_device device) {
    for (const ExecutionProvider &one : PROVIDERS)
        if (one.device == device) return one;
    throw wrong_request("device ", static_cast<int>(device), " is not run by ONNX Runtime");
}

std::string missing(const OnnxRuntime &runtime, const ExecutionProvider &wanted, int gpu) {
    if (!runtime.has(wanted.provider))
        return line("this ONNX Runtime (", runtime.version(), ") was built without ", wanted.provider);
    return wanted.device == EDGEPRUNE_CPU ? "" : find_gpu(gpu).why_not;
}

// Not run here: needs a GPU.
void add_provider(const OnnxRuntime &runtime, OrtSessionOptions *options, const ExecutionProvider &wanted, int gpu,
                  const Manifest &manifest) {
    if (const std::string why = missing(runtime, wanted, gpu); !why.empty()) throw unusable(wanted, why);
    const OrtApi &api = runtime.api();
    const auto check = [&](OrtStatus *status) {
        if (const std::string why = runtime.reason(status); !why.empty()) throw unusable(wanted, why);
    };
    const std::string number = std::to_string(gpu);
    if (wanted.device == EDGEPRUNE_CUDA) {
        // TF32's 10-bit mantissa would break the float32 bound of parity.
        const char *keys[] = {"device_id", "use_tf32"}, *values[] = {number.c_str(), "0"};
        OrtCUDAProviderOptionsV2 *made = nullptr;
        check(api.CreateCUDAProviderOptions(&made));
        const Owned<OrtCUDAProviderOptionsV2> cuda(made, {api.ReleaseCUDAProviderOptions});
        check(api.UpdateCUDAProviderOptions(made, keys, values, 2));
        check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, made));
    } else if (wanted.device == EDGEPRUNE_ORT_TENSORRT) {
        const char *halves = manifest.computes() == "float16" ? "1" : "0", *bytes = manifest.quantised.is_null() ? "0" : "1";
        const char *keys[] = {"device_id", "trt_fp16_enable", "trt_int8_enable"};
        const char *values[] = {number.c_str(), halves, bytes};
        OrtTensorRTProviderOptionsV2 *made = nullptr;
        check(api.CreateTensorRTProviderOptions(&made));
        const Owned<OrtTensorRTProviderOptionsV2> tensorrt(made, {api.ReleaseTensorRTProviderOptions});
        check(api.UpdateTensorRTProviderOptions(made, keys, values, 3));
        check(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, made));
    } else if (wanted.device == EDGEPRUNE_ORT_TENSORRT_RTX) {
        const char *keys[] = {"device_id"}, *values[] = {number.c_str()};
        check(api.SessionOptionsAppendExecutionProvider(options, "NvTensorRtRtx", keys, values, 1));
    }
}

}  // namespace edgeprune
