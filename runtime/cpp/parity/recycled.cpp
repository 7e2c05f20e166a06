// `recycled`, a form of `match`: the context (`order`), patches that receive more than so much of the `map`; a cut by
// what this attends to; of what is left the highest in each `cell`, which stands for all of it there.
#include <algorithm>
#include <cmath>
#include <set>

#include "parity/match.hpp"

namespace edgeprune::parity {

namespace {

// The mean over these rows
Floats mean_of(const Matrix &map, const Places &rows) {
    Floats mean(map.columns, 0);
    for (const auto row : rows) {
        const double *line = map[place(row, map.rows)];
        for (std::size_t at = 0; at < mean.size(); ++at) mean[at] += line[at];
    }
    for (double &value : mean) value /= rows.empty() ? 1 : static_cast<double>(rows.size());
    return mean;
}

// Whether each patch is rightly of the context, or, where only one is and none receives so much, whether it is the one.
Chain of_context(const Case &one, const Floats &received, const Places &context, double least, double unseen) {
    const std::size_t patches = received.size();
    const double most = highest(received);
    if (context.size() <= 1 && !(most - least > 0))
        return cut(received, context, all(patches), unseen * most, one.eps);
    const Mask among = mask(patches, context);
    Chain chain;
    for (std::size_t at = 0; at < patches; ++at) {
        const double over = received[at] - least;
        chain.regret.push_back(clipped(among[at] ? -over : over, 0));
        chain.tolerance.push_back(2 * unseen * (received[at] + least) + one.eps * most);
        chain.margin.push_back(std::abs(over));
    }
    return chain;
}

}  // namespace

Chain recycled(const Case &one) {
    const Floats got = floats(one.got.at("scores")), tiers = tiers_of(got);
    const std::size_t patches = got.size();
    const Matrix seen = square(one.quantities.at("map"), patches, "map");
    const Floats cell = one.of_patches("cell", patches), received = mean_of(seen, up_to(patches));
    const std::int64_t cells = whole_number(one.rule, "recycled"), own = static_cast<std::int64_t>(one.keep()) - cells;
    Places context, lead, stands;
    const Places order = places(Case::line_of(one.got, "order")), kept = one.indices();
    for (std::size_t at = 0; at < order.size(); ++at)
        if (order[at] != 0) context.push_back(static_cast<std::int64_t>(at));
    Mask free(patches), left(patches);
    std::set<double> names;
    for (std::size_t at = 0; at < patches; ++at) {
        const auto patch = static_cast<std::int64_t>(at);
        free[at] = tiers[at] != 2, left[at] = tiers[at] == 0;
        if (tiers[at] == 2) lead.push_back(patch);
        if (tiers[at] == 1) stands.push_back(patch), names.insert(cell[at]);
    }
    double least = 0;
    for (const double value : received) least += value;
    least = number(one.rule, "threshold") * (least / static_cast<double>(patches));
    const Floats attended = mean_of(seen, context), device = parted(got);
    Floats errors(patches), shares(patches);
    for (std::size_t at = 0; at < patches; ++at) {
        errors[at] = std::abs(device[at] - attended[at]);
        shares[at] = clipped(errors[at] - 1.0 / (1 << 20), 0);
    }
    const double error = largest(errors), scale = largest(attended);
    double relative = scale != 0 ? error / scale : (error != 0 ? INFINITE : 0);
    if (error <= 1.0 / (1 << 20)) relative = std::min(relative, one.bound);
    relative = largest({relative, of_shares(shares, attended)});
    std::vector<std::string> defects;
    if (context.empty()) defects.push_back("the context must hold a patch");
    if (static_cast<std::int64_t>(lead.size()) != own || names.size() != stands.size())
        defects.push_back(line("the scores must mark ", own, " patches, and one of each cell"));
    std::vector<Chain> chains{of_context(one, received, context, least, largest({relative, one.unseen})),
                              cut(attended, lead, all(patches), errors, one.eps)};
    for (std::int64_t name = 0; name < cells; ++name) {
        Mask here(patches);
        Places marked;
        for (std::size_t at = 0; at < patches; ++at) {
            here[at] = free[at] && cell[at] == static_cast<double>(name);
            if (here[at] && tiers[at] == 1) marked.push_back(static_cast<std::int64_t>(at));
        }
        if (count(here) != 0 && marked.empty())
            defects.push_back("a cell that has patches left must have one that stands for them");
        chains.push_back(cut(attended, marked, here, errors, one.eps));
    }
    chains.push_back(cut(attended, those(kept, left), left, errors, one.eps));
    Places went(patches, -1);
    for (const auto patch : stands)
        for (std::size_t at = 0; at < patches; ++at)
            if (free[at] && cell[at] == cell[place(patch, patches)])
                went[at] = std::lower_bound(kept.begin(), kept.end(), patch) - kept.begin();
    for (std::size_t at = 0; at < kept.size(); ++at) went[place(kept[at], patches)] = static_cast<std::int64_t>(at);
    if (went != places(Case::line_of(one.got, "origin")))
        defects.push_back("what is left must go to the patch that stands for its cell");
    return joined(chains, error, relative, defects + out_of_order(one));
}

}  // namespace edgeprune::parity
