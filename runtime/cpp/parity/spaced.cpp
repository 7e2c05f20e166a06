// `spaced`: the highest scores of patches that have room, each pick wanting more of it; then the highest of the rest.
//
//     room     1 - C >= tau_s to the s-th pick, for every pick s so far; C: `similarity`, cosines [N, N]    agilepruner
//              tau_s = min(most, step s `rank` / average), rank: N^2 / sum of C^2; of an average of 0: step s
//     score    s + 4 of a patch that was picked while it had room, s + 2 of one that was picked without, s: attention
//
// Each pick is two decisions: had it room, or, of one without, had none; and was its score the highest of all that had.
// A patch as near to the edge as rounding is may stand on either side: it never makes another pick wrong.
#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

constexpr std::int64_t BESIDE = 8;  // picks on either side that the error of one is taken of

// The highest of those in the mask that are free; -inf of none
double highest_of(const Floats &values, const Mask &among, const Mask &free) {
    double found = -INFINITE;
    for (std::size_t at = 0; at < values.size(); ++at)
        if (among[at] && free[at]) found = higher(found, values[at]);
    return found;
}

}  // namespace

Chain spaced(const Case &one) {
    const Floats tiers = tiers_of(floats(one.got.at("scores")));
    const auto [reference, error, relative, errors] = compared(one);
    const std::size_t patches = reference.size();
    const Matrix similarity = one.similarity(patches);
    const Places picks = one.picks();
    const double average = number(one.rule, "average"), most = number(one.rule, "most"), step = number(one.rule, "step");
    const Floats ranks = floats(Case::line_of(one.quantities, "rank"));
    if (ranks.empty()) throw misfit("rank must be [1]");
    const double share = ranks[0] / (average != 0 ? average : ranks[0]);
    const double off = 4 * one.cosine_error();  // of a cosine, and of the rank that it is held against
    Floats over(patches, -INFINITE);            // how much nearer a patch stands than it may
    Mask free(patches, 1);
    Chain chain;
    Floats best, chosen, mean;
    bool falls = true;
    for (std::size_t turn = 0; turn < picks.size(); ++turn) {
        const std::size_t pick = place(picks[turn], patches);
        const bool had = tiers[pick] == 2;
        falls = falls && tiers[pick] > 0 && !(turn && tiers[pick] > tiers[place(picks[turn - 1], patches)]);
        Mask sure = free, among = free;
        double nearest = INFINITE;
        for (std::size_t at = 0; at < patches; ++at) {
            if (had) sure[at] = over[at] < -off, among[at] = over[at] <= off;
            if (free[at]) nearest = lower(nearest, over[at]);
        }
        const double held = had ? over[pick] : -nearest;
        chain.regret.push_back(held <= 0 ? 0 : held);  // not a number stays so
        chain.margin.push_back(std::abs(held));
        chain.tolerance.push_back(off);
        mean.push_back(mean_of(left_of(reference, free)));
        free[pick] = 0;
        const auto middle = static_cast<std::int64_t>(turn);
        const Places near = slice(picks, std::max<std::int64_t>(0, middle - BESIDE), middle + BESIDE + 1);
        const double better = highest_of(reference, sure, free) - reference[pick];
        chain.regret.push_back(better > 0 ? better : 0);
        best.push_back(std::max(highest_of(reference, sure, free), reference[pick])), chosen.push_back(reference[pick]);
        chain.margin.push_back(std::abs(highest_of(reference, among, free) - reference[pick]));
        chain.tolerance.push_back(2 * highest(taken(errors, near)) + one.eps * highest(taken(reference, near)));
        if (!had) continue;
        const double tau = lower(most, step * static_cast<double>(turn + 1) * share);
        for (std::size_t at = 0; at < patches; ++at) over[at] = higher(over[at], similarity[pick][at] - 1 + tau);
    }
    chain.sets = {worth(best, chosen, mean)};
    std::vector<std::string> defects;
    if (!falls) defects.push_back("picks must be those that had room, and then those that had none");
    const auto count = std::count_if(tiers.begin(), tiers.end(), [](double tier) { return tier > 0; });
    if (count != static_cast<std::ptrdiff_t>(picks.size()))
        defects.push_back(line("the scores must mark the ", picks.size(), " picks, got ", count));
    return joined({chain}, error, relative, defects + out_of_order(one));
}

}  // namespace edgeprune::parity
