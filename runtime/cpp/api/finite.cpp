#include "api/finite.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "error.hpp"

namespace edgeprune {
namespace {

// A float is NaN or infinite when all bits of its exponent are set: then, without the sign, one more in the lowest of
// them carries into the sign. So two singles or four halves in 64 bits are looked at together, with no branch.
struct Lanes {
    std::uint64_t magnitude, one;
};
constexpr Lanes SINGLES{0x7fffffff7fffffffU, 0x0080000000800000U}, HALVES{0x7fff7fff7fff7fffU, 0x0400040004000400U};

std::uint64_t carries(std::uint64_t bits, const Lanes &lanes) {
    return ((bits & lanes.magnitude) + lanes.one) & ~lanes.magnitude;
}

std::uint64_t read(const unsigned char *bytes) {
    std::uint64_t bits;
    std::memcpy(&bits, bytes, sizeof bits);
    return bits;
}

// The last bytes, fewer than 8, with zeros behind them.
std::uint64_t rest(const unsigned char *bytes, std::size_t nbytes) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, bytes, nbytes);
    return bits;
}

bool finite(const unsigned char *bytes, std::size_t nbytes, const Lanes &lanes) {
    std::uint64_t found[4] = {};
    std::size_t at = 0;
    for (; at + 32 <= nbytes; at += 32)
        for (std::size_t lane = 0; lane < 4; ++lane) found[lane] |= carries(read(bytes + at + 8 * lane), lanes);
    for (; at + 8 <= nbytes; at += 8) found[0] |= carries(read(bytes + at), lanes);
    return !(found[0] | found[1] | found[2] | found[3] | carries(rest(bytes + at, nbytes - at), lanes));
}

std::size_t count_wrong(const unsigned char *bytes, std::size_t nbytes, const Lanes &lanes) {
    std::size_t wrong = 0;
    for (std::size_t at = 0; at < nbytes; at += 8) {
        std::uint64_t bits = carries(rest(bytes + at, std::min<std::size_t>(8, nbytes - at)), lanes);
        for (; bits; bits &= bits - 1) ++wrong;
    }
    return wrong;
}

}  // namespace

void check_finite(const Spec &spec, const void *data, std::size_t nbytes) {
    if (spec.dtype != EDGEPRUNE_FLOAT32 && spec.dtype != EDGEPRUNE_FLOAT16) return;
    const Lanes &lanes = spec.dtype == EDGEPRUNE_FLOAT32 ? SINGLES : HALVES;
    const auto *bytes = static_cast<const unsigned char *>(data);
    if (finite(bytes, nbytes, lanes)) return;
    const std::size_t wrong = count_wrong(bytes, nbytes, lanes), count = nbytes / size_of(spec.dtype);
    throw bad_image(spec.name, " must be finite, ", wrong, " of ", count,
                    " are NaN or infinite; replace them, or scale what is beyond the range of ", name_of(spec.dtype));
}

}  // namespace edgeprune
