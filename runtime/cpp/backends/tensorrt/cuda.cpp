#include "backends/tensorrt/cuda.hpp"

#include "error.hpp"

namespace edgeprune::cuda {

void check(cudaError_t code, const char *call) {
    if (code == cudaSuccess) return;
    cudaGetLastError();  // else the next call would report it again
    throw failed(call, ": ", cudaGetErrorString(code), " (CUDA error ", static_cast<int>(code), ")");
}

OnGpu::OnGpu(int number) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == number) return;
    check(cudaSetDevice(number), "cudaSetDevice");
    changed_ = true;
}

OnGpu::~OnGpu() {
    if (changed_) cudaSetDevice(before_);
}

void copy(void *to, const void *from, std::size_t nbytes, cudaMemcpyKind way, cudaStream_t stream) {
    check(cudaMemcpyAsync(to, from, nbytes, way, stream), "cudaMemcpyAsync");
}

Pinned pinned(std::size_t nbytes) {
    void *memory = nullptr;
    check(cudaMallocHost(&memory, nbytes), "cudaMallocHost");
    return Pinned(memory);
}

Device device(std::size_t nbytes) {
    void *memory = nullptr;
    check(cudaMalloc(&memory, nbytes), "cudaMalloc");
    return Device(memory);
}

Stream stream() {
    cudaStream_t made = nullptr;
    // What runs on the default stream does not hold it up.
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return Stream(made);
}

Event event() {
    cudaEvent_t made = nullptr;
    check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    return Event(made);
}

}  // namespace edgeprune::cuda
