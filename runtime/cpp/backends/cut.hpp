// Any budget up to K from one graph: where the kept sets of a method nest, fewer tokens are the first of its picks.
// What runtime/budgets.py is for Python.
#pragma once

#include "backends/backend.hpp"

namespace edgeprune {

// A backend that gives the first `keep` picks of another one's: what an export with --keep `keep` would give. Its runs
// write into memory of its own first, made once for each size of batch, and the rows that stay are copied from there.
// Throws wrong_request when the kept sets do not nest, keep is not in 1..K, or it is halves that are to be cut.
std::unique_ptr<Backend> cut_to(std::unique_ptr<Backend> whole, const Manifest &manifest, int keep);

}  // namespace edgeprune
