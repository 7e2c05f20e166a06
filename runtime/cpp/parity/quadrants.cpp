// `quadrants`: the highest rows go on, and each of the others is part of the remains of its quadrant.
//
// quantities   `quadrant` [n], of each row, 0 to 3
// decisions    a cut by the scores (`topk`); where the others went is geometry: row K + quadrant, and what was remains
//              before stays of its quadrant
#include "parity/rules.hpp"

namespace edgeprune::parity {

Chain quadrants(const Case &one) {
    Chain chosen = topk(one);
    const Places trail = places(one.got.at("trail")), kept = one.indices();
    const Places quadrant = places(Case::line_of(one.quantities, "quadrant"));
    if (quadrant.size() > trail.size()) throw misfit("quadrant must be of the rows, got ", quadrant.size());
    Places expected = joined(quadrant, up_to(trail.size() - quadrant.size()));
    for (auto &at : expected) at += static_cast<std::int64_t>(kept.size());
    for (std::size_t at = 0; at < kept.size(); ++at)
        expected[place(kept[at], expected.size())] = static_cast<std::int64_t>(at);
    if (trail != expected)
        chosen.defects.push_back(line("a row that does not go on behind layer ", whole_number(one.rule, "layer"),
                                      " must be of the remains of its quadrant"));
    return chosen;
}

// A row that goes on is alone, remains stay of their quadrant.
Defects unquartered(const Case &one) {
    const Places trail = places(one.got.at("trail")), kept = one.indices();
    const auto keep = static_cast<std::int64_t>(kept.size());
    const std::size_t rows = length(one.got.at("scores"));
    const std::int64_t layer = whole_number(one.rule, "layer");
    Places alone;
    bool remains = true;
    for (std::size_t at = 0; at < trail.size(); ++at) {
        if (trail[at] >= 0 && trail[at] < keep) alone.push_back(static_cast<std::int64_t>(at));
        remains = remains && trail[at] >= 0 &&
                  (at < rows || trail[at] == keep + static_cast<std::int64_t>(at - rows));
    }
    if (alone != kept) return {line("a row that goes on behind layer ", layer, " must be alone")};
    if (!remains)
        return {line("a row that does not go on behind layer ", layer, " must be of the remains of a quadrant")};
    return lower_went_on(one);
}

}  // namespace edgeprune::parity
