// edgeprune-camera BUNDLE SOURCE [--every] [--size WIDTHxHEIGHT]: what a camera sees, as tokens, as fast as they come.
//
// SOURCE: /dev/video0, or a file of PPM images one behind the other, or - for those of standard input:
//     ffmpeg -f v4l2 -i /dev/video0 -f image2pipe -c:v ppm - | edgeprune-camera my-bundle -
// --every: no frame is passed over, however long a run takes; for files.
//
// One thread captures, one runs; the latest frame wins. All memory is had before the first frame or with it.
//
// On a GPU nothing of this changes: edgeprune_run copies pixels there and tokens back. Where frames are in the memory of
// the GPU already (Argus, a decoder), export with `--input uint8`, scale them there to `height` x `width` of the info, and
// give the device pointers to Bundle::run_cuda, on the stream that made them; the tokens stay there, too.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <thread>

#include "edgeprune.hpp"
#include "frames.hpp"

namespace {

std::atomic<bool> stopped{false};
static_assert(std::atomic<bool>::is_always_lock_free, "for a handler of signals");

struct Arguments {
    std::string bundle, source;
    bool every = false;
    int width = 1280, height = 720;
};

bool parse(int count, char **given, Arguments &arguments) {
    int places = 0;
    for (int at = 1; at < count; ++at) {
        const std::string word = given[at];
        if (word == "--every") {
            arguments.every = true;
        } else if (word == "--size" && at + 1 < count) {
            if (std::sscanf(given[++at], "%dx%d", &arguments.width, &arguments.height) != 2) return false;
        } else if (word.size() > 1 && word[0] == '-') {
            return false;
        } else {
            (places++ == 0 ? arguments.bundle : arguments.source) = word;
        }
    }
    return places == 2 && arguments.width > 0 && arguments.height > 0;
}

double milliseconds(std::chrono::steady_clock::time_point from) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - from).count();
}

// The memory of every input or output.
std::vector<edgeprune::Memory> memory_of(const std::vector<edgeprune_tensor> &tensors) {
    return std::vector<edgeprune::Memory>(tensors.begin(), tensors.end());
}

// Whether there was a frame at all.
bool look(edgeprune::Bundle &bundle, Mailbox &mailbox) {
    const edgeprune_info info = bundle.info();
    auto pixels = bundle.memory("pixel_values");
    auto outputs = memory_of(bundle.outputs());
    const std::vector<edgeprune_buffer> in{pixels}, out(outputs.begin(), outputs.end());
    std::printf("%s of %s on %s\n", info.method, info.model, info.device);

    Frame frame;
    while (!stopped && mailbox.take(frame)) {
        const auto began = std::chrono::steady_clock::now();
        bundle.preprocess(frame.rgb.data(), frame.width, frame.height, 0, pixels.data(), info.image_nbytes);
        const double prepared_ms = milliseconds(began);
        bundle.run(in, out);
        const double done_ms = milliseconds(began);
        // Here the tokens are in outputs: to the language model. What is printed instead is how long it took.
        std::printf("frame %zu, %zux%zu: preprocess %.2f ms, run %.2f ms, passed over %zu\n", frame.number, frame.width,
                    frame.height, prepared_ms, done_ms - prepared_ms, mailbox.passed_over());
        std::fflush(stdout);
    }
    return !frame.rgb.empty();
}

}  // namespace

int main(int count, char **given) {
    Arguments arguments;
    if (!parse(count, given, arguments)) {
        std::fprintf(stderr, "usage: edgeprune-camera BUNDLE SOURCE [--every] [--size WIDTHxHEIGHT]\n");
        return 2;
    }
    std::signal(SIGINT, [](int) { stopped = true; });
    std::signal(SIGTERM, [](int) { stopped = true; });

    Mailbox mailbox(arguments.every);
    std::exception_ptr failed;
    try {
        edgeprune::Bundle bundle(arguments.bundle);
        const bool device = arguments.source.rfind("/dev/video", 0) == 0;
        auto source = device ? open_v4l2(arguments.source, arguments.width, arguments.height)
                             : open_stream(arguments.source);
        std::thread capture([&] {
            try {
                Frame frame;
                while (!stopped && source->next(frame) && mailbox.put(frame)) {
                }
            } catch (...) {
                failed = std::current_exception();
            }
            mailbox.close();
        });
        bool seen = false;
        try {
            seen = look(bundle, mailbox);
        } catch (...) {
            mailbox.close();
            capture.join();
            throw;
        }
        mailbox.close();
        capture.join();
        if (failed) std::rethrow_exception(failed);
        if (!seen && !stopped)
            throw std::runtime_error(arguments.source + " has no frame; name PPM images, a pipe of them, or /dev/video0");
    } catch (const std::exception &error) {
        std::fprintf(stderr, "edgeprune-camera: %s\n", error.what());
        return 1;
    }
    return 0;
}
