// An RGB image in memory that somebody else owns: 3 bytes a pixel, rows from the top.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeprune {

struct Rgb {
    const std::uint8_t *data;
    std::size_t width, height, stride;  // stride: bytes from row to row; 0 for 3 * width
};

}  // namespace edgeprune
