// What the forms of `match` share.
#pragma once

#include "parity/rules.hpp"

namespace edgeprune::parity {

// rounds.cpp: tokens at even places join the nearest at an odd place, the r most alike of them, round by round
Chain rounds(const Case &one);
// [A, B], of the tokens of these names. mix: of what each token is made, a row of weights for each patch
Matrix cosines(const Matrix &mix, const Places &left, const Places &right, const Matrix &products);
// energy.cpp: rounds of `energy`, one behind the other
Chain energy_rounds(const Case &one);

double cosine_error(const Case &one, double relative);
// One decision more: of what it was `alike` with, the highest should have been `chosen`.
void judge(Chain &chain, Floats alike, double chosen, double tolerance);

}  // namespace edgeprune::parity
