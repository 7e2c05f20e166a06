#include "images/axis.hpp"

#include <algorithm>
#include <cmath>

namespace edgeprune {
namespace {

constexpr double PI = 3.14159265358979323846;
constexpr std::int32_t ONE = 1 << MOST_BITS;

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

// The weights of one new pixel after the other, before they are rounded.
struct Weighing {
    Weighing(std::size_t from, double given_scale, Filter given_filter)
        : last(static_cast<std::int64_t>(from)), scale(given_scale), filter(given_filter) {}

    // Of new pixel i, made to sum to 1; returns the first pixel.
    std::size_t operator()(std::size_t i) {
        const double centre = (static_cast<double>(i) + 0.5) * scale;
        const std::int64_t low = std::max<std::int64_t>(static_cast<std::int64_t>(centre - reach + 0.5), 0);
        const std::int64_t high = std::min(static_cast<std::int64_t>(centre + reach + 0.5), last);
        exact.clear();
        double sum = 0.0;
        for (std::int64_t j = low; j < high; ++j) {
            exact.push_back(value(filter, (static_cast<double>(j) - centre + 0.5) * squeeze));
            sum += exact.back();
        }
        if (sum != 0.0)
            for (double &weight : exact) weight /= sum;
        return static_cast<std::size_t>(low);
    }

    std::int64_t last;
    double scale;
    Filter filter;
    double stretch = std::max(scale, 1.0), reach = support(filter) * stretch, squeeze = 1.0 / stretch;
    std::vector<double> exact;
};

// As many as leave torch's greatest weight below 2^15.
int bits_of(Weighing weighing, std::size_t to) {
    double greatest = 0.0;
    for (std::size_t i = 0; i < to; ++i) {
        weighing(i);
        for (const double weight : weighing.exact) greatest = std::max(greatest, weight);
    }
    int bits = 0;
    while (bits < MOST_BITS && static_cast<int>(0.5 + greatest * (2 << bits)) < 1 << 15) ++bits;
    return bits;
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

Axis axis(std::size_t from, std::size_t to, Filter filter, std::size_t begin, std::size_t count, Resizer resizer) {
    Axis made;
    if (from == to) {
        made.picks = true;
        made.weights.assign(1, ONE);
        made.taps.reserve(count);
        for (std::size_t i = begin; i < begin + count; ++i) made.taps.push_back({i, 1, 0});
        return made;
    }
    const bool torch = resizer == Resizer::torch;
    const double end = torch ? static_cast<double>(from) : static_cast<float>(from);  // as Pillow hands its edges on
    const double scale = end / static_cast<double>(to);
    if (filter == Filter::nearest) return nearest(from, scale, begin, count);
    Weighing weighing(from, scale, filter);
    if (torch) made.bits = bits_of(weighing, to);
    made.taps.reserve(count);
    for (std::size_t i = begin; i < begin + count; ++i) {
        const std::size_t first = weighing(i);
        made.taps.push_back({first, weighing.exact.size(), made.weights.size()});
        for (const double weight : weighing.exact)
            made.weights.push_back(static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << made.bits)));
    }
    return made;
}

}  // namespace edgeprune
