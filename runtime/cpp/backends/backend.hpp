// What runs a graph or plan: one file for each executor, and these six functions for all of them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "tensor.hpp"

namespace edgeprune {

// A tensor's memory in a run: which one (the place in `inputs()` or `outputs()`), where, and how much of it.
struct Bound {
    std::size_t at;
    void *data;
    std::size_t nbytes;
};
inline bool operator==(const Bound &one, const Bound &other) {
    return one.at == other.at && one.data == other.data && one.nbytes == other.nbytes;
}

class Backend {
  public:
    virtual ~Backend() = default;

    virtual const char *device() const = 0;         // "cpu", "cuda", "tensorrt", "ort-tensorrt", "ort-tensorrt-rtx"
    virtual const std::string &source() const = 0;  // name of the file
    virtual const std::vector<Spec> &inputs() const = 0;
    virtual const std::vector<Spec> &outputs() const = 0;
    // Host memory; blocks. `batch`: of an open one. Allocates nothing when the same memory comes again.
    virtual void run(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch) = 0;
    // Memory of the GPU, on a stream. Throws wrong_request where there is none.
    virtual void run_cuda(const std::vector<Bound> &inputs, const std::vector<Bound> &outputs, std::int64_t batch,
                          void *stream) = 0;
    // What the builder of a plan was allowed ("FP16"): then it computes in float16, whatever the graph says.
    virtual std::vector<std::string> flags() const { return {}; }
};

struct Choice {
    edgeprune_device device = EDGEPRUNE_AUTO;
    int gpu = 0, threads = 0;
    std::string onnxruntime;                         // library; "" for the search
    std::string graph = ENCODER;                     // or a half of it, or a baseline
    bool split = false;                              // the halves, in place of the encoder (open_backend alone)
    std::function<void(const std::string &)> log;    // may be empty
};

// The encoder of a bundle on a device, whole or (`split`) as its Halves; under EDGEPRUNE_AUTO the best that is here, and
// what was passed over is logged. Throws no_device when it cannot be used, bad_bundle when graph or plan are
// damaged or are not what the manifest says, wrong_request for halves that are not there.
std::unique_ptr<Backend> open_backend(Bundle &bundle, const Choice &choice);

// backends/onnxruntime.cpp: a graph of the bundle in ONNX Runtime, whose library is opened at run time.
std::unique_ptr<Backend> open_onnxruntime(Bundle &bundle, const Choice &choice);

// backends/plan.cpp: the plan that fits this machine, run by libedgeprune_tensorrt.so beside this library.
std::unique_ptr<Backend> open_plan(Bundle &bundle, const Choice &choice);

}  // namespace edgeprune
