#include "images/classes.hpp"

#include <algorithm>

#include "error.hpp"
#include "images/softmax.hpp"

namespace edgeprune {

std::size_t classify(const View &logits, edgeprune_class *classes, std::size_t capacity) {
    if (logits.shape.size() != 1 || logits.shape[0] < 1 || !is_real(logits))
        throw wrong_request("logits must be [classes], float32 or float16");
    const auto count = static_cast<std::size_t>(logits.shape[0]);
    const Softmax share(logits, 0, count);
    std::size_t written = 0;
    for (std::size_t label = 0; label < count; ++label) {  // kept in order: few are asked for, and nothing is allocated
        const edgeprune_class one{share(label), static_cast<std::int32_t>(label)};
        std::size_t at = written;
        while (at > 0 && one.probability > classes[at - 1].probability) --at;
        if (at >= capacity) continue;
        written = std::min(written + 1, capacity);
        std::copy_backward(classes + at, classes + written - 1, classes + written);
        classes[at] = one;
    }
    return count;
}

}  // namespace edgeprune
