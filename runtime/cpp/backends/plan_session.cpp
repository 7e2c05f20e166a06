// One plan of TensorRT or TensorRT-RTX, open on the GPU by a library that is there only where NVIDIA's is.
// What runtime/backends/plan_session.py is for Python.

#include "backends/backend.hpp"

#include <dlfcn.h>
#include <sys/utsname.h>

#include "backends/plan.hpp"
#include "backends/tensorrt/plan_api.h"
#include "backends/tensors.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

using Functions = edgeprune_plan_functions;
using Memory = edgeprune_plan_memory;

std::string library_of(const std::string &kind) {
    return kind == "tensorrt" ? "libedgeprune_tensorrt.so" : "libedgeprune_tensorrt_rtx.so";
}

// The folder of the library or program that this is part of, with a slash; "" where it is not known.
std::string own_folder() {
    Dl_info info{};
    static const char inside = 0;
    if (!dladdr(&inside, &info) || !info.dli_fname) return "";
    const std::string file = info.dli_fname;
    const std::size_t slash = file.rfind('/');
    return slash == std::string::npos ? "" : file.substr(0, slash + 1);
}

// The library for a kind of plan: beside this one, or by the system's search. nullptr, and `why`, where there is none.
const Functions *load(const std::string &kind, std::string &why) {
    const std::string name = library_of(kind);
    void *library = dlopen((own_folder() + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const std::string said = dlerror();
        why = line(name, ", which cannot be loaded (", said.substr(0, said.find('\n')), ")");
        return nullptr;
    }
    const auto entry = reinterpret_cast<const Functions *(*)()>(dlsym(library, EDGEPRUNE_PLAN_API_SYMBOL));
    const Functions *functions = entry ? entry() : nullptr;
    if (!functions || functions->version != EDGEPRUNE_PLAN_API_VERSION || functions->kind != kind) {
        why = line(name, " of this version of edgeprune, which it is not");
        return nullptr;
    }
    return functions;
}

class Plan final : public Backend {
  public:
    Plan(Bundle &bundle, const Choice &choice, const Engine &engine, const Functions &functions)
        : functions_(functions), engine_(engine) {
        const Mapped &file = bundle.file(engine.plan);
        edgeprune_plan_why why{};
        edgeprune_plan *opened = nullptr;
        const edgeprune_status status = functions.open(file.data(), file.size(), choice.gpu, &opened, &why);
        if (status == EDGEPRUNE_NO_DEVICE)
            throw no_device(engine.plan, " cannot be opened by ", engine.kind, " ", functions.release, ": ", why.text,
                            "; build it again on this machine, or use --device cpu");
        if (status == EDGEPRUNE_BAD_BUNDLE) throw bad_bundle(engine.plan, ": ", why.text, "; build it again");
        if (status) throw no_device("device tensorrt cannot be used: ", why.text, "; use --device cpu");
        plan_ = {opened, functions.close};
        std::vector<Spec> have;
        for (std::size_t at = 0; at < functions.count(opened); ++at) {
            edgeprune_plan_tensor tensor{};
            functions.tensor(opened, at, &tensor);
            Spec spec{tensor.name, tensor.dtype, {tensor.shape, tensor.shape + tensor.rank}};
            (tensor.is_input ? inputs_ : have).push_back(spec);
            every_.push_back(std::move(spec));
        }
        const Manifest &manifest = bundle.manifest;
        outputs_ = wanted_outputs(engine.plan, inputs_, have, manifest, manifest.encoder(), "build it again");
    }

    const char *device() const override { return "tensorrt"; }
    const std::string &source() const override { return engine_.plan; }
    const std::vector<Spec> &inputs() const override { return inputs_; }
    const std::vector<Spec> &outputs() const override { return outputs_; }
    std::vector<std::string> flags() const override { return engine_.flags; }

    void run(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t) override {
        gather(inputs, outputs);
        edgeprune_plan_why why{};
        check(functions_.run(plan_.get(), memory_.data(), memory_.size(), &why), why);
    }

    void run_cuda(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t,
                  void *stream) override {
        gather(inputs, outputs);
        edgeprune_plan_why why{};
        check(functions_.run_cuda(plan_.get(), memory_.data(), memory_.size(), stream, &why), why);
    }

  private:
    void gather(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs) {
        memory_.clear();
        for (const Bound &bound : inputs) memory_.push_back({number(inputs_[bound.at]), bound.data, bound.nbytes});
        for (const Bound &bound : outputs) memory_.push_back({number(outputs_[bound.at]), bound.data, bound.nbytes});
    }
    std::size_t number(const Spec &spec) const {
        return static_cast<std::size_t>(find(every_, spec.name) - every_.data());
    }

    void check(edgeprune_status status, const edgeprune_plan_why &why) const {
        if (status) throw Error(status, line(engine_.plan, " cannot be run: ", why.text));
    }

    const Functions &functions_;
    Engine engine_;
    std::unique_ptr<edgeprune_plan, void (*)(edgeprune_plan *)> plan_{nullptr, [](edgeprune_plan *) {}};
    std::vector<Spec> inputs_, outputs_, every_;
    std::vector<Memory> memory_;
};

}  // namespace

// Not run here: needs a GPU.
std::unique_ptr<Backend> open_plan(Bundle &bundle, const Choice &choice) {
    if (choice.graph != ENCODER)
        throw wrong_request("a plan is of the encoder, there is none of ", choice.graph, "; open it on another device");
    Have have;
    std::map<std::string, const Functions *> libraries;
    for (const auto &named : bundle.manifest.engines) {
        const std::string &kind = named.second.kind;
        if (kind != "tensorrt" && kind != "tensorrt-rtx") continue;
        std::string why;
        const Functions *functions = libraries[kind] = load(kind, why);
        if (functions) have.versions[kind] = functions->release;
        else have.missing[kind] = why;
    }
    have.gpu = find_gpu(choice.gpu);
    utsname system{};
    uname(&system);
    have.system = line(system.sysname, " ", system.machine);
    const Engine &engine = choose(bundle, have);
    return std::make_unique<Plan>(bundle, choice, engine, *libraries.at(engine.kind));
}

}  // namespace edgeprune
