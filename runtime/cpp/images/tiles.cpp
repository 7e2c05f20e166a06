#include "images/tiles.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "error.hpp"

namespace edgeprune {
namespace {

double real(std::size_t number) { return static_cast<double>(number); }
std::size_t truncated(double number) { return static_cast<std::size_t>(number); }

// Of equals the first.
Size best_fit(const std::vector<Size> &pinpoints, Size image) {
    Size best{0, 0};
    std::size_t most = 0, least = 0;  // pixels that are used, of the pinpoint that are not
    for (const Size &one : pinpoints) {
        const double scale = std::min(real(one.width) / real(image.width), real(one.height) / real(image.height));
        const std::size_t scaled = truncated(real(image.width) * scale) * truncated(real(image.height) * scale);
        const std::size_t used = std::min(scaled, image.width * image.height);
        const std::size_t unused = one.height * one.width - used;
        if (best.height && (used < most || (used == most && unused >= least))) continue;
        best = one, most = used, least = unused;
    }
    return best;
}

Size nearest_shape(const std::vector<Size> &pinpoints, Size image) {
    Size best{0, 0};
    double least = std::numeric_limits<double>::infinity();
    for (const Size &one : pinpoints) {
        const double away = std::fabs(real(image.width) / real(image.height) - real(one.width) / real(one.height));
        const bool large = real(image.width * image.height) > 0.5 * real(one.height) * real(one.width);
        if (away < least || (away == least && large)) best = one, least = away;
    }
    return best;
}

// The longer side up to whole tiles, the other in proportion to that.
Size up_to_whole(Size image, std::size_t side) {
    const auto up = [side](std::size_t length) { return (length + side - 1) / side * side; };
    const double ratio = real(image.width) / real(image.height);
    if (image.width >= image.height) {
        const std::size_t width = up(image.width);
        return {up(truncated(real(width) / ratio)), width};
    }
    const std::size_t height = up(image.height);
    return {height, up(truncated(real(height) * ratio))};
}

}  // namespace

Size Tiles::best(Size image) const {
    if (longest) {
        const Size own = up_to_whole(scaled(image), side);
        if (std::find(pinpoints.begin(), pinpoints.end(), own) != pinpoints.end()) return own;
    }
    return (squeezed ? nearest_shape : best_fit)(pinpoints, image);
}

Size Tiles::scaled(Size image) const {
    const double ratio = real(image.width) / real(image.height);
    const auto even = [](std::size_t length) { return std::max<std::size_t>(length + length % 2, 1); };
    if (image.width >= image.height) return {even(truncated(real(longest) / ratio)), longest};
    return {longest, even(truncated(real(longest) * ratio))};
}

Size Tiles::fitted(Size image, Size pinpoint) {
    const double down = real(pinpoint.height) / real(image.height), across = real(pinpoint.width) / real(image.width);
    if (across < down)
        return {std::min(truncated(std::ceil(real(image.height) * across)), pinpoint.height), pinpoint.width};
    return {pinpoint.height, std::min(truncated(std::ceil(real(image.width) * down)), pinpoint.width)};
}

void tile_order(const std::int32_t *indices, std::size_t pools, std::size_t keep, std::pair<int, int> grid,
                std::pair<int, int> shape, bool squeezed, bool whole_image, std::int32_t *order) {
    const std::int64_t rows = grid.first, columns = grid.second, each = rows * columns, across = shape.second;
    const std::int64_t tiles = std::int64_t{shape.first} * across + (whole_image ? 1 : 0);
    const std::size_t count = pools * keep;
    const bool apart = static_cast<std::int64_t>(pools) == tiles;
    const std::int64_t end = apart ? each : tiles * each;
    bool fit = (apart || pools == 1) && count <= std::numeric_limits<std::int32_t>::max();
    for (std::size_t i = 0; fit && i < count; ++i) fit = indices[i] >= 0 && indices[i] < end;
    if (!fit)
        throw wrong_request("indices must be those of ", tiles, " tiles of ", rows, "x", columns,
                            " patches, got [", pools, ", ", keep, "]; give the width and height of the same image");
    // Where a row is read: the whole image's patches, then those of the rows of patches that run through all tiles.
    const auto place = [&](std::int32_t row) {
        const std::int64_t where = indices[row] + (apart ? each * (row / static_cast<std::int64_t>(keep)) : 0);
        const std::int64_t tile = where / each, cell = where % each;
        if (squeezed || !whole_image || tile == 0) return where;
        const std::int64_t tile_row = (tile - 1) / across, tile_column = (tile - 1) % across;
        return each + (tile_row * rows + cell / columns) * across * columns + tile_column * columns + cell % columns;
    };
    std::iota(order, order + count, 0);
    std::sort(order, order + count, [&](std::int32_t a, std::int32_t b) {
        const std::int64_t first = place(a), second = place(b);
        return first != second ? first < second : a < b;
    });
}

}  // namespace edgeprune
