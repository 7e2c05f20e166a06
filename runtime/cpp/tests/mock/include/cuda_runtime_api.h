/* A mock of NVIDIA's header, for tests alone: the part of it that backends/tensorrt/ uses. */
#ifndef MOCK_CUDA_RUNTIME_API_H
#define MOCK_CUDA_RUNTIME_API_H

#include <stddef.h>

#define MOCK_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorStreamCaptureInvalidated = 901
} cudaError_t;
typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
#define cudaStreamNonBlocking 1
#define cudaEventDisableTiming 2

MOCK_API cudaError_t cudaGetLastError(void);
MOCK_API const char *cudaGetErrorString(cudaError_t error);
MOCK_API cudaError_t cudaGetDevice(int *device);
MOCK_API cudaError_t cudaSetDevice(int device);
MOCK_API cudaError_t cudaMalloc(void **memory, size_t nbytes);
MOCK_API cudaError_t cudaFree(void *memory);
MOCK_API cudaError_t cudaMallocHost(void **memory, size_t nbytes);
MOCK_API cudaError_t cudaFreeHost(void *memory);
MOCK_API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t nbytes, enum cudaMemcpyKind kind,
                                     cudaStream_t stream);
MOCK_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
MOCK_API cudaError_t cudaStreamDestroy(cudaStream_t stream);
MOCK_API cudaError_t cudaStreamSynchronize(cudaStream_t stream);
MOCK_API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
MOCK_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
MOCK_API cudaError_t cudaEventDestroy(cudaEvent_t event);
MOCK_API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
MOCK_API cudaError_t cudaEventSynchronize(cudaEvent_t event);
MOCK_API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
MOCK_API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
MOCK_API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph,
                                                   unsigned long long flags);
MOCK_API cudaError_t cudaGraphDestroy(cudaGraph_t graph);
MOCK_API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
MOCK_API cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
