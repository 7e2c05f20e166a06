// A file as a PPM or PGM: what is taken has as many pixels as it says, and no more memory than three times the file.
#include "held.hpp"
#include "images/ppm.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    using namespace held;
    taken([&] {
        const Picture picture = read_ppm(data, size);
        must(picture.width && picture.height && picture.pixels.size() == 3 * picture.width * picture.height);
        must(picture.pixels.size() <= 3 * size);
    });
    return 0;
}
