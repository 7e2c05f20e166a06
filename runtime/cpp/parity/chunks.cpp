// `chunks`: a share of the budget for each run of patches, then the highest of each.
//
// part    = K w / (sum of w + epsilon)            w: `weight` of each chunk, by the reference                holov
// share   = floor(part), and 1 more for the heaviest; those of the device are how many of each it marked
// then    the `share` highest scores of each chunk, and, where a chunk has fewer patches, of all that are left
#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

// The first patch of each chunk, and the end of the last one. Throws misfit for chunks beyond the patches.
std::vector<std::size_t> bounds_of(const Places &sizes, std::size_t patches) {
    std::vector<std::size_t> bounds{0};
    for (const auto size : sizes) {
        if (size < 0 || static_cast<std::size_t>(size) > patches - bounds.back())
            throw misfit("index ", size, " is out of bounds for axis 0 with size ", patches);
        bounds.push_back(bounds.back() + static_cast<std::size_t>(size));
    }
    return bounds;
}

// One decision for each chunk: was its part rounded down, and was it among the heaviest that get one more?
Chain shares(const Case &one, const Mask &marked, const Places &sizes, double relative) {
    const Floats weight = one.of_patches("weight", sizes.size());
    const auto bounds = bounds_of(sizes, marked.size());
    const double total = sum(weight.data(), weight.size()), epsilon = number(one.rule, "epsilon");
    const auto keep = static_cast<double>(one.keep());
    Chain chain;
    Floats more(sizes.size());
    std::vector<bool> full(sizes.size());
    for (std::size_t at = 0; at < sizes.size(); ++at) {
        const double part = keep * weight[at] / (total + epsilon);
        double share = 0;
        const std::size_t end = at + 1 < sizes.size() ? bounds[at + 1] : marked.size();
        for (std::size_t patch = bounds[at]; patch < end; ++patch) share += marked[patch];
        full[at] = share >= static_cast<double>(sizes[at]);  // as much as there is: its share may be larger
        more[at] = share - std::floor(part);
        // A share that is no floor, nor one more, comes of a part beyond the next whole number.
        const double beyond = more[at] < 0 ? part - share - 1 : share - 1 - part;
        chain.regret.push_back(full[at] ? 0 : higher(beyond, 0));
        chain.tolerance.push_back((2 * relative + 4 * one.eps) * keep * weight[at] / total + one.eps * keep);
        chain.margin.push_back(std::abs(part - std::nearbyint(part)));
    }
    Floats without_one;
    bool one_more = false;
    for (std::size_t at = 0; at < sizes.size(); ++at) {
        one_more = one_more || (more[at] >= 1 && !full[at]);
        if (more[at] <= 0 && !full[at]) without_one.push_back(weight[at]);
    }
    for (std::size_t at = 0; one_more && !without_one.empty() && at < sizes.size(); ++at) {
        const double over = higher(highest(without_one) - weight[at], 0) * keep / total;
        chain.regret[at] = higher(chain.regret[at], more[at] >= 1 && !full[at] ? over : 0);
    }
    chain.sets = {{sum(chain.regret.data(), chain.regret.size()), 0, keep}};  // of the budget, in tokens
    return chain;
}

}  // namespace

Chain chunks(const Case &one) {
    const Places sizes = whole_numbers(one.rule, "sizes");
    const Floats tiers = tiers_of(floats(one.got.at("scores")));
    const std::size_t patches = tiers.size();
    Mask marked(patches);
    for (std::size_t at = 0; at < patches; ++at) marked[at] = tiers[at] > 0;
    const auto [reference, error, relative, errors] = compared(one);
    const Mask kept = mask(patches, one.indices());
    const auto bounds = bounds_of(sizes, patches);
    const Chain shared = shares(one, marked, sizes, largest({relative, one.unseen}));
    std::vector<Chain> cuts;
    for (std::size_t at = 0; at < sizes.size(); ++at) {
        Mask here(patches, 0);
        std::fill(here.begin() + static_cast<std::ptrdiff_t>(bounds[at]),
                  here.begin() + static_cast<std::ptrdiff_t>(bounds[at + 1]), 1);
        cuts.push_back(cut(reference, those(where(marked), here), here, errors, one.eps));
    }
    const Places unmarked = those(where(kept), marked, false);
    cuts.push_back(cut(reference, unmarked, !marked, errors, one.eps));
    Chain chosen = joined(cuts);
    chosen.sets = {together(chosen.sets)};  // a chunk of next to nothing is no set of its own
    std::vector<std::string> defects;
    if (!those(where(marked), kept, false).empty()) defects = {"a patch of a chunk's share is not kept"};
    return joined({shared, chosen}, error, relative, defects + out_of_order(one));
}

}  // namespace edgeprune::parity
