// What a classifier's output says, as runtime/classes.py reads it.
#pragma once

#include <cstddef>

#include "edgeprune.h"
#include "tensor.hpp"

namespace edgeprune {

// Of one image: logits [classes], float32 or float16 -> how many classes there are; writes the likeliest, up to
// `capacity` of them, the likeliest first, of two that are as likely the first one. Throws wrong_request for other shapes.
std::size_t classify(const View &logits, edgeprune_class *classes, std::size_t capacity);

}  // namespace edgeprune
