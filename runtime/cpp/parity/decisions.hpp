// What a rule makes of the decisions of one image, and the cut of a top-k, which most rules are made of; mirrors
// runtime/parity/decisions.py.
//
//   regret     value of the best alternative - value of what was chosen, both by the reference's numbers, >= 0
//   tolerance  2 err + eps x the largest quantity at that decision       err: the largest difference found near it
//   margin     how far the chosen value is from the best alternative
//
//   wrong      regret > tolerance          within rounding   0 < regret <= tolerance          equal   regret = 0
//   decided    equal, and margin > tolerance: a mistake there would be seen
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "parity/numbers.hpp"
#include "parity/parity.hpp"
#include "parity/regret.hpp"

namespace edgeprune::parity {

inline constexpr double INFINITE = std::numeric_limits<double>::infinity();
// How far two float32 cosines of vectors of 4096 may lie apart: sqrt(4096) / 4 roundings
inline constexpr double COSINE_NOISE = 16.0 / (1 << 23);
// Scores on either side of a cut that its error is taken of, at most: all of them would excuse nearly everything
inline constexpr int NEAR = 16;

// One image: what the reference and the device hand out, and what the bundle keeps for the replay; all without the
// leading dimension, `similarity` and `products` [N, N].
struct Case {
    // A tensor of one dimension; throws misfit where it has another number of them.
    static const View &line_of(const Tensors &side, const char *name);

    const Tensors &reference, &got, &quantities;
    const Json &rule;
    double bound;   // of a quantity's error, over the largest
    double eps;     // of the dtype
    double unseen;  // the largest relative error of a token, at most the bound: taken for that of what leaves no graph

    std::size_t keep() const { return length(reference.at("indices")); }
    // What two cosines of the rows that the tokens are made of may lie apart: these rows are as exact as tokens.
    double cosine_error() const;
    Places picks() const { return places(line_of(got, "picks")); }
    Places indices() const { return places(line_of(got, "indices")); }
    Matrix similarity(std::size_t patches) const { return square(quantities.at("similarity"), patches, "similarity"); }
    // A quantity of every patch
    Floats of_patches(const char *name, std::size_t patches) const;
};

// The decisions of one image, in their order; lists of one length.
struct Chain {
    Floats regret, tolerance, margin;
    double error = 0;     // largest difference of what the device ranked by from what the reference computes
    double relative = 0;  // the same over the largest of these quantities; parity fails where it is beyond the bound
    std::vector<std::string> defects;  // what cannot be a chain of decisions of this rule at all
    std::vector<Worth> sets = {};      // what the choices are worth, one for each quantity that they are made by

    // The largest share of the best choices that these lack, of all sets; and that a choice by chance lacks.
    double lost() const;
    double blind() const;
    int wrong() const;
    int within() const;
    int decided() const;
    // The largest regret over its tolerance; infinite where there is no tolerance at all.
    double worst() const;
};

// [N], true at the patches that are named
Mask mask(std::size_t patches, const Places &among);
Mask all(std::size_t patches);
Mask operator!(const Mask &one);
// Those that are, or are not, in a mask
Places those(const Places &patches, const Mask &inside, bool wanted = true);

// Were the `chosen` those of the highest values among the candidates? One decision for each of them.
// errors: of the values: of all alike, or of each of them, of which the largest near the cut is taken
Chain cut(const Floats &values, const Places &chosen, const Mask &among, double error, double eps);
Chain cut(const Floats &values, const Places &chosen, const Mask &among, const Floats &errors, double eps);

// The defect of picks that do not fall by the device's own scores, from the pick `first` on, up to `end`.
std::vector<std::string> out_of_order(const Case &one, std::int64_t first = 0,
                                      std::int64_t end = std::numeric_limits<std::int64_t>::max());

// Stages one after the other; the errors are the largest.
Chain joined(const std::vector<Chain> &chains, double error = 0, double relative = 0,
             std::vector<std::string> defects = {});

std::vector<std::string> operator+(std::vector<std::string> one, const std::vector<std::string> &other);

}  // namespace edgeprune::parity
