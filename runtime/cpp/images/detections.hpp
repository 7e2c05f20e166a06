// What a detector's outputs say, as runtime/detections.py reads them.
#pragma once

#include <cstddef>
#include <vector>

#include "edgeprune.h"
#include "tensor.hpp"

namespace edgeprune {

// Of one image: logits [T, classes + 1], boxes [T, 4], float32 or float16 -> how many scores lie above the threshold;
// writes up to `capacity` of them. Labels and boxes are Python's; a score may differ from it in the last bits, as exp()
// of the C library does from numpy's. Throws wrong_request for other shapes.
std::size_t detect(const View &logits, const View &boxes, std::size_t width, std::size_t height, float threshold,
                   edgeprune_detection *detections, std::size_t capacity);

}  // namespace edgeprune
