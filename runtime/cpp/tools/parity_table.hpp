// How a backend compares with the reference, as text; mirrors edgeprune/cli/tables/parity.py.
#pragma once

#include <string>
#include <vector>

#include "parity/verify.hpp"

namespace edgeprune::tools {

// A row for the backend as a whole, and one for each of its probes below it.
//
// decided: of all decisions those whose margin exceeds the tolerance, so that a mistake there would be seen
// within: something else was better, by less than rounding explains;  regret: the largest, over its tolerance
std::string parity_table(const parity::Report &report);

// One line on how it compares, and one for each reason why not.
std::string parity_line(const parity::Report &report);

// In one line what was held against the reference, and the plans that were not.
std::string ran_line(const std::string &folder, const parity::Report &report,
                     const std::vector<std::string> &plans_not_run);

}  // namespace edgeprune::tools
