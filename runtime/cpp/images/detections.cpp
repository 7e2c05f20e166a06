#include "images/detections.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.hpp"

namespace edgeprune {
namespace {

template <class T>
T element(const View &view, std::size_t i) {  // memory of the caller, perhaps not aligned
    T value;
    std::memcpy(&value, view.as<unsigned char>() + i * sizeof(T), sizeof(T));
    return value;
}

float at(const View &view, std::size_t i) {
    return view.dtype == EDGEPRUNE_FLOAT16 ? float_of(element<std::uint16_t>(view, i)) : element<float>(view, i);
}

bool is_real(const View &view) { return view.dtype == EDGEPRUNE_FLOAT32 || view.dtype == EDGEPRUNE_FLOAT16; }

// In the order in which numpy adds a row: eight sums side by side, halves of what is longer than 128.
template <class Term>
float sum(std::size_t begin, std::size_t count, const Term &term) {
    if (count > 128) {
        const std::size_t half = count / 2 - count / 2 % 8;
        return sum(begin, half, term) + sum(begin + half, count - half, term);
    }
    float total = 0.0f;
    std::size_t i = 0;
    if (count >= 8) {
        float sums[8];
        for (; i < 8; ++i) sums[i] = term(begin + i);
        for (; i + 8 <= count; i += 8)
            for (std::size_t k = 0; k < 8; ++k) sums[k] += term(begin + i + k);
        total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }
    for (; i < count; ++i) total += term(begin + i);
    return total;
}

}  // namespace

std::size_t detect(const View &logits, const View &boxes, std::size_t width, std::size_t height, float threshold,
                   edgeprune_detection *detections, std::size_t capacity) {
    if (logits.shape.size() != 2 || boxes.shape.size() != 2 || logits.shape[0] != boxes.shape[0] ||
        logits.shape[1] < 2 || boxes.shape[1] != 4 || !is_real(logits) || !is_real(boxes))
        throw wrong_request("logits must be [T, classes + 1] and boxes [T, 4], float32 or float16");
    const auto rows = static_cast<std::size_t>(logits.shape[0]), columns = static_cast<std::size_t>(logits.shape[1]);
    const auto across = static_cast<float>(width), down = static_cast<float>(height);
    std::size_t count = 0;
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t first = row * columns;
        float most = at(logits, first);
        for (std::size_t i = 1; i < columns; ++i) most = std::max(most, at(logits, first + i));
        const auto power = [&](std::size_t i) { return std::exp(at(logits, i) - most); };
        const float total = sum(first, columns, power);
        std::size_t label = 0;
        float score = power(first) / total;
        for (std::size_t i = 1; i + 1 < columns; ++i) {  // the last column is "no object"
            const float share = power(first + i) / total;
            if (share > score) score = share, label = i;
        }
        if (!(score > threshold)) continue;  // nor where a logit is NaN
        if (count++ >= capacity) continue;
        const float x = at(boxes, 4 * row), y = at(boxes, 4 * row + 1);
        const float half_width = 0.5f * at(boxes, 4 * row + 2), half_height = 0.5f * at(boxes, 4 * row + 3);
        detections[count - 1] = {score, static_cast<std::int32_t>(label), (x - half_width) * across,
                                 (y - half_height) * down, (x + half_width) * across, (y + half_height) * down};
    }
    return count;
}

}  // namespace edgeprune
