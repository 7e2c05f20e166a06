// Shares of classes, as numpy computes them in float32.
#pragma once

#include <cstddef>

#include "tensor.hpp"

namespace edgeprune {

bool is_real(const View &view);                // float32 or float16
float number_at(const View &view, std::size_t i);  // of such a one; memory of the caller, perhaps not aligned

// exp(x - max x) / sum, of `count` logits from `first` on. A share may differ from numpy's in the last bits, as exp() of
// the C library does from numpy's. All are NaN where a logit is NaN or infinity.
class Softmax {
   public:
    Softmax(const View &logits, std::size_t first, std::size_t count);
    float operator()(std::size_t i) const { return power(i) / total; }  // i: in 0..count - 1

   private:
    float power(std::size_t i) const;

    const View &logits;
    std::size_t first;
    float most, total;
};

}  // namespace edgeprune
