// Numbers that are numbers: with NaN among the pixels every score is NaN, and the patches kept are 0, 1, 2, ...
// What runtime/images/finite.py is for Python.
#pragma once

#include "tensor.hpp"

namespace edgeprune {

// Throws bad_image when one of `count` floats, single or half, is NaN or infinite. Other dtypes have none.
void check_finite(const Spec &spec, const void *data, std::size_t nbytes);

}  // namespace edgeprune
