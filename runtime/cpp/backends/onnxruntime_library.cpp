#include "backends/onnxruntime_library.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include <dlfcn.h>

#include "error.hpp"

namespace edgeprune {
namespace {

// The oldest release that computes right tokens, and whose functions are all that is called here.
// 1.17 cannot read IR 10; 1.18 reads it, and gives wrong tokens.
constexpr unsigned OLDEST = 19;
constexpr const char *SEARCHED[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
constexpr const char *REMEDY =
    "install ONNX Runtime 1.19 or later, or name its libonnxruntime.so by EDGEPRUNE_ONNXRUNTIME or by the option "
    "onnxruntime";

std::string one_line(const char *text) {
    const std::string whole = text ? text : "it does not say why";
    return whole.substr(0, whole.find('\n'));
}

// The minor number of "1.23.2"; 0 for what is no release of ONNX Runtime 1.
unsigned minor_of(const std::string &version) {
    unsigned major = 0, minor = 0;
    return std::sscanf(version.c_str(), "%u.%u", &major, &minor) == 2 && major == 1 ? minor : 0;
}

void *load(const std::string &file) { return dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL); }

}  // namespace

OnnxRuntime::OnnxRuntime(const std::string &file, void *library) {
    const auto entry = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"));
    const OrtApiBase *base = entry ? entry() : nullptr;
    if (!base) throw no_device(file, " must be the library of ONNX Runtime, it has no OrtGetApiBase; ", REMEDY);
    version_ = one_line(base->GetVersionString());
    // Asked for a version that it does not have, it prints to stderr.
    if (minor_of(version_) >= OLDEST) api_ = base->GetApi(OLDEST);
    if (!api_) throw no_device(file, " must be ONNX Runtime 1.", OLDEST, " or later, it is ", version_, "; ", REMEDY);

    char **names = nullptr;
    int count = 0;
    if (const std::string why = reason(api_->GetAvailableProviders(&names, &count)); !why.empty())
        throw no_device(file, " cannot be used: ", why, "; ", REMEDY);
    providers_.assign(names, names + count);
    reason(api_->ReleaseAvailableProviders(names, count));
    // Errors come as a status, too.
    OrtStatus *made = api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "edgeprune", &environment_);
    if (const std::string why = reason(made); !why.empty())
        throw no_device(file, " cannot be used: ", why, "; ", REMEDY);
}

const OnnxRuntime &OnnxRuntime::open(const std::string &named) {
    static std::mutex turn;
    static auto &opened = *new std::map<std::string, std::unique_ptr<OnnxRuntime>>;  // by file; outlives all handles
    const std::lock_guard<std::mutex> guard(turn);

    const char *environment = std::getenv("EDGEPRUNE_ONNXRUNTIME");
    std::vector<std::string> files(std::begin(SEARCHED), std::end(SEARCHED));
    if (!named.empty())
        files = {named};
    else if (environment && *environment)
        files = {environment};

    std::string why;
    for (const std::string &file : files) {
        if (const auto found = opened.find(file); found != opened.end()) return *found->second;
        if (void *library = load(file)) {
            std::unique_ptr<OnnxRuntime> runtime(new OnnxRuntime(file, library));
            return *opened.emplace(file, std::move(runtime)).first->second;
        }
        if (why.empty()) why = one_line(dlerror());
    }
    throw no_device("ONNX Runtime is not to be had: ", why, "; ", REMEDY);
}

bool OnnxRuntime::has(const std::string &provider) const {
    return std::find(providers_.begin(), providers_.end(), provider) != providers_.end();
}

std::string OnnxRuntime::reason(OrtStatus *status) const {
    if (!status) return "";
    const std::string why = one_line(api_->GetErrorMessage(status));
    api_->ReleaseStatus(status);
    return why.empty() ? "it does not say why" : why;
}

}  // namespace edgeprune
