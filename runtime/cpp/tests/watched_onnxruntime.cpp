// ONNX Runtime as a test sees it: a library that passes everything on to the real one, named by the environment
// variable WATCHED_ONNXRUNTIME, and tells whether a thread is inside of it, what memory runs were given, how often it
// was asked to look at some, which session ran last, and with what options one was asked for.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

namespace {

thread_local int inside = 0;
thread_local std::size_t made = 0;
thread_local const void *given[64];
thread_local std::size_t count = 0;
thread_local OrtSession *session_ = nullptr;
thread_local std::map<std::string, std::string> entries;

const OrtApiBase *real() {
    static void *library = dlopen(std::getenv("WATCHED_ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL);
    if (!library) return nullptr;
    static const auto base = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"));
    return base ? base() : nullptr;
}

const OrtApi *api = nullptr;
OrtApi watched;

void note(const OrtValue *value) {
    void *data = nullptr;
    if (OrtStatus *status = api->GetTensorMutableData(const_cast<OrtValue *>(value), &data)) api->ReleaseStatus(status);
    if (count < sizeof given / sizeof *given) given[count++] = data;
}

OrtStatusPtr run(OrtSession *session, const OrtRunOptions *options, const char *const *input_names,
                 const OrtValue *const *inputs, std::size_t inputs_count, const char *const *output_names,
                 std::size_t outputs_count, OrtValue **outputs) noexcept {
    ++inside;
    count = 0;
    session_ = session;
    for (std::size_t at = 0; at < inputs_count; ++at) note(inputs[at]);
    for (std::size_t at = 0; at < outputs_count; ++at) note(outputs[at]);
    OrtStatusPtr status =
        api->Run(session, options, input_names, inputs, inputs_count, output_names, outputs_count, outputs);
    --inside;
    return status;
}

OrtStatusPtr configure(OrtSessionOptions *options, const char *key, const char *value) noexcept {
    entries[key] = value;
    return api->AddSessionConfigEntry(options, key, value);
}

OrtStatusPtr create(const OrtMemoryInfo *memory, void *data, std::size_t nbytes, const std::int64_t *shape,
                    std::size_t rank, ONNXTensorElementDataType type, OrtValue **value) noexcept {
    ++made;
    return api->CreateTensorWithDataAsOrtValue(memory, data, nbytes, shape, rank, type, value);
}

const OrtApi *get_api(std::uint32_t version) noexcept {
    api = real()->GetApi(version);
    if (!api) return nullptr;
    // Of releases before the header's the last functions are not there, and nobody calls them.
    constexpr std::size_t size = offsetof(OrtApi, AddExternalInitializersFromFilesInMemory) + sizeof(void *);
    std::memcpy(static_cast<void *>(&watched), api, size);
    watched.Run = run;
    watched.CreateTensorWithDataAsOrtValue = create;
    watched.AddSessionConfigEntry = configure;
    return &watched;
}

const char *version() noexcept { return real()->GetVersionString(); }

}  // namespace

extern "C" {
__attribute__((visibility("default"))) const OrtApiBase *OrtGetApiBase() noexcept {
    static const OrtApiBase base{get_api, version};
    return real() ? &base : nullptr;
}
// Of the calling thread.
__attribute__((visibility("default"))) int watched_inside() { return inside; }
__attribute__((visibility("default"))) std::size_t watched_made() { return made; }
__attribute__((visibility("default"))) OrtSession *watched_session() { return session_; }
__attribute__((visibility("default"))) const char *watched_entry(const char *key) {
    const auto found = entries.find(key);
    return found == entries.end() ? nullptr : found->second.c_str();
}
__attribute__((visibility("default"))) std::size_t watched_given(const void **data) {
    std::memcpy(data, given, count * sizeof *given);
    return count;
}
}
