#include "api/finite.hpp"

#include <algorithm>

#include "error.hpp"

namespace edgeprune {
namespace {

// A float is NaN or infinite when all bits of its exponent are set.
template <class Bits>
constexpr Bits EXPONENT = sizeof(Bits) == 4 ? static_cast<Bits>(0x7f800000U) : static_cast<Bits>(0x7c00U);

// Without a branch in it, so that the compiler takes many at a time.
template <class Bits>
std::size_t count_wrong(const Bits *values, std::size_t count) {
    std::size_t wrong = 0;
    for (std::size_t from = 0; from < count;) {
        const std::size_t to = std::min(count, from + 4096);
        Bits some = 0;
        for (std::size_t at = from; at < to; ++at)
            some = static_cast<Bits>(some + static_cast<Bits>((values[at] & EXPONENT<Bits>) == EXPONENT<Bits>));
        wrong += some;
        from = to;
    }
    return wrong;
}

}  // namespace

void check_finite(const Spec &spec, const void *data, std::size_t nbytes) {
    const std::size_t count = nbytes / size_of(spec.dtype);
    std::size_t wrong = 0;
    if (spec.dtype == EDGEPRUNE_FLOAT32) wrong = count_wrong(static_cast<const std::uint32_t *>(data), count);
    if (spec.dtype == EDGEPRUNE_FLOAT16) wrong = count_wrong(static_cast<const std::uint16_t *>(data), count);
    if (wrong)
        throw bad_image(spec.name, " must be finite, ", wrong, " of ", count,
                        " are NaN or infinite; replace them, or scale what is beyond the range of ", name_of(spec.dtype));
}

}  // namespace edgeprune
