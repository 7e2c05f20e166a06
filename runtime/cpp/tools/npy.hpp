// numpy's own file of one array, which `numpy.load` reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace edgeprune::tools {

struct Npy {
    std::string dtype;  // "float32"; of one that no tensor has as numpy spells it, "<c8"
    std::vector<std::int64_t> shape;
    std::string bytes;  // row-major, without gaps
};

// Whether a file begins as such a file does.
bool is_npy(const std::string &file);

// A whole file in memory, trusted in nothing; name: of it. Throws bad_image.
Npy read_npy(const std::string &file, const std::string &name);

// Throws failed when it cannot be written; nothing half-written is left.
void write_npy(const std::string &path, const View &tensor);

}  // namespace edgeprune::tools
