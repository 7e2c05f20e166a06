// TensorRT, whose plans are text and whose outputs are sums: see README.md. For tests alone.

#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <NvInfer.h>

#include "cuda.hpp"

namespace {

using namespace nvinfer1;

struct Tensor {
    std::string name;
    TensorIOMode mode;
    DataType type;
    Dims dims;
    std::size_t nbytes;
};
using Tensors = std::vector<Tensor>;

const std::map<std::string, std::pair<DataType, std::size_t>> TYPES = {
    {"float32", {DataType::kFLOAT, 4}}, {"float16", {DataType::kHALF, 2}}, {"uint8", {DataType::kUINT8, 1}},
    {"int32", {DataType::kINT32, 4}},   {"int64", {DataType::kINT64, 8}},  {"bool", {DataType::kBOOL, 1}},
    {"int8", {DataType::kINT8, 1}},
};

class Context final : public IExecutionContext {
  public:
    explicit Context(const Tensors &tensors) : tensors_(tensors) {}
    bool setTensorAddress(const char *name, void *data) noexcept override {
        addresses_[name] = data;
        return !mock_fails("setTensorAddress");
    }
    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (mock_fails("enqueueV3")) return false;
        mock_queue(stream, [tensors = tensors_, addresses = addresses_] { compute(tensors, addresses); });
        return true;
    }

  private:
    static void compute(const Tensors &tensors, std::map<std::string, void *> addresses) {
        unsigned sum = 0, number = 0;
        for (const Tensor &tensor : tensors)
            if (tensor.mode == TensorIOMode::kINPUT)
                for (std::size_t at = 0; at < tensor.nbytes; ++at)
                    sum += static_cast<const unsigned char *>(addresses.at(tensor.name))[at];
        for (const Tensor &tensor : tensors)
            if (tensor.mode == TensorIOMode::kOUTPUT)
                std::memset(addresses.at(tensor.name), static_cast<int>((sum + number++) & 0xffU), tensor.nbytes);
    }

    const Tensors tensors_;
    std::map<std::string, void *> addresses_;
};

#ifdef MOCK_RTX
class Config final : public IRuntimeConfig {
  public:
    bool setCudaGraphStrategy(CudaGraphStrategy) noexcept override { return true; }
};
#endif

class Engine final : public ICudaEngine {
  public:
    explicit Engine(Tensors tensors) : tensors_(std::move(tensors)) {}
    std::int32_t getNbIOTensors() const noexcept override { return static_cast<std::int32_t>(tensors_.size()); }
    const char *getIOTensorName(std::int32_t at) const noexcept override {
        return tensors_[static_cast<std::size_t>(at)].name.c_str();
    }
    Dims getTensorShape(const char *name) const noexcept override { return find(name).dims; }
    DataType getTensorDataType(const char *name) const noexcept override { return find(name).type; }
    TensorIOMode getTensorIOMode(const char *name) const noexcept override { return find(name).mode; }
    IExecutionContext *createExecutionContext() noexcept override { return new Context(tensors_); }
#ifdef MOCK_RTX
    IRuntimeConfig *createRuntimeConfig() noexcept override { return new Config; }
    IExecutionContext *createExecutionContext(IRuntimeConfig *) noexcept override { return new Context(tensors_); }
#endif

  private:
    const Tensor &find(const std::string &name) const {
        for (const Tensor &one : tensors_)
            if (one.name == name) return one;
        return tensors_[0];
    }
    const Tensors tensors_;
};

class Runtime final : public IRuntime {
  public:
    explicit Runtime(ILogger &log) : log_(log) {}
    ICudaEngine *deserializeCudaEngine(const void *content, std::size_t nbytes) noexcept override {
        std::istringstream text(std::string(static_cast<const char *>(content), nbytes));
        std::string row, kind, dtype;
        Tensors tensors;
        while (std::getline(text, row)) {
            std::istringstream words(row);
            Tensor tensor{};
            words >> kind >> tensor.name >> dtype;
            if ((kind != "input" && kind != "output") || !TYPES.count(dtype)) {
                log_.log(ILogger::Severity::kERROR, "Serialization assertion failed: magicTag\nand more");
                return nullptr;
            }
            tensor.mode = kind == "input" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
            tensor.type = TYPES.at(dtype).first;
            tensor.nbytes = TYPES.at(dtype).second;
            for (std::int64_t size = 0; words >> size;) {
                tensor.dims.d[tensor.dims.nbDims++] = size;
                tensor.nbytes *= static_cast<std::size_t>(size);
            }
            tensors.push_back(tensor);
        }
        return new Engine(std::move(tensors));
    }

  private:
    ILogger &log_;
};

}  // namespace

extern "C" {
std::int32_t getInferLibVersion() noexcept { return 100300; }
std::int32_t getInferLibBuildVersion() noexcept { return 30; }
void *createInferRuntime_INTERNAL(void *logger, std::int32_t) noexcept {
    return new Runtime(*static_cast<nvinfer1::ILogger *>(logger));
}
}
