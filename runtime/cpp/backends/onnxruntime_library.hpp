// ONNX Runtime's library, opened at run time: one libedgeprune.so serves machines with and without it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <onnxruntime_c_api.h>

namespace edgeprune {

// The library stays open until the process ends: its threads and its allocators do not survive being unloaded.
class OnnxRuntime {
  public:
    // named: file of the library; "" for the environment variable EDGEPRUNE_ONNXRUNTIME, else the system's search.
    // Throws no_device when it is not there, is none, or is too old.
    static const OnnxRuntime &open(const std::string &named);

    const OrtApi &api() const { return *api_; }
    OrtEnv *environment() const { return environment_; }
    const std::string &version() const { return version_; }
    // Whether it was built with an execution provider; a GPU for it shows at opening.
    bool has(const std::string &provider) const;

    // "": it went well. Else ONNX Runtime's reason, in one line. Lets go of the status.
    std::string reason(OrtStatus *status) const;

  private:
    OnnxRuntime(const std::string &file, void *library);

    const OrtApi *api_ = nullptr;
    OrtEnv *environment_ = nullptr;
    std::string version_;
    std::vector<std::string> providers_;
};

// Lets go of one of ONNX Runtime's objects, by the function of its kind.
template <class T>
struct Release {
    void (*release)(T *) = nullptr;
    void operator()(T *object) const { release(object); }
};
template <class T>
using Owned = std::unique_ptr<T, Release<T>>;

}  // namespace edgeprune
