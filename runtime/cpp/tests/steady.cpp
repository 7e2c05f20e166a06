// A run again and again: nothing allocated, no tensor copied, memory flat, and right from any number of threads.
//
//     test_steady BUNDLE WATCHED_ONNXRUNTIME [RUNS]
//
// The second is the library of watched_onnxruntime.cpp, in front of the one that WATCHED_ONNXRUNTIME names.

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <unistd.h>

#include "check.hpp"
#include "edgeprune.h"

namespace {

thread_local bool counting = false;
std::atomic<std::size_t> allocations{0};
int (*inside)() = nullptr;

}  // namespace

#if defined(__has_feature)  // clang's way to say it
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if !defined(SANITIZED) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
#define COUNTS 1
namespace {

void count_one() {
    if (counting && !inside()) ++allocations;
}

}  // namespace

// Everything that allocates comes here: operator new, std::string, and what of libc does.
extern "C" {
void *__libc_malloc(std::size_t);
void *__libc_calloc(std::size_t, std::size_t);
void *__libc_realloc(void *, std::size_t);
void *__libc_memalign(std::size_t, std::size_t);

void *malloc(std::size_t size) {
    count_one();
    return __libc_malloc(size);
}
void *calloc(std::size_t count, std::size_t size) {
    count_one();
    return __libc_calloc(count, size);
}
void *realloc(void *memory, std::size_t size) {
    count_one();
    return __libc_realloc(memory, size);
}
void *aligned_alloc(std::size_t alignment, std::size_t size) {
    count_one();
    return __libc_memalign(alignment, size);
}
int posix_memalign(void **memory, std::size_t alignment, std::size_t size) {
    count_one();
    *memory = __libc_memalign(alignment, size);
    return *memory ? 0 : ENOMEM;
}
}
#else
#define COUNTS 0
#endif

namespace {

struct Opened {
    edgeprune_bundle *bundle = nullptr;

    Opened(const char *folder, const char *onnxruntime, int keep = 0, int split = 0) {
        edgeprune_options options = EDGEPRUNE_OPTIONS;
        options.device = EDGEPRUNE_CPU;
        options.threads = 1;
        options.keep = keep;
        options.split = split;
        options.onnxruntime = onnxruntime;
        if (edgeprune_open(folder, &options, &bundle)) {
            std::fprintf(stderr, "%s\n", edgeprune_error(nullptr));
            std::exit(2);
        }
    }
    ~Opened() { edgeprune_close(bundle); }
    Opened(const Opened &) = delete;
    Opened &operator=(const Opened &) = delete;
};

// Memory for all tensors of a bundle, with something in the inputs. For one image where the batch is open.
struct Memory {
    std::vector<std::vector<double>> kept;  // aligned for every dtype
    std::vector<edgeprune_buffer> inputs, outputs;

    Memory(const edgeprune_bundle *bundle, unsigned seed) {
        edgeprune_info info = EDGEPRUNE_INFO;
        edgeprune_get_info(bundle, &info);
        edgeprune_tensor tensor;
        for (std::size_t at = 0; at < info.inputs; ++at) {
            edgeprune_get_input(bundle, at, &tensor);
            add(inputs, tensor);
            fill(tensor, inputs.back(), seed);
        }
        for (std::size_t at = 0; at < info.outputs; ++at) {
            edgeprune_get_output(bundle, at, &tensor);
            add(outputs, tensor);
        }
    }
    void add(std::vector<edgeprune_buffer> &to, const edgeprune_tensor &tensor) {
        kept.emplace_back(tensor.nbytes / sizeof(double) + 1);
        to.push_back({tensor.name, kept.back().data(), tensor.nbytes});
    }
    static void fill(const edgeprune_tensor &tensor, const edgeprune_buffer &buffer, unsigned seed) {
        unsigned state = 12345 + seed;
        const auto next = [&state] { return (state = state * 1664525U + 1013904223U) >> 16; };
        if (tensor.dtype == EDGEPRUNE_FLOAT32) {
            for (std::size_t at = 0; at < buffer.nbytes / 4; ++at)
                static_cast<float *>(buffer.data)[at] = static_cast<float>(next() % 1000) / 500.0F - 1.0F;
        } else if (tensor.dtype == EDGEPRUNE_FLOAT16) {  // 1 to 2
            for (std::size_t at = 0; at < buffer.nbytes / 2; ++at)
                static_cast<std::uint16_t *>(buffer.data)[at] = static_cast<std::uint16_t>(0x3c00U + next() % 1024);
        } else if (tensor.dtype == EDGEPRUNE_UINT8) {
            for (std::size_t at = 0; at < buffer.nbytes; ++at)
                static_cast<std::uint8_t *>(buffer.data)[at] = static_cast<std::uint8_t>(next());
        }
    }
    edgeprune_status run(edgeprune_bundle *bundle) const {
        return edgeprune_run(bundle, inputs.data(), inputs.size(), outputs.data(), outputs.size());
    }
    std::string results() const {
        std::string all;
        for (const auto &one : outputs) all.append(static_cast<const char *>(one.data), one.nbytes);
        return all;
    }
};

std::size_t resident() {  // KiB
    std::ifstream file("/proc/self/statm");
    std::size_t all = 0, mine = 0;
    file >> all >> mine;
    return mine * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) / 1024;
}

std::string expected(const char *folder, const char *onnxruntime, unsigned seed) {
    const Opened open(folder, onnxruntime);
    const Memory memory(open.bundle, seed);
    check::same(memory.run(open.bundle), EDGEPRUNE_OK);
    return memory.results();
}

void nothing_is_allocated_or_copied(const char *folder, const char *onnxruntime, void *watched) {
    const auto made = reinterpret_cast<std::size_t (*)()>(dlsym(watched, "watched_made"));
    const auto given = reinterpret_cast<std::size_t (*)(const void **)>(dlsym(watched, "watched_given"));
    const Opened open(folder, onnxruntime);
    const Memory memory(open.bundle, 0);
    check::same(memory.run(open.bundle), EDGEPRUNE_OK);
    const std::size_t before = made();
    counting = true;
    for (int run = 0; run < 100; ++run) memory.run(open.bundle);
    counting = false;
    check::same(allocations.load(), 0U);
    check::same(made(), before);
    const void *addresses[64];
    check::same(given(addresses), memory.inputs.size() + memory.outputs.size());
    for (std::size_t at = 0; at < memory.inputs.size(); ++at) check::same(addresses[at], memory.inputs[at].data);
    for (std::size_t at = 0; at < memory.outputs.size(); ++at)
        check::same(addresses[memory.inputs.size() + at], memory.outputs[at].data);

    counting = true;
    const Memory other(open.bundle, 1);  // that what counts does count
    counting = false;
    check::holds(!COUNTS || allocations > 0);
    check::same(other.run(open.bundle), EDGEPRUNE_OK);
    check::holds(made() > before);
    check::holds(other.results() == expected(folder, onnxruntime, 1));
}

// A smaller budget is cut from memory of the library's own, made once.
void a_smaller_budget_allocates_nothing(const char *folder, const char *onnxruntime) {
    const Opened whole(folder, onnxruntime);
    edgeprune_info info = EDGEPRUNE_INFO;
    edgeprune_get_info(whole.bundle, &info);
    edgeprune_tensor picks;
    if (!info.nested || info.pooled || edgeprune_find(whole.bundle, "picks", &picks)) return;
    const Opened open(folder, onnxruntime, (info.keep + 1) / 2);
    const Memory memory(open.bundle, 0);
    check::same(memory.run(open.bundle), EDGEPRUNE_OK);
    allocations = 0;
    counting = true;
    for (int run = 0; run < 100; ++run) memory.run(open.bundle);
    counting = false;
    check::same(allocations.load(), 0U);
}

// Whether a pointer is into memory of so many bytes.
bool within(const void *pointer, const void *memory, std::size_t nbytes) {
    const auto *at = static_cast<const char *>(pointer), *begin = static_cast<const char *>(memory);
    return at >= begin && at < begin + nbytes;
}

// What lies between the halves is written and read where the caller has it.
void halves_allocate_and_copy_nothing(const char *folder, const char *onnxruntime, void *watched) {
    if (!std::ifstream(std::string(folder) + "/select.onnx")) return;
    const auto made = reinterpret_cast<std::size_t (*)()>(dlsym(watched, "watched_made"));
    const auto given = reinterpret_cast<std::size_t (*)(const void **)>(dlsym(watched, "watched_given"));
    const Opened open(folder, onnxruntime, 0, 1);
    const Memory memory(open.bundle, 0);
    edgeprune_info info = EDGEPRUNE_INFO;
    edgeprune_get_info(open.bundle, &info);
    std::vector<double> seen(info.seen_nbytes / sizeof(double));
    const edgeprune_buffer &pixels = memory.inputs[0];
    const std::size_t asked = memory.inputs.size() - 1, wanted = memory.outputs.size();
    const auto encode = [&] {
        return edgeprune_encode(open.bundle, pixels.data, pixels.nbytes, seen.data(), info.seen_nbytes);
    };
    const auto select = [&] {
        return edgeprune_select(open.bundle, seen.data(), info.seen_nbytes, &pixels + 1, asked, memory.outputs.data(),
                                wanted);
    };
    check::same(encode(), EDGEPRUNE_OK);
    check::same(select(), EDGEPRUNE_OK);
    check::holds(memory.results() == expected(folder, onnxruntime, 0));
    const void *addresses[64];
    check::same(encode(), EDGEPRUNE_OK);
    const std::size_t between = given(addresses) - 1;
    check::holds(between > 0);
    check::same(addresses[0], pixels.data);
    for (std::size_t at = 1; at <= between; ++at)
        check::holds(within(addresses[at], seen.data(), info.seen_nbytes));
    check::same(select(), EDGEPRUNE_OK);
    check::same(given(addresses), asked + between + wanted);
    for (std::size_t at = 0; at < asked; ++at) check::same(addresses[at], memory.inputs[1 + at].data);
    for (std::size_t at = asked; at < asked + between; ++at)
        check::holds(within(addresses[at], seen.data(), info.seen_nbytes));
    for (std::size_t at = 0; at < wanted; ++at)
        check::same(addresses[asked + between + at], memory.outputs[at].data);

    check::same(memory.run(open.bundle), EDGEPRUNE_OK);  // both at once, by memory of the handle's own
    check::same(encode(), EDGEPRUNE_OK);
    check::same(select(), EDGEPRUNE_OK);
    const std::size_t before = made();
    allocations = 0;
    counting = true;
    for (int run = 0; run < 100; ++run) {
        encode();
        for (int question = 0; question < 3; ++question) select();
    }
    counting = false;
    check::same(allocations.load(), 0U);
    check::same(made(), before);
    check::same(memory.run(open.bundle), EDGEPRUNE_OK);
    allocations = 0;
    counting = true;
    for (int run = 0; run < 100; ++run) memory.run(open.bundle);
    counting = false;
    check::same(allocations.load(), 0U);
    check::holds(memory.results() == expected(folder, onnxruntime, 0));
}

void memory_stays_flat(const char *folder, const char *onnxruntime, int runs) {
    const Opened open(folder, onnxruntime);
    const Memory memory(open.bundle, 0);
    for (int run = 0; run < runs / 5 + 100; ++run) memory.run(open.bundle);
    const std::size_t before = resident();
    for (int run = 0; run < runs; ++run) memory.run(open.bundle);
    const std::size_t after = resident();
    std::printf("%d runs: %zu KiB before, %zu after\n", runs, before, after);
    check::holds(!COUNTS || after <= before + 1024);  // a sanitizer keeps what is freed
}

void what_is_opened_is_closed(const char *folder, const char *onnxruntime, int times) {
    std::size_t before = 0;
    for (int time = 0; time < 2 * times; ++time) {
        if (time == times) before = resident();
        const Opened open(folder, onnxruntime);
        const Memory memory(open.bundle, 0);
        check::same(memory.run(open.bundle), EDGEPRUNE_OK);
        edgeprune_bundle *none = nullptr;
        check::same(edgeprune_open("/there/is/none", nullptr, &none), EDGEPRUNE_BAD_BUNDLE);
        check::holds(none == nullptr);
    }
    const std::size_t after = resident();
    std::printf("opened and closed %d times: %zu KiB before, %zu after\n", times, before, after);
    check::holds(!COUNTS || after <= before + 4096);
}

// `shared`: one handle for all of the threads, else one each.
void threads_get_their_own_results(const char *folder, const char *onnxruntime, bool shared) {
    constexpr int THREADS = 4;
    std::vector<std::string> wanted;
    for (unsigned seed = 0; seed < THREADS; ++seed) wanted.push_back(expected(folder, onnxruntime, seed));
    const Opened one(folder, onnxruntime);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < THREADS; ++seed) {
        threads.emplace_back([&, seed] {
            const Opened own(folder, onnxruntime);
            edgeprune_bundle *bundle = shared ? one.bundle : own.bundle;
            const Memory memory(bundle, seed);
            const edgeprune_buffer unknown{"unknown", memory.outputs[0].data, 1};
            for (int run = 0; run < 50; ++run) {
                if (memory.run(bundle) || memory.results() != wanted[seed]) ++wrong;
                const bool refused = edgeprune_run(bundle, memory.inputs.data(), memory.inputs.size(), &unknown, 1) ==
                                     EDGEPRUNE_WRONG_REQUEST;
                if (!refused || !std::strstr(edgeprune_error(bundle), "unknown") || *edgeprune_error(nullptr)) ++wrong;
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    check::same(wrong.load(), 0);
}

}  // namespace

int main(int count, char **arguments) {
    if (count < 3) {
        std::fprintf(stderr, "usage: %s BUNDLE WATCHED_ONNXRUNTIME [RUNS]\n", arguments[0]);
        return 2;
    }
    const char *folder = arguments[1], *onnxruntime = arguments[2];
    const int runs = count > 3 ? std::atoi(arguments[3]) : 1000;
    void *watched = dlopen(onnxruntime, RTLD_NOW | RTLD_LOCAL);
    if (!watched) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    inside = reinterpret_cast<int (*)()>(dlsym(watched, "watched_inside"));
    nothing_is_allocated_or_copied(folder, onnxruntime, watched);
    a_smaller_budget_allocates_nothing(folder, onnxruntime);
    halves_allocate_and_copy_nothing(folder, onnxruntime, watched);
    memory_stays_flat(folder, onnxruntime, runs);
    what_is_opened_is_closed(folder, onnxruntime, 10);
    threads_get_their_own_results(folder, onnxruntime, false);
    threads_get_their_own_results(folder, onnxruntime, true);
    return check::done();
}
