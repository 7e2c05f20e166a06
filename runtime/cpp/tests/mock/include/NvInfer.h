// A mock of NVIDIA's header, for tests alone: the part of it that backends/tensorrt/ uses.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "NvInferVersion.h"

namespace nvinfer1 {

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5, kINT64 = 8 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};

class ILogger {
  public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2 };
    virtual void log(Severity severity, const char *text) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
  public:
    virtual ~IExecutionContext() noexcept = default;
    virtual bool setTensorAddress(const char *name, void *data) noexcept = 0;
    virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

#ifdef MOCK_RTX
enum class CudaGraphStrategy : std::int32_t { kDISABLED = 0, kWHOLE_GRAPH_CAPTURE = 1 };
class IRuntimeConfig {
  public:
    virtual ~IRuntimeConfig() noexcept = default;
    virtual bool setCudaGraphStrategy(CudaGraphStrategy strategy) noexcept = 0;
};
#endif

class ICudaEngine {
  public:
    virtual ~ICudaEngine() noexcept = default;
    virtual std::int32_t getNbIOTensors() const noexcept = 0;
    virtual const char *getIOTensorName(std::int32_t at) const noexcept = 0;
    virtual Dims getTensorShape(const char *name) const noexcept = 0;
    virtual DataType getTensorDataType(const char *name) const noexcept = 0;
    virtual TensorIOMode getTensorIOMode(const char *name) const noexcept = 0;
    virtual IExecutionContext *createExecutionContext() noexcept = 0;
#ifdef MOCK_RTX
    virtual IRuntimeConfig *createRuntimeConfig() noexcept = 0;
    virtual IExecutionContext *createExecutionContext(IRuntimeConfig *config) noexcept = 0;
#endif
};

class IRuntime {
  public:
    virtual ~IRuntime() noexcept = default;
    virtual ICudaEngine *deserializeCudaEngine(const void *content, std::size_t nbytes) noexcept = 0;
};

}  // namespace nvinfer1

extern "C" MOCK_API std::int32_t getInferLibVersion() noexcept;
extern "C" MOCK_API std::int32_t getInferLibBuildVersion() noexcept;
extern "C" MOCK_API void *createInferRuntime_INTERNAL(void *logger, std::int32_t version) noexcept;

namespace nvinfer1 {
inline IRuntime *createInferRuntime(ILogger &logger) noexcept {
    return static_cast<IRuntime *>(createInferRuntime_INTERNAL(&logger, NV_TENSORRT_MAJOR));
}
}  // namespace nvinfer1
