// Pillow's resize of 8-bit RGB, and torch's, bit for bit: one direction, rounded to 8 bits, then the other. Only what is asked for
// is made: rows of a window, each from the rows it lies between, so that the memory does not grow with the height.
//
// Across comes first, except where the height shrinks by more than twice as many pixels as the width: there Pillow 13
// goes down first. Earlier ones always go across first, and differ in such images by the rounding in between.
// Torch always goes across first, and weighs otherwise rounded (axis.hpp).
//
// Source  python-pillow/Pillow@13.0 src/libImaging/Resample.c
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "images/axis.hpp"
#include "images/rgb.hpp"

namespace edgeprune {

// An image that lies on a ground of one colour.
struct Canvas {
    Rgb image;
    std::size_t left, top;      // of the image, which lies wholly on it
    std::size_t width, height;  // of the canvas
    std::array<std::uint8_t, 3> colour;
};

// Whether Pillow does.
bool down_first(std::size_t height, std::size_t width, std::size_t new_height, std::size_t new_width);

class Resize {
  public:
    // What these point to is read until the last row was asked for. Allocates nothing for sizes that it has seen.
    void begin(const Canvas &canvas, const Axis &across, const Axis &down, bool down_first);

    // Row `y` of the window, 3 bytes a pixel, valid until the next call. Rows are asked for in order.
    const std::uint8_t *row(std::size_t y);

  private:
    const std::uint8_t *source(std::size_t y, std::size_t spare);
    const std::uint8_t *picked(std::size_t y);
    void keep(std::size_t first, std::size_t end);
    void down(std::size_t y, std::uint8_t *to);
    void across(const std::uint8_t *const *rows, std::uint8_t *to);
    void bare(const std::uint8_t *const *rows, std::uint8_t *to);
    const std::uint8_t *ground() const { return laid_.data(); }

    const Canvas *canvas_ = nullptr;
    const Axis *across_ = nullptr, *down_ = nullptr;
    bool down_first_ = false;
    std::size_t left_ = 0, right_ = 0;        // columns of the canvas that any new pixel needs: [left_, right_)
    std::size_t pitch_ = 0, kept_pitch_ = 0;  // bytes from row to row of made_ and kept_, whole blocks
    std::size_t first_ = 0, end_ = 0;         // rows that are kept: [first_, end_)
    std::size_t made_end_ = 0;                // rows that are made, when down comes first: the last ROWS up to here
    std::vector<std::uint8_t> laid_;   // [1 + ROWS, right_ - left_, 3], rows where the ground shows; it fills the first
    std::vector<std::uint8_t> bare_;   // what the first of these becomes across
    bool bare_made_ = false;
    std::vector<std::uint8_t> lanes_;  // [right_ - left_, ROWS, 3], rows side by side
    std::vector<std::uint8_t> kept_;   // rows in front of the way down
    std::vector<std::uint8_t> half_;   // [ROWS, kept_pitch_], rows behind it, when down comes first
    std::vector<std::uint8_t> made_;   // rows of the window
};

}  // namespace edgeprune
