// One plan of TensorRT or TensorRT-RTX, open on the GPU, as runtime/backends/plan_session.py opens it.
//
// Host memory is pinned and device memory allocated once. The work of a run is one CUDA graph where it can be captured:
// a small encoder is mostly launches. TensorRT-RTX captures it by itself.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <NvInfer.h>

#include "backends/tensorrt/cuda.hpp"
#include "backends/tensorrt/plan_api.h"

namespace edgeprune {

class OpenPlan {
  public:
    struct Tensor {
        std::string name;
        bool input;
        edgeprune_dtype dtype;
        std::vector<std::int64_t> shape;
        std::size_t nbytes;
        cuda::Pinned host;
        cuda::Device device;
    };

    // Throws no_device when TensorRT refuses the plan, bad_bundle for tensors that this library does not know, failed
    // when CUDA fails.
    OpenPlan(const void *content, std::size_t nbytes, int gpu);
    ~OpenPlan();

    const std::vector<Tensor> &tensors() const { return tensors_; }
    void run(const edgeprune_plan_memory *memory, std::size_t count);
    void run_cuda(const edgeprune_plan_memory *memory, std::size_t count, cudaStream_t stream);

    static const char *kind();
    static std::string release();  // of the library that is loaded

  private:
    // The work of a run on certain memory.
    struct Work {
        std::vector<void *> addresses;  // of every tensor
        bool ran = false;               // TensorRT sets itself up in the first run, which cannot be captured
        bool refused = false;           // a capture failed: kernels are launched one by one
        cuda::Executable graph;
    };

    void allocate(const char *name);
    void launch(Work &work, cudaStream_t stream);
    void capture(Work &work);
    void enqueue(cudaStream_t stream);
    void follow(cudaStream_t stream);

    int gpu_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;  // must outlive the engine
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
#ifdef TRT_MAJOR_RTX
    std::unique_ptr<nvinfer1::IRuntimeConfig> config_;
#endif
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    cuda::Stream stream_;
    cuda::Event done_;                  // with the last run
    std::vector<Tensor> tensors_;
    Work host_, given_;                 // on memory of this plan, and on the caller's
    const Work *set_ = nullptr;         // whose addresses the context has
    std::vector<void *> addresses_;     // of this call
};

}  // namespace edgeprune
