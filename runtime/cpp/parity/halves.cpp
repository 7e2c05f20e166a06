// `halves`: of the less important half of the rows those most like one of the other half are dropped, then the least
// important of all that are left. One step of Zero-TPrune.
//
// first       [n], the importance by which the rows are halved: the n // 2 lowest are A, the others B
// similarity  [n, n], cosines
// similar     of the rows that the step drops so many, as a share: those of A most similar to one of B; score below GONE
// then        a cut by the scores of those that are left
//
// The halves do not leave the graph. A row as near to where they part as rounding may be of either: those that are gone
// are taken for as similar as they may be, those that are left for as little, and what that leaves open is not decided.
// Where other rows are gone than of the reference, its importance of those that are left is not the device's: what is
// chosen of them is undecided. `first` does not leave the graph either: its error is that of the tokens, relative.
#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

constexpr double GONE = -1, GONE_AT = -3;  // above the score of every row that is gone, which is GONE_AT - its cosine

// [n], of each row the highest cosine with another one of these; -1 where there is none
Floats closest(const Matrix &similarity, const Mask &among) {
    Floats most(similarity.rows, -1.0);
    for (std::size_t row = 0; row < similarity.rows; ++row)
        for (std::size_t other = 0; other < similarity.rows; ++other)
            if (among[other] && other != row) most[row] = higher(most[row], similarity[row][other]);
    return most;
}

// Of these, numpy's maximum, -inf of none
double most_of(const Floats &values, const Mask &among) {
    const Floats some = left_of(values, among);
    return some.empty() ? -INFINITE : highest(some);
}

// Were the rows that are gone of the less important half, and of it the most similar to one of the other?
std::vector<Chain> similar(const Case &one, const Floats &got, const Places &gone) {
    const std::size_t count = got.size(), half = count / 2;
    if (!half) throw misfit("scores must be of 2 rows or more, got ", count);
    const Floats first = one.of_patches("first", count);
    const Places rising = ranked(first);
    const double below = first[place(rising[half - 1], count)], above = first[place(rising[half], count)];
    const double tolerance = (2 * one.unseen + one.eps) * largest(first);
    const Mask less = mask(count, Places(rising.begin(), rising.begin() + static_cast<std::ptrdiff_t>(half)));
    const Mask stays = !mask(count, gone);
    Mask either(count), maybe_more(count), surely_more(count), rivals(count), possible(count), among(count);
    for (std::size_t at = 0; at < count; ++at) {
        either[at] = (less[at] ? above - first[at] : first[at] - below) <= tolerance;
        maybe_more[at] = !less[at] || either[at], surely_more[at] = !less[at] && !either[at];
        rivals[at] = stays[at] && less[at] && !either[at], possible[at] = stays[at] && (less[at] || either[at]);
        among[at] = less[at] || !stays[at];
    }
    const Matrix similarity = one.similarity(count);
    const Floats most = closest(similarity, maybe_more), least = closest(similarity, surely_more);
    const double rounding = 2 * one.cosine_error() + one.eps;
    const double rival = most_of(least, rivals), possibly = most_of(most, possible);
    Chain halved, chosen;
    Floats beyond;
    for (const auto row : gone) {
        const std::size_t at = place(row, count);
        const double over = less[at] ? first[at] - above : first[at] - below;
        halved.regret.push_back(less[at] ? 0.0 : over), halved.tolerance.push_back(tolerance);
        halved.margin.push_back(std::abs(over));
        chosen.regret.push_back(higher(rival - most[at], 0)), chosen.tolerance.push_back(rounding);
        chosen.margin.push_back(higher(least[at] - possibly, 0));
        const double alike = GONE_AT - got[at];
        beyond.push_back(alike - most[at]), beyond.push_back(least[at] - alike);
    }
    chosen.error = chosen.relative = largest(beyond);
    chosen.sets = {worth_of_cut(most, gone, among)};
    return {halved, chosen};
}

}  // namespace

Chain halves(const Case &one) {
    const Floats reference = floats(one.reference.at("scores")), got = floats(one.got.at("scores"));
    if (got.size() != reference.size()) throw misfit("scores must be ", reference.size(), ", got ", got.size());
    const Places stays = one.indices();
    Places gone;
    Mask left(got.size()), shared(got.size());
    Floats errors(got.size(), 0.0);
    for (std::size_t at = 0; at < got.size(); ++at) {
        if (got[at] < GONE) gone.push_back(static_cast<std::int64_t>(at));
        left[at] = got[at] >= GONE, shared[at] = left[at] && reference[at] >= GONE;
        if (shared[at]) errors[at] = std::abs(got[at] - reference[at]);
    }
    std::vector<Chain> chains;
    if (!gone.empty()) chains = similar(one, got, gone);
    if (shared == left) {
        chains.push_back(cut(reference, stays, left, errors, one.eps));
        return joined(chains, largest(errors), of_shares(left_of(errors, shared), left_of(reference, shared)));
    }
    const Floats none(stays.size(), 0.0);
    Chain open = {none, Floats(none.size(), INFINITE), none, 0, 0, {}};
    open.sets = {worth_of_cut(reference, those(stays, shared), shared)};
    chains.push_back(open);
    return joined(chains);  // what the others are worth hangs on who is gone
}

// So many rows are gone for being similar, and nothing becomes of any that does not go on.
Defects unhalved(const Case &one) {
    const Floats scores = floats(one.got.at("scores"));
    const auto dropped = static_cast<double>(scores.size()) - static_cast<double>(one.indices().size());
    const double share = number(one.rule, "similar");
    if (!(share >= 0 && share <= 1)) throw misfit("similar must be in 0..1, got ", formatted("%g", share));
    const auto wanted = static_cast<std::int64_t>(share * dropped);
    const auto gone = std::count_if(scores.begin(), scores.end(), [](double score) { return score < GONE; });
    if (gone != wanted)
        return {line(wanted, " rows must be gone for being similar behind layer ", whole_number(one.rule, "layer"),
                     ", got ", gone)};
    return undropped(one);
}

}  // namespace edgeprune::parity
