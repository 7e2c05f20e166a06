// How a backend compares with the reference, as text; mirrors edgeprune/cli/tables/parity.py.
#pragma once

#include <string>
#include <vector>

#include "parity/verify.hpp"

namespace edgeprune::tools {

using Reports = std::vector<parity::Report>;

// A row for each backend as a whole, and one for each of its probes below it.
//
// decided: of all decisions those whose margin exceeds the tolerance, so that a mistake there would be seen
// within: something else was better, by less than rounding explains;  regret: the largest, over its tolerance
std::string parity_table(const Reports &reports);

// One line on how every backend compares, and one for each reason why not.
std::string parity_line(const Reports &reports);

// In one line what was held against the reference, and the plans that were not.
std::string ran_line(const std::string &folder, const Reports &reports,
                     const std::vector<std::string> &plans_not_run);

}  // namespace edgeprune::tools
