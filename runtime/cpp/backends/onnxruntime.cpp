// One graph, open in ONNX Runtime: what runtime/backends/ort.py is for Python.
//
// What was hashed is what is run: a graph comes from the mapped file, not from its name. One whose weights lie beside
// it is opened by its name, and its files must then still be those that were mapped. Handed over from memory, weights
// of 384 MiB took as much again in 1.19 and in 1.32, for ONNX Runtime copies them; by name it maps them itself.

#include "backends/backend.hpp"

#include <algorithm>
#include <mutex>

#include "backends/execution_providers.hpp"
#include "backends/gpu.hpp"
#include "backends/onnxruntime_library.hpp"
#include "backends/tensors.hpp"
#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

struct Kind {
    ONNXTensorElementDataType theirs;
    DType ours;
};
constexpr Kind KINDS[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, EDGEPRUNE_FLOAT32},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, EDGEPRUNE_FLOAT16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, EDGEPRUNE_UINT8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, EDGEPRUNE_INT8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, EDGEPRUNE_INT32},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, EDGEPRUNE_INT64},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, EDGEPRUNE_BOOL},
};

ONNXTensorElementDataType theirs(DType dtype) {
    const auto same = [&](const Kind &kind) { return kind.ours == dtype; };
    return std::find_if(std::begin(KINDS), std::end(KINDS), same)->theirs;
}

// ONNX Runtime's view of the memory of the last call: made once, and used again for as long as it is the same.
class Bindings {
  public:
    Bindings(const OrtApi &api, Owned<OrtMemoryInfo> memory) : api_(api), memory_(std::move(memory)) {}

    bool fits(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) const {
        return batch == batch_ && inputs == inputs_ && outputs == outputs_;
    }
    // Forgets what it had.
    void begin() {
        owned_.clear();
        values_.clear();
        names_.clear();
        inputs_.clear();
    }
    OrtStatus *add(const Spec &spec, const Bound &bound, std::int64_t batch) {
        std::vector<std::int64_t> shape = spec.shape;
        if (spec.open()) shape[0] = batch;
        OrtValue *value = nullptr;
        OrtStatus *status = api_.CreateTensorWithDataAsOrtValue(memory_.get(), bound.data, bound.nbytes, shape.data(),
                                                                shape.size(), theirs(spec.dtype), &value);
        if (status) return status;
        owned_.emplace_back(value, Release<OrtValue>{api_.ReleaseValue});
        values_.push_back(value);
        names_.push_back(spec.name.c_str());
        return nullptr;
    }
    void end(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) {
        inputs_ = inputs;
        outputs_ = outputs;
        batch_ = batch;
    }
    OrtStatus *run(OrtSession *session) {
        const std::size_t count = inputs_.size();
        return api_.Run(session, nullptr, names_.data(), values_.data(), count, names_.data() + count,
                        outputs_.size(), values_.data() + count);
    }

  private:
    const OrtApi &api_;
    Owned<OrtMemoryInfo> memory_;
    std::vector<Owned<OrtValue>> owned_;
    std::vector<OrtValue *> values_;  // inputs, then outputs, as are the names
    std::vector<const char *> names_;
    std::vector<Bound> inputs_, outputs_;
    std::int64_t batch_ = 0;
};

class Session final : public Backend {
  public:
    Session(Bundle &bundle, const Choice &choice, const Graph &graph)
        : runtime_(OnnxRuntime::open(choice.onnxruntime)), api_(runtime_.api()), provider_(provider_of(choice.device)),
          source_(graph.file), gpu_(choice.gpu) {
        const Owned<OrtSessionOptions> options = configure(bundle, choice);
        open(bundle, options.get());
        inputs_ = specs(true);
        outputs_ = wanted_outputs(source_, inputs_, specs(false), bundle.manifest, graph, "export the bundle again");
        host_ = std::make_unique<Bindings>(api_, memory("Cpu", 0));
        if (provider_.device != EDGEPRUNE_CPU) cuda_ = std::make_unique<Bindings>(api_, memory("Cuda", gpu_));
    }

    const char *device() const override { return provider_.name; }
    const std::string &source() const override { return source_; }
    const std::vector<Spec> &inputs() const override { return inputs_; }
    const std::vector<Spec> &outputs() const override { return outputs_; }

    void run(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) override {
        run(*host_, inputs, outputs, batch);
    }

    // ONNX Runtime works on streams of its own, so this waits for the caller's, and for them. Not run here.
    void run_cuda(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch,
                  void *stream) override {
        if (!cuda_)
            throw wrong_request("memory of a GPU needs a bundle that is open on one, this one is open on ", device(),
                                "; open it with another device, or call edgeprune_run");
        wait_for(gpu_, stream);
        run(*cuda_, inputs, outputs, batch);
    }

  private:
    // As runtime/backends/ort.py sets it.
    Owned<OrtSessionOptions> configure(Bundle &bundle, const Choice &choice) {
        OrtSessionOptions *made = nullptr;
        check(api_.CreateSessionOptions(&made));
        Owned<OrtSessionOptions> options(made, {api_.ReleaseSessionOptions});
        check(api_.SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_FATAL));  // errors come as a status, too
        // Idle threads would spin into the run of another session.
        check(api_.AddSessionConfigEntry(made, "session.force_spinning_stop", "1"));
        std::string disabled;
        if (!is_baseline(choice.graph))
            for (const auto &name : bundle.manifest.disabled(provider_.name)) disabled += (disabled.empty() ? "" : ";") + name;
        if (!disabled.empty())
            check(api_.AddSessionConfigEntry(made, "optimization.disable_specified_optimizers", disabled.c_str()));
        if (choice.threads) check(api_.SetIntraOpNumThreads(made, choice.threads));
        if (provider_.device != EDGEPRUNE_CPU)
            add_provider(runtime_, made, provider_, gpu_, bundle.manifest);
        return options;
    }

    void open(Bundle &bundle, const OrtSessionOptions *options) {
        OrtEnv *environment = runtime_.environment();
        OrtSession *made = nullptr;
        std::vector<std::string> files = {source_};
        for (const auto &named : bundle.weights(source_)) files.push_back(named.second);
        const Mapped &graph = bundle.file(source_);
        check_bundle(files.size() == 1
                         ? api_.CreateSessionFromArray(environment, graph.data(), graph.size(), options, &made)
                         : api_.CreateSession(environment, bundle.path(source_).c_str(), options, &made));
        session_ = {made, {api_.ReleaseSession}};
        for (const std::string &file : files) {
            if (files.size() > 1 && !bundle.file(file).is_at(bundle.path(file)))
                throw bad_bundle(shown(bundle.folder), ": ", file, " has changed while it was opened; open it again");
            bundle.file(file).rest();
        }
    }

    std::vector<Spec> specs(bool input) {
        OrtAllocator *allocator = nullptr;
        check(api_.GetAllocatorWithDefaultOptions(&allocator));
        std::size_t count = 0;
        check((input ? api_.SessionGetInputCount : api_.SessionGetOutputCount)(session_.get(), &count));
        std::vector<Spec> found;
        for (std::size_t at = 0; at < count; ++at) {
            char *name = nullptr;
            check((input ? api_.SessionGetInputName : api_.SessionGetOutputName)(session_.get(), at, allocator, &name));
            Spec spec{name, {}, {}};
            check(api_.AllocatorFree(allocator, name));
            OrtTypeInfo *type = nullptr;
            check((input ? api_.SessionGetInputTypeInfo : api_.SessionGetOutputTypeInfo)(session_.get(), at, &type));
            const Owned<OrtTypeInfo> owned(type, {api_.ReleaseTypeInfo});
            describe(type, spec);
            found.push_back(std::move(spec));
        }
        return found;
    }

    void describe(const OrtTypeInfo *type, Spec &spec) {
        const OrtTensorTypeAndShapeInfo *info = nullptr;
        check(api_.CastTypeInfoToTensorInfo(type, &info));
        ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        if (info) check(api_.GetTensorElementType(info, &element));
        const auto kind = std::find_if(std::begin(KINDS), std::end(KINDS),
                                       [&](const Kind &one) { return one.theirs == element; });
        if (kind == std::end(KINDS))
            throw bad_bundle(source_, ": ", spec.name, " must be a tensor of a dtype that this library knows, it is ",
                             "of ONNX's type ", static_cast<int>(element), "; export the bundle again");
        spec.dtype = kind->ours;
        std::size_t rank = 0;
        check(api_.GetDimensionsCount(info, &rank));
        spec.shape.resize(rank);
        check(api_.GetDimensions(info, spec.shape.data(), rank));
        for (std::int64_t &size : spec.shape) size = size < 0 ? OPEN : size;
    }

    Owned<OrtMemoryInfo> memory(const char *name, int number) {
        OrtMemoryInfo *made = nullptr;
        check(api_.CreateMemoryInfo(name, OrtDeviceAllocator, number, OrtMemTypeDefault, &made));
        return {made, {api_.ReleaseMemoryInfo}};
    }

    void run(Bindings &bindings, const std::vector<Bound> &inputs, const std::vector<Bound> &outputs,
             std::int64_t batch) {
        if (!bindings.fits(inputs, outputs, batch)) {
            bindings.begin();
            for (const Bound &bound : inputs) check(bindings.add(inputs_[bound.at], bound, batch));
            for (const Bound &bound : outputs) check(bindings.add(outputs_[bound.at], bound, batch));
            bindings.end(inputs, outputs, batch);
        }
        check(bindings.run(session_.get()));
    }

    void check(OrtStatus *status) {
        if (status) throw failed(said(status));
    }
    void check_bundle(OrtStatus *status) {
        if (status) throw bad_bundle(said(status));
    }
    std::string said(OrtStatus *status) {
        return line(source_, " cannot be run by ONNX Runtime ", runtime_.version(), ": ", runtime_.reason(status));
    }

    const OnnxRuntime &runtime_;
    const OrtApi &api_;
    const ExecutionProvider &provider_;
    std::string source_;
    int gpu_;
    Owned<OrtSession> session_;
    std::vector<Spec> inputs_, outputs_;
    std::unique_ptr<Bindings> host_, cuda_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(Bundle &bundle, const Choice &choice) {
    return std::make_unique<Session>(bundle, choice, bundle.manifest.graphs.at(choice.graph));
}

}  // namespace edgeprune
