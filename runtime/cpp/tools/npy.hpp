// numpy's own file of one array, which `numpy.load` reads.
#pragma once

#include <string>

#include "tensor.hpp"

namespace edgeprune::tools {

// Throws failed when it cannot be written; nothing half-written is left.
void write_npy(const std::string &path, const View &tensor);

}  // namespace edgeprune::tools
