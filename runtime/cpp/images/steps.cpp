#include "images/steps.hpp"

#include <algorithm>
#include <cmath>

#include "bundle/shown.hpp"
#include "error.hpp"

namespace edgeprune {
namespace {

constexpr std::int64_t MOST = 1 << 20;                // of any size in a manifest, so that no product overflows
constexpr std::int64_t MAX_RESIZED_PIXELS = 1 << 27;  // a long thin image grows by its aspect ratio before the crop

// What was given, on one line of ASCII; the beginning of much.
std::string said(const Json &given) {
    const std::string text = given.dump(-1, ' ', true);
    return text.size() > 200 ? text.substr(0, 200) + "..." : text;
}

template <class... Parts>
Error wrong(const Parts &...parts) {
    return bad_bundle("the manifest's preprocessing is wrong (", parts..., "); export the bundle again");
}

const Json &field(const Json &given, const char *name) {
    const auto at = given.find(name);
    if (at == given.end()) throw wrong("'", name, "'");
    return *at;
}

// A field that may be missing, or null.
const Json *may(const Json &given, const char *name) {
    const auto at = given.find(name);
    return at == given.end() || at->is_null() ? nullptr : &*at;
}

const Json &list(const Json &given, std::size_t count, const char *what) {
    if (!given.is_array() || given.size() != count)
        throw wrong(what, " must be ", count, " numbers, got ", said(given));
    return given;
}

double number(const Json &given, const char *what) {
    if (!given.is_number()) throw wrong(what, " must be a number, got ", said(given));
    return given.get<double>();
}

std::array<double, 3> triple(const Json &given, const char *what) {
    std::array<double, 3> made{};
    for (std::size_t i = 0; i < 3; ++i) made[i] = number(list(given, 3, what)[i], what);
    return made;
}

bool in(const Json &given, std::int64_t low, std::int64_t high) {
    if (!given.is_number_integer()) return false;
    if (given.is_number_unsigned() && given.get<std::uint64_t>() > static_cast<std::uint64_t>(high)) return false;
    return given.get<std::int64_t>() >= low && given.get<std::int64_t>() <= high;
}

std::int64_t pixels(const Json &given) {
    if (!in(given, 1, MOST)) throw wrong("sizes must be positive whole numbers of pixels, got ", said(given));
    return given.get<std::int64_t>();
}

Size pair(const Json &given, const char *what) {
    list(given, 2, what);
    return {static_cast<std::size_t>(pixels(given[0])), static_cast<std::size_t>(pixels(given[1]))};
}

Steps::ResizeTo resize_of(const Json &given) {
    using By = Steps::By;
    const auto has = [&](const char *name) { return given.contains(name); };
    const auto made = [&](By by, const char *first, const char *second) {
        return Steps::ResizeTo{by, pixels(given[first]), second ? pixels(given[second]) : 0};
    };
    if (given.is_object() && given.size() == 1 && has("shortest_edge"))
        return made(By::shortest, "shortest_edge", nullptr);
    if (given.is_object() && given.size() == 2) {
        if (has("height") && has("width")) return made(By::exact, "height", "width");
        if (has("shortest_edge") && has("longest_edge"))
            return made(By::shortest_longest, "shortest_edge", "longest_edge");
        if (has("max_height") && has("max_width")) return made(By::most, "max_height", "max_width");
    }
    std::string names;
    if (given.is_object())
        for (const auto &one : given.items()) names += (names.empty() ? "" : ", ") + one.key();
    throw wrong("resize must have height and width, or shortest_edge; it has ", shown(first(names, 200)));
}

const char *names_of(Steps::By by) {
    switch (by) {
        case Steps::By::shortest: return "shortest_edge";
        case Steps::By::shortest_longest: return "longest_edge and shortest_edge";
        case Steps::By::most: return "max_height and max_width";
        default: return "height and width";
    }
}

std::array<std::uint8_t, 3> colour_of(const Json &given) {
    std::array<std::uint8_t, 3> colour{};
    for (std::size_t i = 0; i < 3; ++i) {
        if (!in(list(given, 3, "square")[i], 0, 255))
            throw wrong("square must be a colour of 3 levels in 0..255, got ", said(given));
        colour[i] = given[i].get<std::uint8_t>();
    }
    return colour;
}

Resizer resizer_of(const Json &given, Filter filter) {
    const auto at = given.find("resizer");
    if (at == given.end() || *at == "pillow") return Resizer::pillow;
    if (*at != "torch") throw wrong("resizer must be pillow or torch, got ", said(*at));
    if (filter != Filter::bilinear && filter != Filter::bicubic)
        throw wrong("resizer torch takes resample 2 (bilinear) or 3 (bicubic), got ", static_cast<int>(filter));
    return Resizer::torch;
}

Tiles tiles_of(const Json &given, std::size_t side) {
    if (!given.is_object()) throw wrong("tiles must have count and pinpoints, got ", said(given));
    const Json &count = field(given, "count"), &pinpoints = field(given, "pinpoints");
    if (!pinpoints.is_array()) throw wrong("pinpoints must be a list, got ", said(pinpoints));
    Tiles tiles;
    if (const auto at = given.find("whole"); at != given.end()) {
        if (!at->is_boolean()) throw wrong("whole must be true or false, got ", said(*at));
        tiles.whole = at->get<bool>();
    }
    if (!in(count, 1, MOST) || (tiles.whole && count == 1) == !pinpoints.empty())
        throw wrong(said(count), " tiles do not go with ", pinpoints.size(), " pinpoints");
    tiles.count = count.get<std::size_t>();
    tiles.side = side;
    const std::size_t cut = tiles.count - (tiles.whole ? 1 : 0);
    for (const Json &one : pinpoints) {
        const Size size = pair(one, "a pinpoint");
        const bool whole = size.height % side == 0 && size.width % side == 0;
        if (!whole || (size.height / side) * (size.width / side) != cut)
            throw wrong("pinpoints must have ", cut, " tiles of ", side, " pixels, got ", said(pinpoints));
        tiles.pinpoints.push_back(size);
    }
    if (const Json *squeezed = may(given, "squeezed")) tiles.squeezed = squeezed->is_boolean() && squeezed->get<bool>();
    if (const Json *longest = may(given, "longest")) {
        if (!in(*longest, 0, MOST) || (*longest != 0 && !tiles.squeezed))
            throw wrong("only tiles that are squeezed are of an image scaled to a longest side, got ", said(*longest));
        tiles.longest = longest->get<std::size_t>();
    }
    if (!tiles.whole && !tiles.squeezed) throw wrong("only tiles that are squeezed come without the whole image");
    return tiles;
}

void check(const Steps &steps) {
    const bool exact = steps.resize && steps.resize->by == Steps::By::exact;
    if (steps.resize && !exact && !steps.crop)
        throw wrong("a resize by ", names_of(steps.resize->by), " needs a crop, or the size would depend on the image");
    std::optional<Size> result = steps.crop;
    if (!result && exact)
        result = Size{static_cast<std::size_t>(steps.resize->first), static_cast<std::size_t>(steps.resize->second)};
    if (result && !(*result == steps.size))
        throw wrong("images come out at ", result->height, "x", result->width, ", but the encoder takes ",
                    steps.size.height, "x", steps.size.width);
    if (!steps.tiles) return;
    const auto side = static_cast<std::int64_t>(steps.tiles->side);
    const bool whole = steps.resize && steps.resize->first == side &&
                       (steps.resize->by == Steps::By::shortest || steps.resize->second == side);
    if (!whole || steps.size.height != steps.size.width)
        throw wrong("tiles must be squares of the size that their processor resizes to and the encoder takes");
    if (steps.square) throw wrong("images that are cut into tiles must not be made square first");
}

double real(std::size_t number) { return static_cast<double>(number); }

}  // namespace

Steps Steps::read(const Json &given) {
    if (!given.is_object()) throw wrong("it must be a table, got ", said(given));
    Steps steps{};
    steps.size = pair(field(given, "size"), "size");
    if (const Json &resize = field(given, "resize"); !resize.is_null()) steps.resize = resize_of(resize);
    if (!in(field(given, "resample"), 0, 5))
        throw wrong("resample must be Pillow's number of a filter, 0..5, got ", said(field(given, "resample")));
    steps.filter = static_cast<Filter>(given["resample"].get<int>());
    steps.resizer = resizer_of(given, steps.filter);
    if (const Json &crop = field(given, "crop"); !crop.is_null()) steps.crop = pair(crop, "crop");
    steps.rescale = number(field(given, "rescale"), "rescale");
    steps.mean = triple(field(given, "mean"), "mean");
    steps.std = triple(field(given, "std"), "std");
    if (std::count(steps.std.begin(), steps.std.end(), 0.0) || !std::isfinite(steps.rescale))
        throw wrong("mean and std must be 3 numbers, std not zero, got ", said(given["mean"]), " and ",
                    said(given["std"]));
    field(given, "convert_rgb");
    if (const Json *tiles = may(given, "tiles")) steps.tiles = tiles_of(*tiles, steps.size.height);
    if (const Json *square = may(given, "square")) steps.square = colour_of(*square);
    check(steps);
    return steps;
}

Size Steps::resized(Size image) const {
    if (!resize) return image;
    const auto [by, first, second] = *resize;
    if (by == By::exact) return {static_cast<std::size_t>(first), static_cast<std::size_t>(second)};
    const auto there = [&](std::size_t height, std::size_t width) {
        if (!height || !width)
            throw bad_image("an image must not be this long and thin: ", image.width, "x", image.height,
                            " would shrink to nothing; cut it first");
        return Size{height, width};
    };
    if (by == By::most) {
        const double scale = std::min(static_cast<double>(first) / real(image.height),
                                      static_cast<double>(second) / real(image.width));
        return there(static_cast<std::size_t>(real(image.height) * scale),
                     static_cast<std::size_t>(real(image.width) * scale));
    }
    const double most = real(std::max(image.height, image.width)), least = real(std::min(image.height, image.width));
    auto brief = static_cast<double>(first), exact = brief;
    if (by == By::shortest_longest && most / least * brief > static_cast<double>(second)) {
        exact = static_cast<double>(second) * least / most;
        brief = std::nearbyint(exact);  // ties to even, as Python rounds
    }
    if (by == By::shortest_longest && least == brief) return image;
    const double lengthy = std::trunc(exact * most / least);
    if (brief * lengthy > static_cast<double>(MAX_RESIZED_PIXELS))
        throw bad_image("an image must not be this long and thin: ", image.width, "x", image.height, " would grow to ",
                        static_cast<std::int64_t>(brief), "x", static_cast<std::int64_t>(lengthy),
                        " pixels before the crop; cut it first");
    const auto small = static_cast<std::size_t>(brief), large = static_cast<std::size_t>(lengthy);
    return image.width <= image.height ? there(large, small) : there(small, large);
}

Size Steps::squared(Size image) const {
    if (!square) return image;
    const std::size_t side = std::max(image.height, image.width);
    if (side * side - image.height * image.width > MAX_RESIZED_PIXELS)
        throw bad_image("an image must not be this long and thin: ", image.width, "x", image.height, " would grow to ",
                        side, "x", side, " pixels when it is made square; cut it first");
    return {side, side};
}

}  // namespace edgeprune
