#include "backends/gpu.hpp"

#include <cstdint>

#include <dlfcn.h>

#include "error.hpp"

namespace edgeprune {
namespace {

constexpr const char *DRIVER = "libcuda.so.1";
// Of cuda.h, whose numbers are NVIDIA's promise.
constexpr int COMPUTE_CAPABILITY_MAJOR = 75, COMPUTE_CAPABILITY_MINOR = 76;
constexpr int ATTRIBUTE_MEMORY_TYPE = 2, ATTRIBUTE_IS_MANAGED = 8;
constexpr unsigned MEMORY_DEVICE = 2;

template <class Function>
Function *symbol(void *library, const char *name) {
    return reinterpret_cast<Function *>(dlsym(library, name));
}

// An address of a GPU can only be there when somebody has loaded the driver: it is not loaded to ask.
unsigned attribute(int which, const void *address) {
    void *driver = dlopen(DRIVER, RTLD_NOW | RTLD_NOLOAD);
    if (!driver) return 0;
    unsigned value = 0;
    const auto ask = symbol<int(void *, int, std::uintptr_t)>(driver, "cuPointerGetAttribute");
    if (!ask || ask(&value, which, reinterpret_cast<std::uintptr_t>(address))) value = 0;
    dlclose(driver);
    return value;
}

}  // namespace

Gpu find_gpu(int number) {
    Gpu gpu;
    void *driver = dlopen(DRIVER, RTLD_NOW);
    if (!driver) {
        gpu.why_not = line("there is no NVIDIA driver (", DRIVER, ")");
        return gpu;
    }
    const auto init = symbol<int(unsigned)>(driver, "cuInit");
    const auto release = symbol<int(int *)>(driver, "cuDriverGetVersion");
    const auto count = symbol<int(int *)>(driver, "cuDeviceGetCount");
    const auto ask = symbol<int(int *, int, int)>(driver, "cuDeviceGetAttribute");
    const auto name = symbol<int(char *, int, int)>(driver, "cuDeviceGetName");
    if (!init || !release || !count || !ask || !name) {
        gpu.why_not = line(DRIVER, " is not NVIDIA's driver");
        return gpu;
    }
    if (const int code = init(0)) {
        gpu.why_not = line("the NVIDIA driver shows none (cuInit returns ", code, ")");
        return gpu;
    }
    int found = 0, sm = 0;
    if (!release(&found)) gpu.cuda = found / 1000;
    if (!count(&found) && number >= found) {
        gpu.why_not = line("the NVIDIA driver shows ", found, ", of which the last is ", found - 1);
        return gpu;
    }
    for (const int which : {COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR}) {
        if (const int code = ask(&found, which, number)) {
            gpu.why_not = line("the NVIDIA driver shows none (cuDeviceGetAttribute returns ", code, ")");
            return gpu;
        }
        sm = 10 * sm + found;
    }
    char text[128] = "";
    name(text, sizeof text - 1, number);
    gpu.sm = sm;
    gpu.name = text;
    return gpu;  // the driver stays loaded: it does not survive being unloaded
}

bool on_gpu(const void *address) { return attribute(ATTRIBUTE_MEMORY_TYPE, address) == MEMORY_DEVICE; }

bool on_gpu_alone(const void *address) { return on_gpu(address) && !(attribute(ATTRIBUTE_IS_MANAGED, address) & 1); }

void wait_for(int number, void *stream) {
    using Context = void *;
    static void *driver = dlopen(DRIVER, RTLD_NOW);
    static const auto primary = driver ? symbol<int(Context *, int)>(driver, "cuDevicePrimaryCtxRetain") : nullptr;
    static const auto push = driver ? symbol<int(Context)>(driver, "cuCtxPushCurrent_v2") : nullptr;
    static const auto pop = driver ? symbol<int(Context *)>(driver, "cuCtxPopCurrent_v2") : nullptr;
    static const auto wait = driver ? symbol<int(void *)>(driver, "cuStreamSynchronize") : nullptr;
    static const auto release = driver ? symbol<int(int)>(driver, "cuDevicePrimaryCtxRelease_v2") : nullptr;
    if (!primary || !push || !pop || !wait || !release)
        throw failed(DRIVER, " cannot wait for a stream; update the driver");
    Context context = nullptr, popped = nullptr;
    int code = primary(&context, number);
    if (!code) {
        code = push(context);
        if (!code) {
            code = wait(stream);
            pop(&popped);
        }
        release(number);
    }
    if (code) throw failed("what was queued on the stream failed (CUDA error ", code, ")");
}

}  // namespace edgeprune
