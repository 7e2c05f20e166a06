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

// basis.cpp, recycled.cpp, windows.cpp
Chain basis(const Case &one);
Chain recycled(const Case &one);
Chain windows(const Case &one);

// Each of the others must have gone to the nearest of the targets; what is no merge at all goes to `defects`.
Chain joins(const Case &one, const Places &others, const Places &targets, double relative, const Matrix &similarity,
            std::vector<std::string> &defects);
double cosine_error(const Case &one, double relative);

}  // namespace edgeprune::parity
