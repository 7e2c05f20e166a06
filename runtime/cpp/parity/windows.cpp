// `windows`, a form of `match`: a cut in each `window` by `first`, and one of the others by the scores; every other patch
// joins the nearest of these, and tokens hang on the whole set.
#include <algorithm>
#include <set>

#include "parity/match.hpp"

namespace edgeprune::parity {

Chain windows(const Case &one) {
    const auto [reference, error, relative, errors] = compared(one);
    const Floats tiers = tiers_of(floats(one.got.at("scores")));
    const std::size_t patches = tiers.size();
    const Floats window = one.of_patches("window", patches), first = one.of_patches("first", patches);
    const Places kept = one.indices();
    Mask marked(patches);
    for (std::size_t at = 0; at < patches; ++at) marked[at] = tiers[at] > 0;
    const double unseen = largest({relative, one.unseen}) * highest(first);
    std::vector<Chain> chains;
    std::set<std::size_t> counts;
    std::size_t anchored = 0;
    for (const double name : std::set<double>(window.begin(), window.end())) {
        Mask here(patches);
        Places anchors;
        for (std::size_t at = 0; at < patches; ++at) {
            here[at] = window[at] == name;
            if (here[at] && marked[at]) anchors.push_back(static_cast<std::int64_t>(at));
        }
        counts.insert(anchors.size()), anchored += anchors.size();
        chains.push_back(cut(first, anchors, here, unseen, one.eps));
    }
    std::vector<std::string> defects;
    if (counts.size() != 1 || anchored != count(marked))
        defects.push_back("every window must have as many anchors as the others");
    if (those(kept, marked).size() != count(marked)) defects.push_back("an anchor of a window is not kept");
    chains.push_back(cut(reference, those(kept, marked, false), !marked, errors, one.eps));
    chains.push_back(
        joins(one, without(up_to(patches), kept), kept, relative, one.similarity(patches), defects));
    return joined(chains, error, relative, defects + out_of_order(one));
}

}  // namespace edgeprune::parity
