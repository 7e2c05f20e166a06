// What the forms of `match` share.
#pragma once

#include "parity/rules.hpp"

namespace edgeprune::parity {

// rounds.cpp: tokens at even places join the nearest at an odd place, the r most alike of them, round by round
Chain rounds(const Case &one);

double cosine_error(const Case &one, double relative);

}  // namespace edgeprune::parity
