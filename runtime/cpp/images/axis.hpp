// One direction of a resize: which pixels each new pixel is made of, and how much of each, as Pillow or torch weighs
// them.
//
//     scale  = from / to,  stretch = max(scale, 1),  centre = (i + 1/2) * scale,  reach = support * stretch
//     taps   = pixels j with round(centre - reach) <= j < round(centre + reach), those that there are
//     weight = f((j - centre + 1/2) / stretch), made to sum to 1, rounded to whole 1 / 2^bits
//     bits   = 22; of torch the most, up to that, for which the greatest weight of all new pixels has 15 bits
//
// Source  python-pillow/Pillow@13.0 src/libImaging/Resample.c; Geometry.c for the nearest pixel, which has one tap;
//         pytorch/pytorch@v2.13 aten/src/ATen/native/cpu/UpSampleKernel.cpp, of uint8 with antialias=True
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgeprune {

// Pillow's numbers, as manifests keep them.
enum class Filter { nearest = 0, lanczos = 1, bilinear = 2, bicubic = 3, box = 4, hamming = 5 };

// Whose rounding it is; of torch, bilinear and bicubic.
enum class Resizer { pillow, torch };

inline constexpr int MOST_BITS = 22;  // 32, less 8 of a level and 2 for filters that overshoot

struct Axis {
    struct Taps {
        std::size_t first, count;  // pixels; none where a rounding error put the nearest one outside
        std::size_t weights;       // where theirs begin
    };
    std::vector<Taps> taps;  // of each new pixel of the window
    std::vector<std::int32_t> weights;
    int bits = MOST_BITS;  // behind the weights' point
    bool picks = false;    // every new pixel is a pixel as it was: one tap of weight 1
};

// `from` pixels to `to`, of which those from `begin` on, `count` many, are wanted. All but count are positive.
Axis axis(std::size_t from, std::size_t to, Filter filter, std::size_t begin, std::size_t count,
          Resizer resizer = Resizer::pillow);

}  // namespace edgeprune
