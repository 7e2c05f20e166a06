// How often this program has allocated memory through `new`, in all threads. Link allocations.cpp.
#pragma once

#include <cstddef>

namespace check {

std::size_t allocations();

}  // namespace check
