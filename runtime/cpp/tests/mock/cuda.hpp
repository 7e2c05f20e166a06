// What is queued on a stream of the mock, which TensorRT's part of it adds to.
#pragma once

#include <functional>
#include <vector>

#include <cuda_runtime_api.h>

using Work = std::function<void()>;
using Queue = std::vector<Work>;

// To what is captured, or to what waits for the stream.
void mock_queue(cudaStream_t stream, Work work);
// Whether the environment variable MOCK_FAILS names this call.
bool mock_fails(const char *call);
