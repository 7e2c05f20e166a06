// Preprocessing of a manifest, NUL, and what an image is: width and height of two bytes, bytes between rows, dtype. What
// comes out small is made, of an image that ends where its memory does.
#include <algorithm>
#include <vector>

#include "held.hpp"
#include "images/preprocessing.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    using namespace held;
    constexpr std::size_t side = 300, most = 1 << 18;
    const std::string text(reinterpret_cast<const char *>(data), size);
    const std::size_t end = text.find('\0');
    const Json given = Json::parse(text.substr(0, end), nullptr, false);
    if (end == std::string::npos || given.is_discarded()) return 0;
    std::vector<std::uint8_t> rest(data + end + 1, data + size);
    rest.resize(6);
    const std::size_t width = (rest[0] + 256u * rest[1]) % side, height = (rest[2] + 256u * rest[3]) % side;
    const std::size_t stride = 3 * width + rest[4];
    const DType dtype = std::array<DType, 3>{EDGEPRUNE_UINT8, EDGEPRUNE_FLOAT32, EDGEPRUNE_FLOAT16}[rest[5] % 3];
    taken([&] {
        Preprocessing made(given);
        taken([&] { made.tile_shape(height, width); });
        const std::size_t pixels = static_cast<std::size_t>(made.height()) * static_cast<std::size_t>(made.width());
        const std::size_t nbytes = 3 * pixels * static_cast<std::size_t>(made.tiles()) * size_of(dtype);
        if (nbytes > most) return;
        std::vector<std::uint8_t> image(height ? (height - 1) * stride + 3 * width : 0), out(nbytes);
        for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(i * i >> 3);
        if (!taken([&] { made({image.data(), width, height, stride}, dtype, out.data()); })) return;
        std::vector<std::uint8_t> again(nbytes, 1);
        made({image.data(), width, height, stride}, dtype, again.data());
        must(out == again);
    });
    return 0;
}
