// An RGB image to what a graph takes, bit for bit as runtime/images/{preprocess,tiles}.py make it with Pillow 13.
//
//     RGB -> square -> resize -> centre crop (zeros around what is too small) -> x * rescale -> (x - mean) / std
//     RGB -> tiles   -> x * rescale -> (x - mean) / std                      of one image
#pragma once

#include <memory>
#include <utility>

#include "bundle/manifest.hpp"
#include "images/rgb.hpp"

namespace edgeprune {

// Of one thread at a time: it keeps its working memory, which copies of it share.
class Preprocessing {
  public:
    // Throws bad_bundle when fields are missing or contradict.
    explicit Preprocessing(const Json &given);

    int height() const;
    int width() const;
    bool tiled() const;
    int tiles() const;  // of one image; 1 where it is not cut up

    // Rows and columns of the tiles of an image, (0, 0) where it stays whole. Throws bad_image.
    std::pair<int, int> tile_shape(std::size_t height, std::size_t width) const;
    bool squeezed() const;
    bool whole_image() const;  // whether it is one of the tiles

    // To one image's part of pixel_values (of all its tiles): uint8 [T, H, W, 3], or float32 or float16 [T, 3, H, W].
    // Allocates nothing for an image as large as the one before. Throws bad_image, and wrong_request for a stride or
    // dtype that cannot be.
    void operator()(const Rgb &image, DType dtype, void *pixels);

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace edgeprune
