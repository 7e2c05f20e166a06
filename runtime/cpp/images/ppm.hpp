// The image files that need no library: PPM (P6, RGB) and PGM (P5, grey), binary, 8 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "images/rgb.hpp"

namespace edgeprune {

// An image and its memory.
struct Picture {
    std::size_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;  // [height, width, 3]

    Rgb view() const { return {pixels.data(), width, height, 3 * width}; }
};

// A whole file in memory, trusted in nothing -> its first image; grey becomes RGB as in Pillow. Throws bad_image.
Picture read_ppm(const unsigned char *file, std::size_t nbytes);

}  // namespace edgeprune
