// What the library costs over a bare session of ONNX Runtime on the same graph: ratios of medians, taken in turns.
//
//     bench_overhead BUNDLE WATCHED_ONNXRUNTIME [BLOCKS [ROUNDS]]
//
// The second is the library of watched_onnxruntime.cpp, in front of the one that WATCHED_ONNXRUNTIME names. Prints
// JSON, of each block a number:
//     run    edgeprune_run over Run on the same session: two sessions of one graph differ by more than what is measured
//     open   edgeprune_open and a run, over: making a session, a run, and the sha256 of the bundle's files

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include "bundle/bundle.hpp"
#include "bundle/sha256.hpp"
#include "edgeprune.h"

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

[[noreturn]] void stop(const char *why) {
    std::fprintf(stderr, "%s\n", why);
    std::exit(2);
}

const OrtApi *api = nullptr;
OrtEnv *environment = nullptr;

void check(OrtStatus *status) {
    if (status) stop(api->GetErrorMessage(status));
}

// One input and one output are enough: the graph computes the rest, too.
struct Buffers {
    std::string input, output;
    std::vector<std::int64_t> input_shape, output_shape;
    std::vector<float> given, got;

    explicit Buffers(const edgeprune_bundle *bundle) {
        edgeprune_tensor tensor;
        if (edgeprune_get_input(bundle, 0, &tensor) || tensor.dtype != EDGEPRUNE_FLOAT32) stop("needs float32 input");
        input = tensor.name;
        input_shape.assign(tensor.shape, tensor.shape + tensor.rank);
        given.assign(tensor.nbytes / sizeof(float), 0.0F);
        for (std::size_t at = 0; at < given.size(); ++at) given[at] = static_cast<float>(at % 255) / 128.0F - 1.0F;
        if (edgeprune_get_output(bundle, 0, &tensor) || tensor.dtype != EDGEPRUNE_FLOAT32) stop("needs float32 output");
        output = tensor.name;
        output_shape.assign(tensor.shape, tensor.shape + tensor.rank);
        got.assign(tensor.nbytes / sizeof(float), 0.0F);
    }
};

// What an application writes by hand, on a session that it owns or one that it was given.
class Bare {
  public:
    Bare(OrtSession *session, Buffers &buffers) : buffers_(buffers), session_(session) {
        OrtMemoryInfo *memory = nullptr;
        check(api->CreateMemoryInfo("Cpu", OrtDeviceAllocator, 0, OrtMemTypeDefault, &memory));
        input_ = tensor(memory, buffers.given, buffers.input_shape);
        output_ = tensor(memory, buffers.got, buffers.output_shape);
        api->ReleaseMemoryInfo(memory);
    }
    ~Bare() {
        api->ReleaseValue(input_);
        api->ReleaseValue(output_);
    }
    Bare(const Bare &) = delete;
    Bare &operator=(const Bare &) = delete;

    static OrtSession *open(const edgeprune::Mapped &graph) {
        OrtSessionOptions *options = nullptr;
        OrtSession *session = nullptr;
        check(api->CreateSessionOptions(&options));
        check(api->SetIntraOpNumThreads(options, 1));
        check(api->AddSessionConfigEntry(options, "session.force_spinning_stop", "1"));
        check(api->CreateSessionFromArray(environment, graph.data(), graph.size(), options, &session));
        api->ReleaseSessionOptions(options);
        return session;
    }
    void run() {
        const char *inputs[] = {buffers_.input.c_str()}, *outputs[] = {buffers_.output.c_str()};
        check(api->Run(session_, nullptr, inputs, &input_, 1, outputs, 1, &output_));
    }

  private:
    static OrtValue *tensor(const OrtMemoryInfo *memory, std::vector<float> &data,
                            const std::vector<std::int64_t> &shape) {
        OrtValue *value = nullptr;
        check(api->CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(float), shape.data(),
                                                  shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
        return value;
    }

    Buffers &buffers_;
    OrtSession *session_;
    OrtValue *input_ = nullptr, *output_ = nullptr;
};

class Ours {
  public:
    Ours(const char *folder, const char *onnxruntime) {
        edgeprune_options options = EDGEPRUNE_OPTIONS;
        options.device = EDGEPRUNE_CPU;
        options.threads = 1;
        options.onnxruntime = onnxruntime;
        if (edgeprune_open(folder, &options, &bundle_)) stop(edgeprune_error(nullptr));
    }
    ~Ours() { edgeprune_close(bundle_); }
    Ours(const Ours &) = delete;
    Ours &operator=(const Ours &) = delete;

    const edgeprune_bundle *bundle() const { return bundle_; }
    void run(Buffers &buffers) {
        const edgeprune_buffer input{buffers.input.c_str(), buffers.given.data(), buffers.given.size() * sizeof(float)};
        const edgeprune_buffer output{buffers.output.c_str(), buffers.got.data(), buffers.got.size() * sizeof(float)};
        if (edgeprune_run(bundle_, &input, 1, &output, 1)) stop(edgeprune_error(bundle_));
    }

  private:
    edgeprune_bundle *bundle_ = nullptr;
};

template <class Call>
double timed(Call call) {
    const auto start = Clock::now();
    call();
    return since(start);
}

}  // namespace

int main(int count, char **arguments) {
    const char *onnxruntime = std::getenv("WATCHED_ONNXRUNTIME");
    if (count < 3 || !onnxruntime) stop("usage: bench_overhead BUNDLE WATCHED_ONNXRUNTIME [BLOCKS [ROUNDS]]");
    const char *folder = arguments[1], *watched = arguments[2];
    const int blocks = count > 3 ? std::atoi(arguments[3]) : 5, rounds = count > 4 ? std::atoi(arguments[4]) : 200;
    void *library = dlopen(onnxruntime, RTLD_NOW | RTLD_LOCAL), *watching = dlopen(watched, RTLD_NOW | RTLD_LOCAL);
    if (!library || !watching) stop(dlerror());
    const auto last_session = reinterpret_cast<OrtSession *(*)()>(dlsym(watching, "watched_session"));
    api = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"))()->GetApi(19);
    check(api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "bare", &environment));

    const edgeprune::Bundle files = edgeprune::Bundle::open(folder);
    const edgeprune::Mapped &graph = files.file(files.manifest.encoder().file);
    std::vector<double> run, open;
    double run_ms = 0, open_ms = 0, hash_ms = 0;
    for (int block = 0; block < blocks; ++block) {
        std::vector<double> bare, ours, bare_open, our_open, hash;
        Ours one(folder, watched);
        Buffers buffers(one.bundle());
        one.run(buffers);
        Bare other(last_session(), buffers);
        for (int round = -10; round < rounds; ++round) {
            double a = 0, b = 0;
            const auto ours_once = [&] { b = timed([&] { one.run(buffers); }); };
            if (round % 2) ours_once();
            a = timed([&] { other.run(); });
            if (round % 2 == 0) ours_once();
            if (round < 0) continue;
            bare.push_back(a);
            ours.push_back(b);
        }
        for (int round = 0; round < rounds / 20 + 3; ++round) {
            bare_open.push_back(timed([&] {
                OrtSession *session = Bare::open(graph);
                Bare(session, buffers).run();
                api->ReleaseSession(session);
            }));
            our_open.push_back(timed([&] {
                Ours opened(folder, onnxruntime);
                opened.run(buffers);
            }));
            hash.push_back(timed([&] {
                for (const auto &named : files.manifest.files) {
                    const edgeprune::Mapped &file = files.file(named.first);
                    edgeprune::sha256(file.data(), file.size());
                }
            }));
        }
        run.push_back(median(ours) / median(bare));
        open.push_back(median(our_open) / (median(bare_open) + median(hash)));
        run_ms = 1e3 * median(bare);
        open_ms = 1e3 * median(bare_open);
        hash_ms = 1e3 * median(hash);
    }
    const auto list = [](const std::vector<double> &values) {
        std::string text;
        for (const double value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
        return "[" + text + "]";
    };
    std::printf("{\"run\": %s, \"open\": %s, \"run_ms\": %.4f, \"session_ms\": %.3f, \"hash_ms\": %.3f}\n",
                list(run).c_str(), list(open).c_str(), run_ms, open_ms, hash_ms);
    api->ReleaseEnv(environment);
    return 0;
}
