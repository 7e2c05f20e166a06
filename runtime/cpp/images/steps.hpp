// The steps from an RGB image to an input, as a manifest keeps them under `preprocessing`: the fields of
// runtime/images/preprocess.py, with its checks, and the arithmetic by which sizes follow from each other.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "bundle/manifest.hpp"
#include "images/axis.hpp"
#include "images/tiles.hpp"

namespace edgeprune {

struct Steps {
    enum class By { exact, shortest, shortest_longest, most };  // {height, width}, {shortest_edge}, ...
    struct ResizeTo {
        By by;
        std::int64_t first, second;  // height and width, shortest and longest edge, the most of height and width
    };

    Size size;  // of the result
    std::optional<ResizeTo> resize;
    Filter filter;
    Resizer resizer;
    std::optional<Size> crop;
    double rescale;
    std::array<double, 3> mean, std;
    std::optional<Tiles> tiles;
    std::optional<std::array<std::uint8_t, 3>> square;  // the colour around an image that is made square first

    // Throws bad_bundle when fields are missing or contradict.
    static Steps read(const Json &given);

    // By the arithmetic of transformers, which rounds where it does. Throws bad_image.
    Size resized(Size image) const;
    // The canvas of an image that is made square. Throws bad_image.
    Size squared(Size image) const;
};

}  // namespace edgeprune
