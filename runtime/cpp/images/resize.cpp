#include "images/resize.hpp"

#include <algorithm>
#include <cstring>

namespace edgeprune {
namespace {

constexpr std::size_t ROWS = 16;         // go across together, as the same weights go for all of them
constexpr std::size_t BLOCK = 3 * ROWS;  // bytes that are weighed at once: whole vectors of any machine

std::size_t whole_blocks(std::size_t nbytes) { return (nbytes + BLOCK - 1) / BLOCK * BLOCK; }

std::uint8_t rounded(std::uint32_t sum, int bits) {
    const std::int32_t level = static_cast<std::int32_t>(sum) >> bits;
    return static_cast<std::uint8_t>(std::min(std::max(level, 0), 255));
}

// BLOCK weighed sums: of the bytes at `from`, of those `pitch` further, and so on. Loops of a fixed length over one
// array, which compilers keep in vector registers.
void weigh(const std::uint8_t *from, std::size_t pitch, const Axis &axis, const Axis::Taps &taps, std::uint8_t *to) {
    const std::int32_t *weights = axis.weights.data() + taps.weights;
    const int bits = axis.bits;
    std::uint32_t sums[BLOCK];
    for (std::size_t i = 0; i < BLOCK; ++i) sums[i] = 1u << (bits - 1);
    for (std::size_t k = 0; k < taps.count; ++k, from += pitch) {
        const auto weight = static_cast<std::uint32_t>(weights[k]);
        for (std::size_t i = 0; i < BLOCK; ++i) sums[i] += from[i] * weight;
    }
    for (std::size_t i = 0; i < BLOCK; ++i) to[i] = rounded(sums[i], bits);
}

void at_least(std::vector<std::uint8_t> &memory, std::size_t nbytes) {
    if (memory.size() < nbytes) memory.resize(nbytes);
}

}  // namespace

bool down_first(std::size_t height, std::size_t width, std::size_t new_height, std::size_t new_width) {
    const auto lost = static_cast<std::int64_t>(height) - static_cast<std::int64_t>(new_height);
    return lost > 0 && lost > 2 * (static_cast<std::int64_t>(width) - static_cast<std::int64_t>(new_width));
}

void Resize::begin(const Canvas &canvas, const Axis &across, const Axis &down, bool down_first) {
    canvas_ = &canvas, across_ = &across, down_ = &down, down_first_ = down_first;
    first_ = end_ = made_end_ = 0;
    left_ = canvas.width, right_ = 0;
    for (const Axis::Taps &taps : across.taps) {
        if (!taps.count) continue;
        left_ = std::min(left_, taps.first);
        right_ = std::max(right_, taps.first + taps.count);
    }
    left_ = std::min(left_, right_);
    pitch_ = whole_blocks(3 * across.taps.size());
    bare_made_ = false;
    if (canvas.width > canvas.image.width || canvas.height > canvas.image.height) {
        at_least(bare_, pitch_);
        const std::size_t nbytes = (ROWS + 1) * 3 * (right_ - left_);
        at_least(laid_, nbytes);
        for (std::size_t i = 0; i < nbytes; ++i) laid_[i] = canvas.colour[i % 3];
    }
    at_least(made_, (down_first ? ROWS : 1) * pitch_);
    if (across.picks && down.picks) return;
    std::size_t most = 0;
    for (const Axis::Taps &taps : down.taps) most = std::max(most, taps.count);
    kept_pitch_ = down_first ? whole_blocks(3 * (right_ - left_)) : pitch_;
    at_least(kept_, 2 * (most + ROWS) * kept_pitch_);
    at_least(lanes_, (right_ - left_) * BLOCK);
    if (down_first) at_least(half_, ROWS * kept_pitch_);
}

const std::uint8_t *Resize::row(std::size_t y) {
    if (across_->picks && down_->picks) return picked(y);
    if (!down_first_) {
        down(y, made_.data());
        return made_.data();
    }
    if (y >= made_end_) {
        const std::uint8_t *rows[ROWS];
        made_end_ = y + ROWS;
        for (std::size_t r = 0; r < ROWS; ++r) {
            rows[r] = half_.data() + r * kept_pitch_;
            if (y + r < down_->taps.size()) down(y + r, half_.data() + r * kept_pitch_);
        }
        this->across(rows, made_.data());
    }
    return made_.data() + (y + ROWS - made_end_) * pitch_;
}

// Where no pixel is weighed.
const std::uint8_t *Resize::picked(std::size_t y) {
    const Axis::Taps &row = down_->taps[y];
    const std::uint8_t *from = row.count ? source(row.first, 0) : nullptr;
    for (std::size_t x = 0; x < across_->taps.size(); ++x) {
        const Axis::Taps &column = across_->taps[x];
        if (from && column.count)
            std::memcpy(&made_[3 * x], from + 3 * (column.first - left_), 3);
        else
            std::memset(&made_[3 * x], 0, 3);
    }
    return made_.data();
}

// The columns [left_, right_) of a row of the canvas; where the ground shows they are laid in the memory of `spare`, in
// which it is already.
const std::uint8_t *Resize::source(std::size_t y, std::size_t spare) {
    const Rgb &image = canvas_->image;
    const std::size_t nbytes = 3 * (right_ - left_);
    const std::size_t begin = std::max(left_, canvas_->left), end = std::min(right_, canvas_->left + image.width);
    if (y < canvas_->top || y - canvas_->top >= image.height || begin >= end) return ground();
    const std::uint8_t *from = image.data + (y - canvas_->top) * image.stride + 3 * (begin - canvas_->left);
    if (begin == left_ && end == right_) return from;
    std::uint8_t *laid = laid_.data() + (1 + spare) * nbytes;
    std::memcpy(laid + 3 * (begin - left_), from, 3 * (end - begin));
    return laid;
}

// Row `y` of the way down.
void Resize::down(std::size_t y, std::uint8_t *to) {
    const Axis::Taps &taps = down_->taps[y];
    keep(taps.first, taps.first + taps.count);
    const std::uint8_t *from = kept_.data() + (taps.first - first_) * kept_pitch_;
    for (std::size_t i = 0; i < kept_pitch_; i += BLOCK)
        weigh(from + i, kept_pitch_, *down_, taps, to + i);
}

// Rows [first, end) of the canvas are wanted, and none before them any more.
void Resize::keep(std::size_t first, std::size_t end) {
    if (first > end_) first_ = end_ = first;
    while (end_ < end) {
        if ((end_ - first_ + ROWS) * kept_pitch_ > kept_.size()) {
            std::memmove(kept_.data(), kept_.data() + (first - first_) * kept_pitch_, (end_ - first) * kept_pitch_);
            first_ = first;
        }
        std::uint8_t *to = kept_.data() + (end_ - first_) * kept_pitch_;
        if (down_first_) {
            std::memcpy(to, source(end_, 0), 3 * (right_ - left_));
            ++end_;
            continue;
        }
        const std::uint8_t *rows[ROWS];
        for (std::size_t r = 0; r < ROWS; ++r) rows[r] = source(std::min(end_ + r, canvas_->height - 1), r);
        if (std::all_of(rows, rows + ROWS, [this](const std::uint8_t *row) { return row == ground(); }))
            bare(rows, to);
        else
            across(rows, to);
        end_ = std::min(end_ + ROWS, canvas_->height);
    }
}

// As across, of rows that are nothing but ground: an image that is made square has many.
void Resize::bare(const std::uint8_t *const *rows, std::uint8_t *to) {
    if (!bare_made_) {
        across(rows, to);
        std::memcpy(bare_.data(), to, pitch_);
        bare_made_ = true;
        return;
    }
    for (std::size_t r = 0; r < ROWS; ++r) std::memcpy(to + r * pitch_, bare_.data(), pitch_);
}

// ROWS rows of the columns [left_, right_) to as many of the window.
void Resize::across(const std::uint8_t *const *rows, std::uint8_t *to) {
    // Side by side, so that a pixel of all rows is a block. A fourth byte makes it one move; the next pixel writes over
    // it, and the last one has none to spare.
    const std::size_t pixels = right_ - left_;
    for (std::size_t x = 0; x + 1 < pixels; ++x)
        for (std::size_t r = 0; r < ROWS; ++r) std::memcpy(&lanes_[x * BLOCK + 3 * r], rows[r] + 3 * x, 4);
    const std::size_t last = pixels - 1;
    for (std::size_t r = 0; r < ROWS; ++r) std::memcpy(&lanes_[last * BLOCK + 3 * r], rows[r] + 3 * last, 3);

    std::uint8_t block[BLOCK];
    for (std::size_t x = 0; x < across_->taps.size(); ++x, to += 3) {
        const Axis::Taps &taps = across_->taps[x];
        weigh(lanes_.data() + (taps.first - left_) * BLOCK, BLOCK, *across_, taps, block);
        for (std::size_t r = 0; r < ROWS; ++r) std::memcpy(to + r * pitch_, block + 3 * r, 3);
    }
}

}  // namespace edgeprune
