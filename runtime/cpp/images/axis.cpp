#include "images/axis.hpp"

#include <algorithm>
#include <cmath>

namespace edgeprune {
namespace {

constexpr double PI = 3.14159265358979323846;
constexpr std::int32_t ONE = 1 << WEIGHT_BITS;

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * PI) / (x * PI); }

// Half the width of the filter, in new pixels.
double support(Filter filter) {
    switch (filter) {
        case Filter::lanczos: return 3.0;
        case Filter::bicubic: return 2.0;
        case Filter::box: return 0.5;
        default: return 1.0;
    }
}

// The last bit of a weight depends on the order of the operations: it is Pillow's.
double value(Filter filter, double at) {
    const double x = std::fabs(at);
    switch (filter) {
        case Filter::box: return at > -0.5 && at <= 0.5 ? 1.0 : 0.0;
        case Filter::bilinear: return x < 1.0 ? 1.0 - x : 0.0;
        case Filter::hamming:  // of single-precision numbers, whose sum is not 1
            if (x == 0.0) return 1.0;
            return x < 1.0 ? sinc(x) * (double{0.54f} + double{0.46f} * std::cos(x * PI)) : 0.0;
        case Filter::lanczos: return at >= -3.0 && at < 3.0 ? sinc(at) * sinc(at / 3.0) : 0.0;
        case Filter::bicubic: {  // of Keys, a = -1/2
            constexpr double a = -0.5;
            if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
            return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
        }
        default: return 0.0;
    }
}

// Pillow walks from one middle to the next by additions, whose errors add up.
Axis nearest(std::size_t from, double scale, std::size_t begin, std::size_t count) {
    Axis made;
    made.picks = true;
    made.weights.assign(1, ONE);
    made.taps.reserve(count);
    double middle = scale * 0.5;
    for (std::size_t i = 0; i < begin + count; ++i, middle += scale) {
        const auto pixel = static_cast<std::size_t>(middle);
        if (i >= begin) made.taps.push_back({pixel, pixel < from ? 1u : 0u, 0});
    }
    return made;
}

}  // namespace

Axis axis(std::size_t from, std::size_t to, Filter filter, std::size_t begin, std::size_t count) {
    Axis made;
    if (from == to) {
        made.picks = true;
        made.weights.assign(1, ONE);
        made.taps.reserve(count);
        for (std::size_t i = begin; i < begin + count; ++i) made.taps.push_back({i, 1, 0});
        return made;
    }
    const double end = static_cast<float>(from);  // Pillow hands the edges of the image on in single precision
    const double scale = end / static_cast<double>(to);
    if (filter == Filter::nearest) return nearest(from, scale, begin, count);
    const double stretch = std::max(scale, 1.0), reach = support(filter) * stretch, squeeze = 1.0 / stretch;
    const auto last = static_cast<std::int64_t>(from);
    std::vector<double> exact;
    made.taps.reserve(count);
    for (std::size_t i = begin; i < begin + count; ++i) {
        const double centre = (static_cast<double>(i) + 0.5) * scale;
        const std::int64_t low = std::max<std::int64_t>(static_cast<std::int64_t>(centre - reach + 0.5), 0);
        const std::int64_t high = std::min(static_cast<std::int64_t>(centre + reach + 0.5), last);
        exact.clear();
        double sum = 0.0;
        for (std::int64_t j = low; j < high; ++j) {
            exact.push_back(value(filter, (static_cast<double>(j) - centre + 0.5) * squeeze));
            sum += exact.back();
        }
        made.taps.push_back({static_cast<std::size_t>(low), exact.size(), made.weights.size()});
        for (double weight : exact) {
            if (sum != 0.0) weight /= sum;
            made.weights.push_back(static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * ONE));
        }
    }
    return made;
}

}  // namespace edgeprune
