// `joins`: the highest rows go on, and each of the others joins the one of these that is most like it.
//
// quantities   `similarity` [n, n], cosines of the rows' keys
// decisions    a cut by the scores (`topk`); then one for each row that is gone, which joined the most similar kept one
//
// Keys do not leave the graph: the error of a cosine is that of rows as exact as the tokens.
#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

Chain joins(const Case &one) {
    const Places trail = places(one.got.at("trail")), kept = one.indices(), gone = without(up_to(trail.size()), kept);
    const Chain chosen = topk(one);
    const Matrix similarity = one.similarity(length(one.got.at("scores")));
    Matrix alike(gone.size(), kept.size());
    for (std::size_t row = 0; row < gone.size(); ++row)
        for (std::size_t column = 0; column < kept.size(); ++column)
            alike[row][column] = similarity[place(gone[row], similarity.rows)][place(kept[column], similarity.rows)];
    return joined({chosen, nearest(alike, taken(trail, gone), 2 * one.cosine_error() + one.eps)});
}

// Every row that does not go on joins one that does.
Defects unjoined(const Case &one) {
    const Places trail = places(one.got.at("trail"));
    const auto kept = static_cast<std::int64_t>(one.indices().size());
    if (!std::all_of(trail.begin(), trail.end(), [&](auto at) { return at >= 0 && at < kept; }))
        return {line("a row that does not go on behind layer ", whole_number(one.rule, "layer"),
                     " must join one that does")};
    return lower_went_on(one);
}

Chain nearest(const Matrix &alike, const Places &target, double tolerance) {
    Chain chain;
    Floats best, chosen, mean;
    for (std::size_t row = 0; row < alike.rows; ++row) {
        const Floats line(alike[row], alike[row] + alike.columns);
        const Places order = ranked(line);
        const auto nth = [&](std::size_t from_the_top) {
            return line[static_cast<std::size_t>(order[order.size() - from_the_top])];
        };
        chosen.push_back(line[place(target[row], line.size())]);
        best.push_back(nth(1)), mean.push_back(mean_of(line));
        chain.regret.push_back(best.back() - chosen.back());
        chain.tolerance.push_back(tolerance);
        chain.margin.push_back(std::abs(chosen.back() - (line.size() > 1 ? nth(2) : -INFINITE)));
    }
    if (alike.rows) chain.sets = {worth(best, chosen, mean)};
    return chain;
}

}  // namespace edgeprune::parity
