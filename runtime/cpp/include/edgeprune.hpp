/*
 * edgeprune.hpp: edgeprune.h for C++11 and later. Handles close themselves, failures are thrown, nothing else is added.
 *
 *     edgeprune::Bundle bundle("out");
 *     auto pixels = bundle.memory("pixel_values"), tokens = bundle.memory("tokens");    // once
 *     bundle.preprocess(rgb, width, height, stride, pixels);
 *     bundle.run({pixels}, {tokens});
 *     const float *values = tokens.as<float>();
 *
 * What edgeprune.h says of memory, threads and failures holds here. A Bundle may be moved, not copied; one that was
 * moved from can be assigned to and destroyed, nothing else.
 */
#ifndef EDGEPRUNE_HPP
#define EDGEPRUNE_HPP

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "edgeprune.h"

namespace edgeprune {
// Inline, and therefore part of every symbol's name: the static library has classes of these names inside.
inline namespace header {

// What failed, by its status, and why, in one line: what().
class Error : public std::runtime_error {
  public:
    Error(edgeprune_status status, const std::string &line) : std::runtime_error(line), status_(status) {}
    edgeprune_status status() const noexcept { return status_; }

  private:
    edgeprune_status status_;
};

// EDGEPRUNE_OPTIONS: the defaults, to be changed field by field.
struct Options : edgeprune_options {
    Options() : edgeprune_options(EDGEPRUNE_OPTIONS) {}
};

// The memory of one tensor on the host, allocated once and kept: edgeprune_run is fastest when addresses come again.
class Memory {
  public:
    // `images`: how many, where the graph's batch is open; 1 elsewhere.
    explicit Memory(const edgeprune_tensor &tensor, std::size_t images = 1)
        : tensor_(tensor), bytes_(tensor.nbytes * images) {}

    const edgeprune_tensor &tensor() const noexcept { return tensor_; }
    void *data() noexcept { return bytes_.data(); }
    std::size_t nbytes() const noexcept { return bytes_.size(); }
    // As what edgeprune_dtype says it is: float, std::uint16_t for a float16, std::uint8_t, std::int32_t, ...
    template <class T>
    T *as() noexcept { return static_cast<T *>(data()); }
    template <class T>
    std::size_t count() const noexcept { return bytes_.size() / sizeof(T); }
    operator edgeprune_buffer() noexcept { return {tensor_.name, bytes_.data(), bytes_.size()}; }

  private:
    edgeprune_tensor tensor_;
    std::vector<unsigned char> bytes_;
};

class Bundle {
  public:
    // Throws Error when the bundle cannot be opened: see edgeprune_open.
    explicit Bundle(const std::string &folder, const edgeprune_options &options = Options()) {
        const edgeprune_status status = edgeprune_open(folder.c_str(), &options, &handle_);
        if (status != EDGEPRUNE_OK) throw Error(status, edgeprune_error(nullptr));
    }
    ~Bundle() { edgeprune_close(handle_); }
    Bundle(Bundle &&other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
    Bundle &operator=(Bundle &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    Bundle(const Bundle &) = delete;
    Bundle &operator=(const Bundle &) = delete;

    // The handle, which stays this object's, for what is not here.
    edgeprune_bundle *get() const noexcept { return handle_; }

    edgeprune_info info() const {
        edgeprune_info info = EDGEPRUNE_INFO;
        check(edgeprune_get_info(handle_, &info));
        return info;
    }
    std::vector<edgeprune_tensor> inputs() const { return tensors(edgeprune_get_input, info().inputs); }
    std::vector<edgeprune_tensor> outputs() const { return tensors(edgeprune_get_output, info().outputs); }
    edgeprune_tensor find(const char *name) const {
        edgeprune_tensor tensor{};
        check(edgeprune_find(handle_, name, &tensor));
        return tensor;
    }
    Memory memory(const char *name, std::size_t images = 1) const { return Memory(find(name), images); }
    // The name of a class of a detector or a classifier; "" beyond the last one.
    std::string label(std::size_t at) const {
        const char *label = edgeprune_label(handle_, at);
        return label == nullptr ? std::string() : std::string(label);
    }

    // One RGB image to one image's place in pixel_values; see edgeprune_preprocess.
    void preprocess(const std::uint8_t *rgb, std::size_t width, std::size_t height, std::size_t stride, void *pixels,
                    std::size_t pixels_nbytes) {
        check(edgeprune_preprocess(handle_, rgb, width, height, stride, pixels, pixels_nbytes));
    }
    void preprocess(const std::uint8_t *rgb, std::size_t width, std::size_t height, std::size_t stride,
                    edgeprune_buffer pixels) {
        preprocess(rgb, width, height, stride, pixels.data, pixels.nbytes);
    }

    // Host memory in, host memory out. Blocks.
    void run(std::initializer_list<edgeprune_buffer> inputs, std::initializer_list<edgeprune_buffer> outputs) {
        check(edgeprune_run(handle_, inputs.begin(), inputs.size(), outputs.begin(), outputs.size()));
    }
    void run(const std::vector<edgeprune_buffer> &inputs, const std::vector<edgeprune_buffer> &outputs) {
        check(edgeprune_run(handle_, inputs.data(), inputs.size(), outputs.data(), outputs.size()));
    }
    // What encode() leaves of so many images, of a bundle that was opened with `split`: one for each image to be asked.
    std::vector<unsigned char> seen(std::size_t images = 1) const {
        return std::vector<unsigned char>(info().seen_nbytes * images);
    }
    // The first half of a run, once for each image.
    void encode(edgeprune_buffer pixels, std::vector<unsigned char> &seen) {
        check(edgeprune_encode(handle_, pixels.data, pixels.nbytes, seen.data(), seen.size()));
    }
    // The second, once for each question.
    void select(const std::vector<unsigned char> &seen, std::initializer_list<edgeprune_buffer> inputs,
                std::initializer_list<edgeprune_buffer> outputs) {
        check(edgeprune_select(handle_, seen.data(), seen.size(), inputs.begin(), inputs.size(), outputs.begin(),
                               outputs.size()));
    }
    // The next run begins a video.
    void first_frame() { check(edgeprune_first_frame(handle_)); }
    // Memory of the GPU; returns when the work is queued on the stream.
    void run_cuda(std::initializer_list<edgeprune_buffer> inputs, std::initializer_list<edgeprune_buffer> outputs,
                  void *stream = nullptr) {
        check(edgeprune_run_cuda(handle_, inputs.begin(), inputs.size(), outputs.begin(), outputs.size(), stream));
    }

    // The objects of one image of width x height pixels, from its part of a detector's outputs.
    std::vector<edgeprune_detection> detect(edgeprune_buffer logits, edgeprune_buffer boxes, std::size_t width,
                                            std::size_t height, float threshold = 0.5F) const {
        std::vector<edgeprune_detection> found;
        std::size_t count = 0;
        do {  // once to count, once to write
            found.resize(count);
            check(edgeprune_detect(handle_, logits.data, logits.nbytes, boxes.data, boxes.nbytes, width, height,
                                   threshold, found.data(), found.size(), &count));
        } while (count > found.size());
        found.resize(count);
        return found;
    }

    // The likeliest classes of one image, the likeliest first, from its part of a classifier's logits.
    std::vector<edgeprune_class> classify(edgeprune_buffer logits, std::size_t count = 5) const {
        std::vector<edgeprune_class> found(count < info().labels ? count : info().labels);
        check(edgeprune_classify(handle_, logits.data, logits.nbytes, found.data(), found.size()));
        return found;
    }

    // The order in which a language model reads the rows of `tokens` of a tiled image; see edgeprune_tile_order.
    std::vector<std::int32_t> tile_order(edgeprune_buffer indices, std::size_t width, std::size_t height) const {
        std::vector<std::int32_t> order(indices.nbytes / sizeof(std::int32_t));
        check(edgeprune_tile_order(handle_, static_cast<const std::int32_t *>(indices.data), indices.nbytes, width,
                                   height, order.data(), indices.nbytes));
        return order;
    }

  private:
    edgeprune_bundle *handle_ = nullptr;

    void check(edgeprune_status status) const {
        if (status != EDGEPRUNE_OK) throw Error(status, edgeprune_error(handle_));
    }
    template <class Get>
    std::vector<edgeprune_tensor> tensors(Get tensor_at, std::size_t count) const {
        std::vector<edgeprune_tensor> found(count);
        for (std::size_t at = 0; at < count; ++at) check(tensor_at(handle_, at, &found[at]));
        return found;
    }
};

}  // namespace header
}  // namespace edgeprune

#endif
