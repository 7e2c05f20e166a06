// `greedy`: one pick after the other, each of the highest gain given those before it.
//
//     gains[t] = objective given the device's own first t picks                 by the reference's quantities
//     regret   = the highest gain of a patch that was free - that of the pick
//     err      = |reported gain - gain| over the eight picks on either side
//     may be   = bound x what attention and the like have in the gain + (error of a cosine) x what becomes of it
#include "parity/objectives.hpp"

#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

// Picks on either side that the error of one is taken of: gains fall by orders of magnitude along a chain
constexpr std::int64_t BESIDE = 8;

}  // namespace

Chain greedy(const Case &one) {
    const Floats reported = floats(one.got.at("scores"));
    const std::size_t patches = reported.size();
    const auto objective = objective_of(one, patches);
    const Places picks = one.picks();
    Mask free = all(patches);
    Chain chain;
    Floats scales, noise, measured, errors, best, chosen, mean;
    for (const auto given : picks) {
        const std::size_t pick = place(given, patches);
        const Floats gains = objective->gains();
        Floats sizes(patches);
        std::transform(gains.begin(), gains.end(), sizes.begin(), [](double gain) { return std::abs(gain); });
        noise.push_back(objective->noise(pick)), measured.push_back(objective->measured(pick));
        scales.push_back(objective->falls()
                             ? std::max(std::abs(highest(left_of(gains, free))), std::abs(gains[pick]))
                             : highest(left_of(sizes, free)));
        errors.push_back(std::abs(reported[pick] - gains[pick]));
        const Floats candidates = left_of(gains, free);
        best.push_back(highest(candidates)), mean.push_back(mean_of(candidates)), chosen.push_back(gains[pick]);
        free[pick] = 0;
        const bool last = count(free) == 0;
        const double over = last ? 0 : highest(left_of(gains, free)) - gains[pick];
        chain.regret.push_back(over < 0 ? 0 : over), chain.margin.push_back(last ? INFINITE : std::abs(over));
        objective->take(pick);
    }
    Floats relative(picks.size());
    for (std::size_t at = 0; at < picks.size(); ++at) {
        const auto here = static_cast<std::int64_t>(at);
        const double near = highest(slice(errors, std::max<std::int64_t>(0, here - BESIDE), here + BESIDE + 1));
        chain.tolerance.push_back(2 * near + one.eps * scales[at] + 2 * COSINE_NOISE * noise[at]);
        // One scale for all would let a gain be anything where it is small beside the first. Roundings add up.
        const double rounding = 4 * COSINE_NOISE * std::sqrt(1 + static_cast<double>(at));
        relative[at] = errors[at] / (measured[at] + noise[at] * (one.cosine_error() + rounding) / one.bound);
    }
    chain.error = largest(errors), chain.relative = largest(relative), chain.sets = {worth(best, chosen, mean)};
    return chain;
}

}  // namespace edgeprune::parity
