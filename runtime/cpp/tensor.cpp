#include "tensor.hpp"

#include <cstring>
#include <limits>

#include "error.hpp"

namespace edgeprune {

namespace {

struct Name {
    DType dtype;
    const char *text;
    std::size_t nbytes;
};

constexpr Name NAMES[] = {
    {EDGEPRUNE_FLOAT32, "float32", 4}, {EDGEPRUNE_FLOAT16, "float16", 2}, {EDGEPRUNE_UINT8, "uint8", 1},
    {EDGEPRUNE_INT8, "int8", 1},       {EDGEPRUNE_INT32, "int32", 4},     {EDGEPRUNE_INT64, "int64", 8},
    {EDGEPRUNE_BOOL, "bool", 1},
};

const Name &known(DType dtype) {
    for (const Name &one : NAMES)
        if (one.dtype == dtype) return one;
    throw wrong_request("there is no dtype ", static_cast<int>(dtype));
}

std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

}  // namespace

std::size_t size_of(DType dtype) { return known(dtype).nbytes; }

const char *name_of(DType dtype) { return known(dtype).text; }

DType dtype_of(const std::string &name) {
    for (const Name &one : NAMES)
        if (name == one.text) return one.dtype;
    throw bad_bundle("dtype must be one of float32, float16, uint8, int8, int32, int64, bool");
}

std::size_t Spec::nbytes() const {
    std::size_t total = size_of(dtype);
    for (std::size_t at = open() ? 1 : 0; at < shape.size(); ++at) total *= static_cast<std::size_t>(shape[at]);
    return total;
}

std::string Spec::shown() const {
    std::string text = std::string(name_of(dtype)) + " [";
    for (std::size_t at = 0; at < shape.size(); ++at) {
        if (at) text += ", ";
        text += at == 0 && open() ? "batch" : std::to_string(shape[at]);
    }
    return text + "]";
}

std::size_t View::count() const {
    std::size_t total = 1;
    for (const std::int64_t size : shape) total *= static_cast<std::size_t>(size);
    return total;
}

float float_of(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000U) << 16, exponent = half >> 10 & 0x1fU, fraction = half & 0x3ffU;
    std::uint32_t bits = sign;
    if (exponent == 0x1f) {
        bits |= 0x7f800000U | fraction << 13;
    } else if (exponent) {
        bits |= (exponent + 112) << 23 | fraction << 13;
    } else if (fraction) {  // below 2^-14 single still has full precision
        const float small = static_cast<float>(fraction) * 0x1p-24F;
        bits |= bits_of(small);
    }
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

std::uint16_t half_of(float value) {
    const std::uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffU;
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
    if (magnitude >= 0x7f800000U) {  // infinity, or NaN, which keeps the upper bits of its payload and stays one
        if (magnitude == 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7c00U);
        const std::uint32_t payload = magnitude >> 13 & 0x3ffU;
        return static_cast<std::uint16_t>(sign | 0x7c00U | (payload ? payload : 1U));
    }
    if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65520 rounds to infinity
    std::uint32_t kept, rest, half;  // what stays, what is cut off it, and one half of the last place that stays
    if (magnitude >= 0x38800000U) {
        kept = (magnitude - 0x38000000U) >> 13;
        rest = magnitude & 0x1fffU;
        half = 0x1000U;
    } else {
        const std::uint32_t shift = 126 - (magnitude >> 23);  // of a significand with its leading one: 14 to 126
        if (shift > 24) return sign;                          // below half the smallest
        const std::uint32_t significand = (magnitude & 0x7fffffU) | 0x800000U;
        kept = significand >> shift;
        rest = significand & ((1U << shift) - 1);
        half = 1U << (shift - 1);
    }
    if (rest > half || (rest == half && (kept & 1U))) ++kept;  // into the next binade where it must
    return static_cast<std::uint16_t>(sign | kept);
}

}  // namespace edgeprune
