// `stages`: several cuts, each among what is left: anchors with their surroundings, then the rest.
//
//     first    the anchors, which `picks` begin with: the highest of `first`             hiprune
//     marked   an anchor and its four neighbours, by `around` [N, 5]; they are kept
//     then     the highest of the others by s, where score = s + 2 of a marked patch
//
// `first` does not leave the graph: its error is taken for that of s, relative to the largest, or of the tokens.
#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

// The rows of `around` of these patches, one after the other.
Places surroundings(const View &around, const Places &anchors) {
    if (around.shape.empty()) throw misfit("around must be [N, 5]");
    const Places every = places(around);
    const std::size_t rows = length(around), width = rows ? every.size() / rows : 0;
    Places found;
    for (const auto anchor : anchors) {
        const auto first = static_cast<std::int64_t>(place(anchor, rows) * width);
        found = joined(found, slice(every, first, first + static_cast<std::int64_t>(width)));
    }
    return found;
}

}  // namespace

Chain stages(const Case &one) {
    const std::int64_t count_of_anchors = whole_number(one.rule, "anchors");
    const Floats tiers = tiers_of(floats(one.got.at("scores")));
    const auto [reference, error, relative, errors] = compared(one);
    const std::size_t patches = tiers.size();
    const Places anchors = slice(one.picks(), 0, count_of_anchors), kept = one.indices();
    const Mask marked =
        mask(patches, count_of_anchors ? surroundings(one.quantities.at("around"), anchors) : anchors);
    std::vector<std::string> defects;
    bool same = true;
    for (std::size_t at = 0; at < patches; ++at) same = same && (tiers[at] > 0) == (marked[at] != 0);
    if (!same) defects.push_back("the first picks are not anchors of the marked patches");
    if (those(kept, marked).size() != count(marked)) defects.push_back("a marked patch is not kept");
    std::vector<Chain> chains;
    if (count_of_anchors) {
        const Floats first = one.of_patches("first", patches);
        const double off = largest({relative, one.unseen}) * highest(first);
        chains.push_back(cut(first, anchors, all(patches), off, one.eps));
    }
    chains.push_back(cut(reference, those(kept, marked, false), !marked, errors, one.eps));
    return joined(chains, error, relative, defects + out_of_order(one, count_of_anchors));
}

}  // namespace edgeprune::parity
