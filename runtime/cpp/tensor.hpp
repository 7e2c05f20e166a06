// Tensors: what they are (`Spec`), and memory that somebody else owns (`View`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "edgeprune.h"

namespace edgeprune {

using DType = edgeprune_dtype;

// Bytes of one element.
std::size_t size_of(DType dtype);
// As the manifest spells it, "float16"; and back, which throws bad_bundle for another name.
const char *name_of(DType dtype);
DType dtype_of(const std::string &name);

inline constexpr std::int64_t OPEN = 0;  // a dimension that the caller chooses: the batch

struct Spec {
    std::string name;
    DType dtype;
    std::vector<std::int64_t> shape;

    // Of the whole tensor; of one image where the batch is open.
    std::size_t nbytes() const;
    bool open() const { return !shape.empty() && shape[0] == OPEN; }
    // "float32 [1, 3, 96, 96]"
    std::string shown() const;
};

// Memory of a tensor, row-major without gaps. Not owned.
struct View {
    DType dtype{};
    std::vector<std::int64_t> shape;
    const void *data = nullptr;

    std::size_t count() const;
    template <class T>
    const T *as() const { return static_cast<const T *>(data); }
};

// IEEE half to single, exact; single to half, to nearest, ties to even, as numpy does.
float float_of(std::uint16_t half);
std::uint16_t half_of(float value);

}  // namespace edgeprune
