// The few calls of NVIDIA's CUDA runtime that a plan needs; what it answers becomes nothing, or an error.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

namespace edgeprune::cuda {

// Throws failed that names the call, and what CUDA says about it.
void check(cudaError_t code, const char *call);

// The GPU that the thread's calls go to, until the end of the block.
class OnGpu {
  public:
    explicit OnGpu(int number);
    ~OnGpu();
    OnGpu(const OnGpu &) = delete;
    OnGpu &operator=(const OnGpu &) = delete;

  private:
    int before_ = 0;
    bool changed_ = false;
};

// Something of CUDA's that is let go of at the end. Errors of that are not reported: nobody can act on them.
template <class T, cudaError_t (*Free)(T)>
class Owned {
  public:
    Owned() = default;
    explicit Owned(T thing) : thing_(thing) {}
    Owned(Owned &&other) noexcept : thing_(other.thing_) { other.thing_ = nullptr; }
    Owned &operator=(Owned &&other) noexcept {
        if (this != &other) {
            reset();
            thing_ = other.thing_;
            other.thing_ = nullptr;
        }
        return *this;
    }
    ~Owned() { reset(); }

    T get() const { return thing_; }
    explicit operator bool() const { return thing_ != nullptr; }
    void reset() {
        if (thing_) Free(thing_);
        thing_ = nullptr;
    }

  private:
    T thing_ = nullptr;
};
using Pinned = Owned<void *, cudaFreeHost>;
using Device = Owned<void *, cudaFree>;
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using Executable = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

void copy(void *to, const void *from, std::size_t nbytes, cudaMemcpyKind way, cudaStream_t stream);
Pinned pinned(std::size_t nbytes);
Device device(std::size_t nbytes);
Stream stream();
Event event();

}  // namespace edgeprune::cuda
