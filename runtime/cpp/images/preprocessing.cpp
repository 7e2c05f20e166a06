#include "images/preprocessing.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "error.hpp"
#include "images/resize.hpp"
#include "images/steps.hpp"

namespace edgeprune {
namespace {

constexpr std::size_t MOST = (1u << 29) - 1;  // pixels a side, as Pillow

// A piece of an image that was resized: what becomes one image, or one tile, of the input.
struct Cut {
    Axis across, down;  // of the window: what the piece has of the image
    bool down_first;
    std::size_t left, top;  // where the window lies in the piece; zeros around it
};

// What a piece has of an image in one direction: `count` pixels from the image's pixel `first` on, as its own from `in`.
struct Window {
    std::size_t first, count, in;
};

// at: the pixel of the image, which may lie outside, where the piece begins
Window window(std::int64_t at, std::size_t piece, std::size_t image) {
    const auto length = static_cast<std::int64_t>(piece);
    const std::int64_t first = std::max<std::int64_t>(at, 0);
    const std::int64_t count = std::min(static_cast<std::int64_t>(image), at + length) - first;
    return {static_cast<std::size_t>(first), static_cast<std::size_t>(std::max<std::int64_t>(count, 0)),
            static_cast<std::size_t>(std::min(first - at, length))};
}

// Where something in the middle begins: half a difference, rounded down, as Python's //.
std::int64_t middle(std::size_t a, std::size_t b) {
    const std::int64_t difference = static_cast<std::int64_t>(a) - static_cast<std::int64_t>(b);
    return (difference - (difference < 0 && difference % 2 != 0)) / 2;
}

void check(std::size_t height, std::size_t width) {
    if (!height || !width) throw bad_image("an image must have at least one pixel; got ", width, "x", height);
    if (height > MOST || width > MOST)
        throw bad_image("an image must have at most ", MOST, " pixels a side; got ", width, "x", height,
                        "; make it smaller, or cut it");
}

}  // namespace

struct Preprocessing::State {
    explicit State(const Json &given) : steps(Steps::read(given)) {
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const auto mean = static_cast<float>(steps.mean[channel]), std = static_cast<float>(steps.std[channel]);
            for (int level = 0; level < 256; ++level) {
                const float value = (static_cast<float>(level * steps.rescale) - mean) / std;
                single[channel][level] = value;
                half[channel][level] = half_of(value);
            }
        }
    }

    // What an image of this size is cut into. Throws bad_image.
    void plan(Size image);
    // What comes in front of that, where tiles are of an image that is scaled and squeezed as a whole first.
    void plan_whole(Size image);
    void make_whole(const Rgb &image);
    void whole(const Canvas &from, const Cut &cut, std::vector<std::uint8_t> &to);
    Cut cut(Size from, Size to, std::int64_t top, std::int64_t left) const;
    Cut cut(Size from, Size to, const Window &rows, const Window &columns) const;
    void piece(const Cut &cut, DType dtype, unsigned char *to);
    void row(const std::uint8_t *from, std::size_t y, DType dtype, unsigned char *to) const;

    Steps steps;
    float single[3][256];  // of a level: everything behind the resize
    std::uint16_t half[3][256];
    Size planned{0, 0};
    Canvas canvas{};
    std::vector<Cut> cuts;
    std::vector<Cut> before;  // the two resizes of the whole, of which the second is cut
    std::vector<std::uint8_t> scaled, squeezed;
    Resize resize;
    std::vector<std::uint8_t> line;
};

Cut Preprocessing::State::cut(Size from, Size to, std::int64_t top, std::int64_t left) const {
    const Window columns = window(left, steps.size.width, to.width), rows = window(top, steps.size.height, to.height);
    return cut(from, to, rows, columns);
}

Cut Preprocessing::State::cut(Size from, Size to, const Window &rows, const Window &columns) const {
    const bool pillow = steps.resizer == Resizer::pillow;
    return {axis(from.width, to.width, steps.filter, columns.first, columns.count, steps.resizer),
            axis(from.height, to.height, steps.filter, rows.first, rows.count, steps.resizer),
            pillow && down_first(from.height, from.width, to.height, to.width), columns.in, rows.in};
}

void Preprocessing::State::plan_whole(Size image) {
    const Tiles &tiles = *steps.tiles;
    const Size first = tiles.scaled(image), best = tiles.best(image);
    const Size second = best.height ? best : Size{tiles.side, tiles.side};
    const auto all = [this](Size from, Size to) {
        return cut(from, to, Window{0, to.height, 0}, Window{0, to.width, 0});
    };
    before = {all(image, first), all(first, second)};
    scaled.resize(3 * first.height * first.width);
    squeezed.resize(3 * second.height * second.width);
    const auto side = static_cast<std::int64_t>(tiles.side);
    for (std::int64_t top = 0; top < static_cast<std::int64_t>(best.height); top += side)
        for (std::int64_t left = 0; left < static_cast<std::int64_t>(best.width); left += side)
            cuts.push_back(cut(second, second, top, left));
    if (tiles.whole) cuts.push_back(cut(second, {tiles.side, tiles.side}, 0, 0));
    canvas = {{squeezed.data(), second.width, second.height, 3 * second.width}, 0, 0, second.width, second.height, {}};
}

void Preprocessing::State::make_whole(const Rgb &image) {
    const Cut &first = before[0];
    whole({image, 0, 0, image.width, image.height, {}}, first, scaled);
    const std::size_t width = first.across.taps.size(), height = first.down.taps.size();
    whole({{scaled.data(), width, height, 3 * width}, 0, 0, width, height, {}}, before[1], squeezed);
}

void Preprocessing::State::whole(const Canvas &from, const Cut &cut, std::vector<std::uint8_t> &to) {
    const std::size_t row = 3 * cut.across.taps.size();
    resize.begin(from, cut.across, cut.down, cut.down_first);
    for (std::size_t y = 0; y < cut.down.taps.size(); ++y) std::memcpy(to.data() + y * row, resize.row(y), row);
}

void Preprocessing::State::plan(Size image) {
    planned = {0, 0};
    cuts.clear();
    before.clear();
    const Size ground = steps.squared(image);
    canvas = {{}, static_cast<std::size_t>(middle(ground.width, image.width)),
              static_cast<std::size_t>(middle(ground.height, image.height)), ground.width, ground.height,
              steps.square.value_or(std::array<std::uint8_t, 3>{})};
    if (!steps.tiles) {
        const Size resized = steps.resized(ground), end = steps.crop.value_or(resized);
        if (!(end == steps.size))
            throw bad_image("images must be ", steps.size.height, "x", steps.size.width,
                            " (height x width) for this encoder; got ", end.height, "x", end.width,
                            "; resize it first");
        cuts.push_back(cut(ground, resized, middle(resized.height, end.height),
                           middle(resized.width, end.width)));
    } else if (steps.tiles->longest) {
        plan_whole(image);
    } else {
        const Tiles &tiles = *steps.tiles;
        const Size best = tiles.best(image), fitted = tiles.squeezed ? best : Tiles::fitted(image, best);
        const auto side = static_cast<std::int64_t>(tiles.side);
        const std::int64_t above = middle(best.height, fitted.height);
        const std::int64_t before = middle(best.width, fitted.width);
        for (std::int64_t top = 0; top < static_cast<std::int64_t>(best.height); top += side)
            for (std::int64_t left = 0; left < static_cast<std::int64_t>(best.width); left += side)
                cuts.push_back(cut(image, fitted, top - above, left - before));
        if (tiles.whole)
            cuts.insert(tiles.squeezed ? cuts.end() : cuts.begin(), cut(image, {tiles.side, tiles.side}, 0, 0));
    }
    line.resize(3 * steps.size.width);
    planned = image;
}

void Preprocessing::State::piece(const Cut &cut, DType dtype, unsigned char *to) {
    std::fill(line.begin(), line.end(), std::uint8_t{0});
    const std::size_t rows = cut.across.taps.empty() ? 0 : cut.down.taps.size();
    if (rows) resize.begin(canvas, cut.across, cut.down, cut.down_first);
    for (std::size_t y = 0; y < cut.top; ++y) row(line.data(), y, dtype, to);
    for (std::size_t y = 0; y < rows; ++y) {
        std::memcpy(line.data() + 3 * cut.left, resize.row(y), 3 * cut.across.taps.size());
        row(line.data(), cut.top + y, dtype, to);
    }
    std::fill(line.begin(), line.end(), std::uint8_t{0});
    for (std::size_t y = cut.top + rows; y < steps.size.height; ++y) row(line.data(), y, dtype, to);
}

template <class T>
void planes(const std::uint8_t *from, const T (&table)[3][256], std::size_t y, Size size, unsigned char *to) {
    for (std::size_t channel = 0; channel < 3; ++channel) {
        unsigned char *plane = to + (channel * size.height + y) * size.width * sizeof(T);
        for (std::size_t x = 0; x < size.width; ++x)  // memory of the caller, perhaps not aligned
            std::memcpy(plane + x * sizeof(T), &table[channel][from[3 * x + channel]], sizeof(T));
    }
}

void Preprocessing::State::row(const std::uint8_t *from, std::size_t y, DType dtype, unsigned char *to) const {
    if (dtype == EDGEPRUNE_FLOAT32) return planes(from, single, y, steps.size, to);
    if (dtype == EDGEPRUNE_FLOAT16) return planes(from, half, y, steps.size, to);
    std::memcpy(to + 3 * y * steps.size.width, from, 3 * steps.size.width);
}

Preprocessing::Preprocessing(const Json &given) : state_(std::make_shared<State>(given)) {}

int Preprocessing::height() const { return static_cast<int>(state_->steps.size.height); }
int Preprocessing::width() const { return static_cast<int>(state_->steps.size.width); }
bool Preprocessing::tiled() const { return state_->steps.tiles.has_value(); }
int Preprocessing::tiles() const { return tiled() ? static_cast<int>(state_->steps.tiles->count) : 1; }
bool Preprocessing::squeezed() const { return tiled() && state_->steps.tiles->squeezed; }
bool Preprocessing::whole_image() const { return !tiled() || state_->steps.tiles->whole; }

std::pair<int, int> Preprocessing::tile_shape(std::size_t height, std::size_t width) const {
    check(height, width);
    if (!tiled()) return {0, 0};
    const Tiles &tiles = *state_->steps.tiles;
    const Size best = tiles.best({height, width});
    return {static_cast<int>(best.height / tiles.side), static_cast<int>(best.width / tiles.side)};
}

void Preprocessing::operator()(const Rgb &image, DType dtype, void *pixels) {
    check(image.height, image.width);
    const std::size_t row = 3 * image.width, stride = image.stride ? image.stride : row;
    if (stride < row)
        throw wrong_request("stride must be at least the ", row, " bytes of a row, or 0 for that; got ", stride);
    if (stride > static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max()) / image.height)
        throw wrong_request("an image must fit into memory; got ", image.height, " rows of ", stride, " bytes");
    if (dtype != EDGEPRUNE_FLOAT32 && dtype != EDGEPRUNE_FLOAT16 && dtype != EDGEPRUNE_UINT8)
        throw wrong_request("images must become float32, float16 or uint8; got ", name_of(dtype));
    State &state = *state_;
    const Size size{image.height, image.width};
    if (!(state.planned == size)) state.plan(size);
    const Rgb given{image.data, image.width, image.height, stride};
    if (state.before.empty())
        state.canvas.image = given;
    else
        state.make_whole(given);
    const std::size_t nbytes = 3 * state.steps.size.height * state.steps.size.width * size_of(dtype);
    auto *to = static_cast<unsigned char *>(pixels);
    for (const Cut &cut : state.cuts) {
        state.piece(cut, dtype, to);
        to += nbytes;
    }
}

}  // namespace edgeprune
