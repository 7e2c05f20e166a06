// A plan runs through the C interface, on the mock of NVIDIA's libraries that LD_LIBRARY_PATH leads to.
//
//     test_plan_session run BUNDLE      finds something wrong, or nothing
//     test_plan_session open BUNDLE     prints why it cannot be opened

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <dlfcn.h>

#include "check.hpp"
#include "edgeprune.h"

namespace {

template <class Function>
Function *mocked(const char *name) {
    static void *library = dlopen("libcuda.so.1", RTLD_NOW);
    return reinterpret_cast<Function *>(dlsym(library, name));
}

edgeprune_bundle *opened(const char *folder, edgeprune_device device) {
    edgeprune_options options = EDGEPRUNE_OPTIONS;
    options.device = device;
    edgeprune_bundle *bundle = nullptr;
    edgeprune_open(folder, &options, &bundle);
    return bundle;
}

// What the mock computes: the sum of the bytes that go in, counted from the number of the output.
bool filled(const std::vector<unsigned char> &memory, const std::vector<unsigned char> &pixels, unsigned number) {
    for (const unsigned char byte : pixels) number += byte;
    for (const unsigned char byte : memory)
        if (byte != static_cast<unsigned char>(number)) return false;
    return true;
}

void on_host_memory(edgeprune_bundle *bundle, std::size_t pixels_nbytes, std::size_t tokens_nbytes,
                    std::size_t scores_nbytes) {
    std::vector<unsigned char> pixels(pixels_nbytes), tokens(tokens_nbytes), scores(scores_nbytes);
    const edgeprune_buffer input{"pixel_values", pixels.data(), pixels.size()};
    const edgeprune_buffer outputs[] = {{"scores", scores.data(), scores.size()},
                                        {"tokens", tokens.data(), tokens.size()}};
    const auto launches = mocked<int()>("mock_graph_launches");
    for (unsigned run = 1; run < 4; ++run) {
        const int before = launches();
        pixels[run] = static_cast<unsigned char>(7 * run);
        check::same(edgeprune_run(bundle, &input, 1, outputs, 2), EDGEPRUNE_OK);
        check::holds(filled(tokens, pixels, 0) && filled(scores, pixels, 2));
        check::same(launches(), before + 1);  // captured when it was opened
    }
    check::same(edgeprune_run_cuda(bundle, &input, 1, outputs, 2, nullptr), EDGEPRUNE_WRONG_REQUEST);
    check::holds(std::strstr(edgeprune_error(bundle), "must be in the GPU's memory") != nullptr);
}

void on_the_gpu(edgeprune_bundle *bundle, std::size_t pixels_nbytes, std::size_t tokens_nbytes) {
    const auto allocate = mocked<int(void **, std::size_t)>("cudaMalloc");
    const auto free = mocked<int(void *)>("cudaFree");
    const auto create = mocked<int(void **, unsigned)>("cudaStreamCreateWithFlags");
    const auto wait = mocked<int(void *)>("cudaStreamSynchronize");
    const auto destroy = mocked<int(void *)>("cudaStreamDestroy");
    const auto launches = mocked<int()>("mock_graph_launches");
    void *streams[2] = {}, *memory[2][2] = {};
    for (int at = 0; at < 2; ++at) {
        create(&streams[at], 1);
        allocate(&memory[at][0], pixels_nbytes);
        allocate(&memory[at][1], tokens_nbytes);
    }
    const int before = launches();
    for (int run = 0; run < 6; ++run) {
        // The same memory three times, then other, on another stream: the first run launches, the others are captured.
        const int at = run / 3;
        std::vector<unsigned char> pixels(pixels_nbytes, static_cast<unsigned char>(run)), tokens(tokens_nbytes);
        std::memcpy(memory[at][0], pixels.data(), pixels.size());
        const edgeprune_buffer input{"pixel_values", memory[at][0], pixels_nbytes};
        const edgeprune_buffer output{"tokens", memory[at][1], tokens_nbytes};
        check::same(edgeprune_run_cuda(bundle, &input, 1, &output, 1, streams[at]), EDGEPRUNE_OK);
        wait(streams[at]);
        std::memcpy(tokens.data(), memory[at][1], tokens.size());
        check::holds(filled(tokens, pixels, 0));
    }
    check::same(launches(), before + 4);
    const edgeprune_buffer input{"pixel_values", memory[0][0], pixels_nbytes};
    const edgeprune_buffer output{"tokens", memory[0][1], tokens_nbytes};
    check::same(edgeprune_run(bundle, &input, 1, &output, 1), EDGEPRUNE_WRONG_REQUEST);
    check::holds(std::strstr(edgeprune_error(bundle), "must be in host memory") != nullptr);
    for (int at = 0; at < 2; ++at) {
        free(memory[at][0]);
        free(memory[at][1]);
        destroy(streams[at]);
    }
}

}  // namespace

int main(int count, char **words) {
    if (count != 3) return 2;
    const bool run = std::strcmp(words[1], "run") == 0;
    edgeprune_bundle *bundle = opened(words[2], run ? EDGEPRUNE_AUTO : EDGEPRUNE_TENSORRT);
    if (!bundle) {
        std::puts(edgeprune_error(nullptr));
        return 1;
    }
    edgeprune_info info = EDGEPRUNE_INFO;
    edgeprune_get_info(bundle, &info);
    check::same(std::string(info.device), "tensorrt");
    edgeprune_tensor pixels, tokens, scores;
    edgeprune_find(bundle, "pixel_values", &pixels);
    edgeprune_find(bundle, "tokens", &tokens);
    edgeprune_find(bundle, "scores", &scores);
    on_host_memory(bundle, pixels.nbytes, tokens.nbytes, scores.nbytes);
    on_the_gpu(bundle, pixels.nbytes, tokens.nbytes);
    on_host_memory(bundle, pixels.nbytes, tokens.nbytes, scores.nbytes);
    edgeprune_close(bundle);
    return check::done();
}
