// images/: numbers worked by hand. What Pillow and numpy make of the same images is asked in tests/cpp/test_images.py.
#include <cmath>
#include <cstring>
#include <vector>

#include "allocations.hpp"
#include "check.hpp"
#include "images/classes.hpp"
#include "images/detections.hpp"
#include "images/preprocessing.hpp"
#include "images/resize.hpp"
#include "images/tiles.hpp"

namespace {

using namespace edgeprune;
using Levels = std::vector<int>;

// Grey levels of a row to a row of another length.
Levels resized(const Levels &row, std::size_t to, Filter filter) {
    std::vector<std::uint8_t> rgb;
    for (const int level : row) rgb.insert(rgb.end(), 3, static_cast<std::uint8_t>(level));
    const Canvas canvas{{rgb.data(), row.size(), 1, rgb.size()}, 0, 0, row.size(), 1, {}};
    const Axis across = axis(row.size(), to, filter, 0, to), down = axis(1, 1, filter, 0, 1);
    Resize resize;
    resize.begin(canvas, across, down, down_first(1, row.size(), 1, to));
    const std::uint8_t *made = resize.row(0);
    Levels levels;
    for (std::size_t x = 0; x < to; ++x) levels.push_back(made[3 * x + 2]);
    return levels;
}

void filters() {
    check::holds(resized({0, 255}, 1, Filter::box) == Levels{128});  // 127.5, and halves go up
    check::holds(resized({10, 20, 30, 40}, 2, Filter::nearest) == Levels{20, 40});
    check::holds(resized({0, 100}, 4, Filter::bilinear) == Levels{0, 25, 75, 100});
    // Twice as large, so it reaches 2 pixels to each side; at the edge the weights 3, 3, 1 are sevenths.
    check::holds(resized({0, 0, 80, 80}, 2, Filter::bilinear) == Levels{11, 69});  // 80 / 7 = 11.4
    // The sixth of twelve lies at 2.75: the cubic of a = -1/2 weighs pixels 1 to 4 by -0.0703, 0.8672, 0.2266, -0.0234.
    check::same(resized({0, 0, 0, 255, 255, 255}, 12, Filter::bicubic)[5], 52);  // (0.2266 - 0.0234) * 255 = 51.8
    check::holds(resized({7, 8, 9}, 3, Filter::lanczos) == Levels{7, 8, 9});
}

// The third of five lies in the middle of a pixel: its weight of 1 leaves 14 bits, to the second as well, which is
// three fifths and two fifths, and whose own greatest would leave 15.
void weights_of_torch() {
    const auto of = [](std::size_t begin, std::size_t count) {
        return axis(3, 5, Filter::bilinear, begin, count, Resizer::torch);
    };
    check::same(of(0, 5).bits, 14);
    check::same(of(1, 1).bits, 14);
    check::holds(of(1, 1).weights == std::vector<std::int32_t>{9830, 6554});  // 16384 * 0.6 = 9830.4
    check::same(axis(3, 5, Filter::bilinear, 1, 1).bits, 22);
    check::same(axis(3, 3, Filter::bilinear, 0, 3, Resizer::torch).bits, 22);  // as they were
}

void order_of_passes() {
    check::holds(!down_first(1080, 1920, 336, 597));
    check::holds(down_first(640, 480, 384, 384));  // 256 rows go, and 96 columns
    check::holds(!down_first(600, 492, 384, 384));  // 216 is twice 108, not more
    check::holds(!down_first(100, 200, 100, 100));
    check::holds(down_first(101, 50, 100, 100));
}

Json steps() {
    return Json::parse(R"({"size": [2, 2], "resize": null, "resample": 3, "crop": [2, 2], "rescale": 0.00392156862745098,
                           "mean": [0.5, 0.5, 0.0], "std": [0.5, 0.5, 2.0], "convert_rgb": true})");
}

void crops() {
    Preprocessing made(steps());
    const std::uint8_t dot[] = {255, 51, 102};  // smaller than the crop: an odd pixel of zeros comes left and above
    std::uint8_t pixels[12];
    made({dot, 1, 1, 0}, EDGEPRUNE_UINT8, pixels);
    const std::uint8_t expected[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 51, 102};
    check::holds(!std::memcmp(pixels, expected, 12));

    float values[12];
    made({dot, 1, 1, 0}, EDGEPRUNE_FLOAT32, values);
    check::same(values[0], -1.0f);
    check::same(values[3], 1.0f);
    check::holds(std::fabs(values[7] + 0.6f) < 1e-6f);
    check::holds(std::fabs(values[11] - 0.2f) < 1e-6f);
    std::uint16_t halves[12];
    made({dot, 1, 1, 0}, EDGEPRUNE_FLOAT16, halves);
    check::same(halves[0], 0xbc00);
    check::same(halves[3], 0x3c00);

    Json squared = steps();
    squared["square"] = {1, 2, 3};
    const std::uint8_t line[] = {10, 10, 10, 20, 20, 20};  // on a square of 2: the row above, as 1 // 2 is 0
    Preprocessing{squared}({line, 2, 1, 0}, EDGEPRUNE_UINT8, pixels);
    const std::uint8_t laid[12] = {10, 10, 10, 20, 20, 20, 1, 2, 3, 1, 2, 3};
    check::holds(!std::memcmp(pixels, laid, 12));
}

void tiles() {
    // A wide image on a canvas of 1 x 2 tiles of 2 pixels: 8x2 becomes 4x1, zeros below it.
    Json given = steps();
    given["resize"] = {{"height", 2}, {"width", 2}};
    given["resample"] = 4;
    given["tiles"] = {{"count", 3}, {"pinpoints", {{2, 4}, {4, 2}}}};
    Preprocessing made(given);
    check::holds(made.tile_shape(2, 8) == std::pair<int, int>(1, 2));
    check::holds(made.tile_shape(8, 2) == std::pair<int, int>(2, 1));
    std::vector<std::uint8_t> image;
    for (int i = 0; i < 16; ++i) image.insert(image.end(), 3, static_cast<std::uint8_t>(10 * (i % 8 / 2)));
    std::uint8_t pixels[36];
    made({image.data(), 8, 2, 0}, EDGEPRUNE_UINT8, pixels);
    const int expected[12] = {5, 25, 5, 25, 0, 10, 0, 0, 20, 30, 0, 0};
    for (int i = 0; i < 36; ++i) check::same(int{pixels[i]}, expected[i / 3]);

    // Patches in one column of two, tiles side by side: a row of patches runs through both tiles.
    const std::int32_t indices[] = {0, 1, 0, 1, 0, 1};
    std::int32_t order[6];
    tile_order(indices, 3, 2, {2, 1}, {1, 2}, false, true, order);
    const std::int32_t raster[] = {0, 1, 2, 4, 3, 5};
    check::holds(!std::memcmp(order, raster, sizeof raster));
}

void detections() {
    const float logits[] = {std::log(3.0f), 0.0f, 0.0f, 0.0f}, boxes[] = {0.5f, 0.5f, 0.5f, 1.0f, 0, 0, 0, 0};
    const View first{EDGEPRUNE_FLOAT32, {2, 2}, logits}, second{EDGEPRUNE_FLOAT32, {2, 4}, boxes};
    edgeprune_detection found{};
    check::same(detect(first, second, 200, 100, 0.5f, nullptr, 0), std::size_t{1});
    check::same(detect(first, second, 200, 100, 0.5f, &found, 1), std::size_t{1});
    check::holds(std::fabs(found.score - 0.75f) < 1e-6f && found.label == 0);
    check::holds(found.left == 50 && found.top == 0 && found.right == 150 && found.bottom == 100);
}

void classes() {
    const float logits[] = {0.0f, std::log(3.0f), 0.0f, std::log(5.0f)};
    const View given{EDGEPRUNE_FLOAT32, {4}, logits};
    edgeprune_class found[5] = {};
    check::same(classify(given, nullptr, 0), std::size_t{4});
    check::same(classify(given, found, 5), std::size_t{4});
    const int labels[] = {3, 1, 0, 2};  // of two that are as likely the first one
    const float tenths[] = {5, 3, 1, 1};
    for (int at = 0; at < 4; ++at) {
        check::same(int{found[at].label}, labels[at]);
        check::holds(std::fabs(10 * found[at].probability - tenths[at]) < 1e-5f);
    }
    found[1].label = 77;
    classify(given, found, 1);
    check::holds(found[0].label == 3 && found[1].label == 77);
}

// Of every way through the resize.
void nothing_is_allocated_for_the_same_size() {
    std::vector<std::uint8_t> image(3 * 90 * 120, 77);
    std::vector<float> pixels(3 * 8 * 8 * 5);
    for (const char *change : {R"({"resize": {"shortest_edge": 8}})", R"({"square": [1, 2, 3]})", R"({"resample": 0})",
                               R"({"tiles": {"count": 5, "pinpoints": [[16, 16], [8, 32], [32, 8]]}})"}) {
        Json given = steps();
        given["size"] = given["crop"] = {8, 8};
        given["resize"] = {{"height", 8}, {"width", 8}};
        given.update(Json::parse(change));
        Preprocessing made(given);
        for (const auto &[width, height] : {std::pair<std::size_t, std::size_t>{120, 90}, {90, 120}, {30, 120}}) {
            made({image.data(), width, height, 0}, EDGEPRUNE_FLOAT32, pixels.data());
            const std::size_t before = check::allocations();
            made({image.data(), width, height, 0}, EDGEPRUNE_FLOAT32, pixels.data());
            check::same(check::allocations(), before);
        }
    }
}

}  // namespace

int main() {
    filters();
    weights_of_torch();
    order_of_passes();
    crops();
    tiles();
    detections();
    classes();
    nothing_is_allocated_for_the_same_size();
    return check::done();
}
