// What a quantised graph is judged by: what its choices lost by the reference's numbers, and how far its tokens are
// off; mirrors runtime/parity/worth.py.
//
//     lost     of a set of choices: (sum of the best values - sum of the chosen ones) / sum of the best, in absolute
//              value: of a cut the K highest of the candidates, of a chain the best at each pick
//     blind    the same of a choice by chance: where that is within the bound, too, a kept bound proves nothing
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "parity/numbers.hpp"

namespace edgeprune::parity {

// Of the best, the chosen and the mean value of each choice of one kind, by the reference's numbers.
struct Worth {
    double lost = 0, blind = 0, size = 0;  // sums: what the choice lost, what one by chance loses, the best in all

    // A part as a share of the best; infinite where the best is nothing.
    double of(double part) const;
};

Worth worth(const Floats &best, const Floats &chosen, const Floats &mean);
// Of a cut: the highest of the candidates should have been chosen.
Worth worth_of_cut(const Floats &values, const Places &chosen, const Mask &among);
// Sets of one quantity as one.
Worth together(const std::vector<Worth> &sets);

double mean_of(const Floats &values);  // numpy.mean
double median(Floats values);          // 0 of none

// Of a manifest that has `quantised`.
struct Bounds {
    double regret, token_median, token_each;
};
std::optional<Bounds> bounds_of(const Json &quantised);  // none of null

// Probes that prove shapes, not choices: all their patches are alike, and a choice is worth what rounding makes of it
bool is_flat(const std::string &probe);
// `quantised` with the bounds that hold for a probe: of a flat one those of its tokens alone.
Json of_probe(Json quantised, const std::string &probe);

// Why one image fails by them; errors: of each token, or of each row of a head; what: how they are called
std::vector<std::string> beyond(const Bounds &bounds, double lost, const Floats &errors, const std::string &what);

}  // namespace edgeprune::parity
