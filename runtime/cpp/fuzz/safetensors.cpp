// Bytes as a safetensors file: every view lies in them, and none in another.
#include "bundle/safetensors.hpp"
#include "held.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    using namespace held;
    taken([&] {
        std::size_t total = 0;
        unsigned sum = 0;
        for (const auto &[name, view] : read_safetensors({data, size}, "x")) {
            const std::size_t nbytes = view.count() * size_of(view.dtype);
            const auto *bytes = view.as<std::uint8_t>();
            must(bytes >= data && nbytes <= size && bytes + nbytes <= data + size);
            for (std::size_t at = 0; at < nbytes; ++at) sum += bytes[at];
            total += nbytes;
        }
        must(total <= size && sum <= 255 * total);
    });
    return 0;
}
