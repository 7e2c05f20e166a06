#include "images/softmax.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgeprune {
namespace {

template <class T>
T element(const View &view, std::size_t i) {
    T value;
    std::memcpy(&value, view.as<unsigned char>() + i * sizeof(T), sizeof(T));
    return value;
}

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

bool is_real(const View &view) { return view.dtype == EDGEPRUNE_FLOAT32 || view.dtype == EDGEPRUNE_FLOAT16; }

float number_at(const View &view, std::size_t i) {
    return view.dtype == EDGEPRUNE_FLOAT16 ? float_of(element<std::uint16_t>(view, i)) : element<float>(view, i);
}

Softmax::Softmax(const View &given, std::size_t begin, std::size_t count)
    : logits(given), first(begin), most(number_at(given, begin)), total(0) {
    for (std::size_t i = 1; i < count; ++i) most = std::max(most, number_at(logits, first + i));
    total = sum(0, count, [this](std::size_t i) { return power(i); });
}

float Softmax::power(std::size_t i) const { return std::exp(number_at(logits, first + i) - most); }

}  // namespace edgeprune
