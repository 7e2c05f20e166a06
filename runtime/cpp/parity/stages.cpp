// `stages`: several cuts, each among what is left: anchors with their surroundings, then the rest.
//
//     first    the anchors, which `picks` begin with: the highest of `first`             hiprune, sppruner
//     marked   an anchor and its four neighbours, by `around` [N, 5]; they are kept
//     then     the highest of the others by s, where score = s + 2 of a marked patch
//
//     asked    where the rule has so many: the last ones are the highest by `relevance` of those that are left, and those
//              before them by `deep`; score = deep + 4 of a marked patch, deep + 2 of them, relevance of all others
//                                                                                        hiprune_text
// `first` does not leave the graph: its error is taken for that of s, relative to the largest, or of the tokens.
#include <algorithm>
#include <cmath>
#include <string>

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

Chain asked_of(const Case &one, std::int64_t asked) {
    const std::int64_t count_of_anchors = whole_number(one.rule, "anchors");
    const std::int64_t before = static_cast<std::int64_t>(one.keep()) - asked;
    const Floats scores = floats(one.got.at("scores")), tiers = tiers_of(scores), got = parted(scores);
    const std::size_t patches = scores.size();
    const Floats deep = one.of_patches("deep", patches), relevance = one.of_patches("relevance", patches);
    const Places picks = one.picks(), anchors = slice(picks, 0, count_of_anchors), kept = one.indices();
    const Mask marked =
        mask(patches, count_of_anchors ? surroundings(one.quantities.at("around"), anchors) : anchors);
    Mask own(patches, 0), deeper(patches, 0);
    bool same = true;
    Floats of_own, of_others, off(patches, 0), off_others;
    for (std::size_t at = 0; at < patches; ++at) {
        own[at] = tiers[at] > 0, deeper[at] = own[at] && !marked[at];
        same = same && (tiers[at] > 1) == (marked[at] != 0);
        const double error = std::abs(got[at] - (own[at] ? deep[at] : relevance[at]));
        (own[at] ? of_own : of_others).push_back(error);
        if (own[at]) off[at] = clipped(error - TIER_ROUNDING, 0);
        else off_others.push_back(clipped(error, 0));
    }
    const Places rest = those(kept, own, false);
    std::vector<std::string> defects;
    if (!same) defects.push_back("the first picks are not anchors of the marked patches");
    if (static_cast<std::int64_t>(count(own)) != before || those(kept, own).size() != count(own))
        defects.push_back(line("the scores must mark ", before, " patches that are kept before the question is asked"));
    if (sorted(slice(picks, before, static_cast<std::int64_t>(picks.size()))) != rest)
        defects.push_back(line("the last ", asked, " picks must be those of the question"));
    const double seen = largest({of_shares(off, deep)}), relative = largest({seen, largest(off_others)});
    std::vector<Chain> chains;
    if (count_of_anchors) {
        const Floats first = one.of_patches("first", patches);
        chains.push_back(cut(first, anchors, all(patches), largest({seen, one.unseen}) * highest(first), one.eps));
    }
    chains.push_back(cut(deep, where(deeper), !marked, largest(of_own), one.eps));
    chains.push_back(cut(relevance, rest, !own, largest(of_others), one.eps));
    return joined(chains, largest({largest(of_own), largest(of_others)}), relative,
                  defects + out_of_order(one, count_of_anchors));
}

}  // namespace

Chain stages(const Case &one) {
    if (said(one.rule, "asked")) return asked_of(one, whole_number(one.rule, "asked"));
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
