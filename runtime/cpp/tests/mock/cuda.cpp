// CUDA's runtime and driver on host memory: nothing happens before its stream is waited for. For tests alone.

#include "cuda.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>

struct CUstream_st {
    Queue waits;
    Queue *captured = nullptr;
};
struct CUevent_st {
    cudaStream_t stream = nullptr;
};
struct CUgraph_st {
    Queue queue;
};
struct CUgraphExec_st {
    Queue queue;
};

namespace {

CUstream_st the_default;
std::set<const void *> device_memory;
std::set<cudaStream_t> streams{&the_default};
cudaError_t last = cudaSuccess;
int launches = 0, current = 0;

CUstream_st &of(cudaStream_t stream) { return stream ? *stream : the_default; }

cudaError_t answer(const char *call) { return last = mock_fails(call) ? cudaErrorMemoryAllocation : cudaSuccess; }

void finish(cudaStream_t stream) {
    Queue waits;
    waits.swap(of(stream).waits);
    for (const Work &work : waits) work();
}

}  // namespace

void mock_queue(cudaStream_t stream, Work work) {
    CUstream_st &to = of(stream);
    (to.captured ? *to.captured : to.waits).push_back(std::move(work));
}

bool mock_fails(const char *call) {
    const char *named = std::getenv("MOCK_FAILS");
    return named && std::strcmp(named, call) == 0;
}

extern "C" {

cudaError_t cudaGetLastError() {
    const cudaError_t was = last;
    last = cudaSuccess;
    return was;
}
const char *cudaGetErrorString(cudaError_t error) { return error == cudaErrorMemoryAllocation ? "out of memory" : "?"; }
cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    current = device;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **memory, size_t nbytes) {
    if (const cudaError_t failed = answer("cudaMalloc")) return failed;
    device_memory.insert(*memory = std::malloc(nbytes));
    return cudaSuccess;
}
cudaError_t cudaFree(void *memory) {
    device_memory.erase(memory);
    std::free(memory);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **memory, size_t nbytes) {
    *memory = std::malloc(nbytes);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *memory) {
    std::free(memory);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t nbytes, enum cudaMemcpyKind, cudaStream_t stream) {
    if (const cudaError_t failed = answer("cudaMemcpyAsync")) return failed;
    mock_queue(stream, [=] { std::memcpy(to, from, nbytes); });
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    streams.insert(*stream = new CUstream_st);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    finish(stream);
    streams.erase(stream);
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    finish(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) { return cudaEventSynchronize(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->stream = &of(stream);
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (streams.count(event->stream)) finish(event->stream);
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    if (const cudaError_t failed = answer("cudaStreamBeginCapture")) return failed;
    of(stream).captured = new Queue;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    Queue *captured = of(stream).captured;
    of(stream).captured = nullptr;
    if (mock_fails("cudaStreamEndCapture")) {
        delete captured;
        return last = cudaErrorStreamCaptureInvalidated;
    }
    *graph = new CUgraph_st{*captured};
    delete captured;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
    if (const cudaError_t failed = answer("cudaGraphInstantiateWithFlags")) return failed;
    *executable = new CUgraphExec_st{graph->queue};
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    ++launches;
    for (const Work &work : executable->queue) mock_queue(stream, work);
    return cudaSuccess;
}

// What a test asks of the mock.
MOCK_API int mock_graph_launches() { return launches; }

// The driver, which is looked for in libcuda.so.1.
MOCK_API int cuInit(unsigned) { return mock_fails("cuInit") ? 100 : 0; }
MOCK_API int cuDriverGetVersion(int *version) {
    *version = 12060;
    return 0;
}
MOCK_API int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}
MOCK_API int cuDeviceGetAttribute(int *value, int attribute, int) {
    *value = attribute == 75 ? 8 : 7;
    return 0;
}
MOCK_API int cuDeviceGetName(char *name, int size, int) {
    std::strncpy(name, "Mock", static_cast<std::size_t>(size));
    return 0;
}
MOCK_API int cuPointerGetAttribute(void *value, int attribute, std::uintptr_t address) {
    const bool known = device_memory.count(reinterpret_cast<const void *>(address)) != 0;
    if (!known) return 1;
    *static_cast<unsigned *>(value) = attribute == 2 ? 2 : 0;
    return 0;
}
}
