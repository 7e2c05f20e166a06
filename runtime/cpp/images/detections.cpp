#include "images/detections.hpp"

#include "error.hpp"
#include "images/softmax.hpp"

namespace edgeprune {

std::size_t detect(const View &logits, const View &boxes, std::size_t width, std::size_t height, float threshold,
                   edgeprune_detection *detections, std::size_t capacity) {
    if (logits.shape.size() != 2 || boxes.shape.size() != 2 || logits.shape[0] != boxes.shape[0] ||
        logits.shape[1] < 2 || boxes.shape[1] != 4 || !is_real(logits) || !is_real(boxes))
        throw wrong_request("logits must be [T, classes + 1] and boxes [T, 4], float32 or float16");
    const auto rows = static_cast<std::size_t>(logits.shape[0]), columns = static_cast<std::size_t>(logits.shape[1]);
    const auto across = static_cast<float>(width), down = static_cast<float>(height);
    std::size_t count = 0;
    for (std::size_t row = 0; row < rows; ++row) {
        const Softmax share(logits, row * columns, columns);
        std::size_t label = 0;
        float score = share(0);
        for (std::size_t i = 1; i + 1 < columns; ++i) {  // the last column is "no object"
            const float other = share(i);
            if (other > score) score = other, label = i;
        }
        if (!(score > threshold)) continue;  // nor where a logit is NaN
        if (count++ >= capacity) continue;
        const float x = number_at(boxes, 4 * row), y = number_at(boxes, 4 * row + 1);
        const float half_width = 0.5f * number_at(boxes, 4 * row + 2), half_height = 0.5f * number_at(boxes, 4 * row + 3);
        detections[count - 1] = {score, static_cast<std::int32_t>(label), (x - half_width) * across,
                                 (y - half_height) * down, (x + half_width) * across, (y + half_height) * down};
    }
    return count;
}

}  // namespace edgeprune
