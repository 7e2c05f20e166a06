// The names of the rules, for whoever reads a manifest.
#pragma once

#include <string>

#include "parity/parity.hpp"

namespace edgeprune::parity {

std::string rule_names();  // "topk, fixed, ..."
bool is_rule(const Json &name);

}  // namespace edgeprune::parity
