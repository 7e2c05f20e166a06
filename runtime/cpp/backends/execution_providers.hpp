// What of ONNX Runtime runs a graph: the CPU, or one of its execution providers for NVIDIA's GPUs.
#pragma once

#include "backends/backend.hpp"
#include "backends/onnxruntime_library.hpp"

namespace edgeprune {

struct ExecutionProvider {
    edgeprune_device device;
    const char *name;      // of the device
    const char *provider;  // as ONNX Runtime calls it
};

// Throws wrong_request for a device that is not ONNX Runtime's.
const ExecutionProvider &provider_of(edgeprune_device device);

// Why an execution provider need not be tried: "" where it may be.
std::string missing(const OnnxRuntime &runtime, const ExecutionProvider &wanted, int gpu);

// Throws no_device when it is not there. manifest: says what the graph computes in.
void add_provider(const OnnxRuntime &runtime, OrtSessionOptions *options, const ExecutionProvider &wanted, int gpu,
                  const Manifest &manifest);

}  // namespace edgeprune
