#include "backends/tensorrt/plan.hpp"

#include <cstring>
#include <mutex>

#include "error.hpp"

namespace edgeprune {
namespace {

using nvinfer1::DataType;

// What TensorRT says when something fails. One for all: it keeps the first that it is given.
class Log final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char *text) noexcept override {
        if (severity > Severity::kERROR || !text || !*text) return;
        const std::lock_guard<std::mutex> guard(turn_);
        if (*said_) return;
        std::strncpy(said_, text, sizeof said_ - 1);
        if (char *end = std::strchr(said_, '\n')) *end = '\0';
    }
    // The first error since the call before.
    std::string said() {
        const std::lock_guard<std::mutex> guard(turn_);
        const std::string text = *said_ ? said_ : "it does not say why";
        *said_ = '\0';
        return text;
    }

  private:
    std::mutex turn_;
    char said_[304] = "";
};

Log &the_log() {
    static Log log;
    return log;
}

struct Known {
    DataType theirs;
    edgeprune_dtype ours;
    std::size_t nbytes;
};
constexpr Known KNOWN[] = {
    {DataType::kFLOAT, EDGEPRUNE_FLOAT32, 4}, {DataType::kHALF, EDGEPRUNE_FLOAT16, 2},
    {DataType::kUINT8, EDGEPRUNE_UINT8, 1},   {DataType::kINT32, EDGEPRUNE_INT32, 4},
    {DataType::kBOOL, EDGEPRUNE_BOOL, 1},
#if defined(TRT_MAJOR_RTX) || NV_TENSORRT_MAJOR >= 9
    {DataType::kINT64, EDGEPRUNE_INT64, 8},
#endif
};

}  // namespace

OpenPlan::OpenPlan(const void *content, std::size_t nbytes, int gpu) : gpu_(gpu) {
    const cuda::OnGpu on(gpu_);
    the_log().said();
    runtime_.reset(nvinfer1::createInferRuntime(the_log()));
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(content, nbytes));
    if (!engine_) throw no_device(the_log().said());
#ifdef TRT_MAJOR_RTX
    config_.reset(engine_->createRuntimeConfig());
    if (config_) {
        config_->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE);
        context_.reset(engine_->createExecutionContext(config_.get()));
    }
#else
    context_.reset(engine_->createExecutionContext());
#endif
    if (!context_) throw no_device("it cannot be made ready to run: ", the_log().said());
    stream_ = cuda::stream();
    done_ = cuda::event();
    for (std::int32_t at = 0; at < engine_->getNbIOTensors(); ++at) allocate(engine_->getIOTensorName(at));

    for (const Tensor &tensor : tensors_) {
        std::memset(tensor.host.get(), 0, tensor.nbytes);
        cuda::copy(tensor.device.get(), tensor.host.get(), tensor.nbytes, cudaMemcpyHostToDevice, stream_.get());
        host_.addresses.push_back(tensor.device.get());
    }
    addresses_ = host_.addresses;
    for (int run = 0; run < 2; ++run) launch(host_, stream_.get());  // the second one captures
    cuda::check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
}

OpenPlan::~OpenPlan() {
    cudaEventSynchronize(done_.get());  // nothing that is freed is in use
}

void OpenPlan::allocate(const char *name) {
    const nvinfer1::Dims dims = engine_->getTensorShape(name);
    const DataType type = engine_->getTensorDataType(name);
    const Known *known = nullptr;
    for (const Known &one : KNOWN)
        if (one.theirs == type) known = &one;
    bool fixed = dims.nbDims >= 0 && dims.nbDims <= EDGEPRUNE_MAX_RANK;
    for (std::int32_t at = 0; fixed && at < dims.nbDims; ++at) fixed = dims.d[at] > 0;
    if (!known || !fixed)
        throw bad_bundle(name, " must have a fixed shape and one of float32, float16, uint8, int32, int64, bool, it ",
                         "has ", dims.nbDims, " dimensions and TensorRT's type ", static_cast<int>(type));
    Tensor tensor;
    tensor.name = name;
    tensor.input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    tensor.dtype = known->ours;
    tensor.shape.assign(dims.d, dims.d + dims.nbDims);
    tensor.nbytes = known->nbytes;
    for (const std::int64_t size : tensor.shape) tensor.nbytes *= static_cast<std::size_t>(size);
    tensor.host = cuda::pinned(tensor.nbytes);
    tensor.device = cuda::device(tensor.nbytes);
    tensors_.push_back(std::move(tensor));
}

void OpenPlan::run(const edgeprune_plan_memory *memory, std::size_t count) {
    const cuda::OnGpu on(gpu_);
    const cudaStream_t stream = stream_.get();
    follow(stream);
    for (std::size_t at = 0; at < count; ++at) {
        const Tensor &tensor = tensors_.at(memory[at].at);
        if (!tensor.input) continue;
        std::memcpy(tensor.host.get(), memory[at].data, tensor.nbytes);
        cuda::copy(tensor.device.get(), tensor.host.get(), tensor.nbytes, cudaMemcpyHostToDevice, stream);
    }
    for (std::size_t at = 0; at < tensors_.size(); ++at) addresses_[at] = tensors_[at].device.get();
    launch(host_, stream);
    for (std::size_t at = 0; at < count; ++at) {
        const Tensor &tensor = tensors_.at(memory[at].at);
        if (tensor.input) continue;
        cuda::copy(tensor.host.get(), tensor.device.get(), tensor.nbytes, cudaMemcpyDeviceToHost, stream);
    }
    cuda::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    for (std::size_t at = 0; at < count; ++at) {
        const Tensor &tensor = tensors_.at(memory[at].at);
        if (!tensor.input) std::memcpy(memory[at].data, tensor.host.get(), tensor.nbytes);
    }
}

void OpenPlan::run_cuda(const edgeprune_plan_memory *memory, std::size_t count, cudaStream_t stream) {
    const cuda::OnGpu on(gpu_);
    for (std::size_t at = 0; at < tensors_.size(); ++at) addresses_[at] = tensors_[at].device.get();  // not asked for
    for (std::size_t at = 0; at < count; ++at) addresses_.at(memory[at].at) = memory[at].data;
    follow(stream);
    launch(given_, stream);
}

// Nothing begins on a stream before the run that was queued before, perhaps on another one: a context does one at a
// time.
void OpenPlan::follow(cudaStream_t stream) {
    cuda::check(cudaStreamWaitEvent(stream, done_.get(), 0), "cudaStreamWaitEvent");
}

// Queue a run on the addresses of this call. The first on new ones launches kernels, the second captures them.
void OpenPlan::launch(Work &work, cudaStream_t stream) {
    if (work.addresses != addresses_ || (!work.graph && set_ != &work)) {
        if (work.addresses != addresses_) {
            work.graph.reset();
            work.ran = work.refused = false;
            work.addresses = addresses_;
        }
        set_ = nullptr;
        for (std::size_t at = 0; at < tensors_.size(); ++at)
            if (!context_->setTensorAddress(tensors_[at].name.c_str(), addresses_[at]))
                throw failed("no memory can be set for ", tensors_[at].name, ": ", the_log().said());
        set_ = &work;
    }
#ifndef TRT_MAJOR_RTX
    if (!work.graph && work.ran && !work.refused) {
        cuda::check(cudaEventSynchronize(done_.get()), "cudaEventSynchronize");
        capture(work);
    }
#endif
    if (work.graph) cuda::check(cudaGraphLaunch(work.graph.get(), stream), "cudaGraphLaunch");
    else enqueue(stream);
    work.ran = true;
    cuda::check(cudaEventRecord(done_.get(), stream), "cudaEventRecord");
}

void OpenPlan::capture(Work &work) {
    work.refused = true;
    const cudaStream_t stream = stream_.get();
    if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        cudaGetLastError();
        return;
    }
    const bool queued = context_->enqueueV3(stream);
    cudaGraph_t captured = nullptr;  // a capture that has begun must end, whatever came between
    const cudaError_t ended = cudaStreamEndCapture(stream, &captured);
    const cuda::Graph graph(captured);
    cudaGraphExec_t executable = nullptr;
    if (queued && ended == cudaSuccess && cudaGraphInstantiateWithFlags(&executable, captured, 0) == cudaSuccess) {
        work.graph = cuda::Executable(executable);
        work.refused = false;
    }
    cudaGetLastError();  // else the next call would report it again
    the_log().said();
}

void OpenPlan::enqueue(cudaStream_t stream) {
    if (!context_->enqueueV3(stream)) throw failed(the_log().said());
}

const char *OpenPlan::kind() {
#ifdef TRT_MAJOR_RTX
    return "tensorrt-rtx";
#else
    return "tensorrt";
#endif
}

std::string OpenPlan::release() {
    const std::int32_t number = getInferLibVersion();
#if defined(TRT_MAJOR_RTX) || NV_TENSORRT_MAJOR >= 10
    return line(number / 10000, ".", number / 100 % 100, ".", number % 100, ".", getInferLibBuildVersion());
#else
    return line(number / 1000, ".", number / 100 % 10, ".", number % 100);
#endif
}

}  // namespace edgeprune
