// Scores of tiers: score = 2 t + s. What a method chose in stages stands in t, what it ranked by inside, 0..1, in s.
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

Floats tiers_of(const Floats &scores) {
    Floats tiers(scores.size());
    for (std::size_t at = 0; at < scores.size(); ++at) tiers[at] = std::floor((scores[at] + TIER_ROUNDING) / 2);
    return tiers;
}

Floats parted(const Floats &scores) {
    Floats parts = tiers_of(scores);
    for (std::size_t at = 0; at < scores.size(); ++at) parts[at] = scores[at] - 2 * parts[at];
    return parts;
}

Compared compared(const Case &one) {
    const Floats reference = parted(floats(one.reference.at("scores")));
    auto [error, relative, errors] = measured(parted(floats(one.got.at("scores"))), reference);
    if (error <= TIER_ROUNDING && one.bound < relative) relative = one.bound;  // what s lost to the tier in front of it
    Floats beyond(errors.size());
    for (std::size_t at = 0; at < errors.size(); ++at) beyond[at] = clipped(errors[at] - TIER_ROUNDING, 0);
    relative = largest({relative, of_shares(beyond, reference)});
    return {reference, error, relative, errors};
}

}  // namespace edgeprune::parity
