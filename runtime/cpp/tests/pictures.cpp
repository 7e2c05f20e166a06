// Does to images what the tests in Python ask for, one after the other, for as long as stdin lasts:
//
//     pixels JSON W H STRIDE DTYPE    JSON bytes of preprocessing, then rows  -> pixel_values
//     shape JSON W H                  JSON bytes of preprocessing             -> rows and columns of the tiles
//     order POOLS KEEP R C DOWN ACROSS SQUEEZED WHOLE    int32 indices        -> int32 order
//     detect T COLUMNS W H THRESHOLD DTYPE         logits, then boxes         -> edgeprune_detection of each
//     time JSON W H DTYPE TIMES       as pixels                               -> seconds of a core, of each time
//
// An answer is "ok NBYTES\n" and as many bytes, or "STATUS LINE\n".
#include <cstring>
#include <ctime>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "error.hpp"
#include "images/detections.hpp"
#include "images/preprocessing.hpp"
#include "images/tiles.hpp"

namespace {

using namespace edgeprune;

std::string bytes(std::size_t nbytes) {
    std::string read(nbytes, '\0');
    std::cin.read(&read[0], static_cast<std::streamsize>(nbytes));
    return read;
}

template <class T>
std::string raw(const T *data, std::size_t count) {
    return {reinterpret_cast<const char *>(data), count * sizeof(T)};
}

// The last one made stays, as in an open bundle, with its working memory.
Preprocessing &preprocessing(const std::string &json) {
    static std::string given;
    static std::unique_ptr<Preprocessing> made;
    if (!made || given != json) {
        made.reset();
        made = std::make_unique<Preprocessing>(Json::parse(json));
        given = json;
    }
    return *made;
}

double seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string pixels(std::istream &asked, bool timed) {
    std::size_t json, width, height, stride = 0, times = 1;
    std::string dtype;
    asked >> json >> width >> height;
    if (timed)
        asked >> dtype >> times;
    else
        asked >> stride >> dtype;
    const std::string steps = bytes(json);
    const bool hostile = height > 1u << 20 || width > 1u << 20 || stride > 1u << 30;
    const std::size_t row = 3 * width, step = stride ? stride : row;
    const std::string rows = bytes(hostile || !height || step < row ? 0 : (height - 1) * step + row);  // not a byte more
    // In memory of their own, so that a sanitizer sees the first byte that is read beyond them.
    const std::vector<std::uint8_t> data(rows.begin(), rows.end());
    Preprocessing &made = preprocessing(steps);
    const std::size_t count = std::size_t{3} * static_cast<std::size_t>(made.tiles()) *
                              static_cast<std::size_t>(made.height()) * static_cast<std::size_t>(made.width());
    std::vector<std::uint8_t> out(count * size_of(dtype_of(dtype)) + 1);
    std::vector<double> took;
    for (std::size_t i = 0; i < times; ++i) {
        const double began = seconds();
        made({data.data(), width, height, stride}, dtype_of(dtype), out.data() + 1);  // as unaligned as can be
        took.push_back(seconds() - began);
    }
    return timed ? raw(took.data(), took.size()) : raw(out.data() + 1, out.size() - 1);
}

std::string answer(std::istream &asked) {
    std::string what;
    asked >> what;
    if (what == "pixels" || what == "time") return pixels(asked, what == "time");
    if (what == "shape") {
        std::size_t json, width, height;
        asked >> json >> width >> height;
        const auto [rows, columns] = preprocessing(bytes(json)).tile_shape(height, width);
        const int shape[] = {rows, columns};
        return raw(shape, 2);
    }
    if (what == "order") {
        std::size_t pools, keep;
        int rows, columns, down, across, squeezed, whole;
        asked >> pools >> keep >> rows >> columns >> down >> across >> squeezed >> whole;
        const std::string given = bytes(4 * pools * keep);
        std::vector<std::int32_t> indices(pools * keep), order(pools * keep);
        std::memcpy(indices.data(), given.data(), given.size());
        tile_order(indices.data(), pools, keep, {rows, columns}, {down, across}, squeezed != 0, whole != 0,
                   order.data());
        return raw(order.data(), order.size());
    }
    std::int64_t rows, columns;
    std::size_t width, height;
    float threshold;
    std::string dtype;
    asked >> rows >> columns >> width >> height >> threshold >> dtype;
    const std::size_t each = size_of(dtype_of(dtype));
    const std::string logits = bytes(each * static_cast<std::size_t>(rows * columns));
    const std::string boxes = bytes(each * static_cast<std::size_t>(rows) * 4);
    const View first{dtype_of(dtype), {rows, columns}, logits.data()}, second{dtype_of(dtype), {rows, 4}, boxes.data()};
    std::vector<edgeprune_detection> found(detect(first, second, width, height, threshold, nullptr, 0));
    detect(first, second, width, height, threshold, found.data(), found.size());
    return raw(found.data(), found.size());
}

}  // namespace

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream asked(line);
        try {
            const std::string said = answer(asked);
            std::cout << "ok " << said.size() << '\n' << said;
        } catch (const Error &error) {
            std::cout << error.status << ' ' << error.what() << '\n';
        }
        std::cout.flush();
    }
    return 0;
}
