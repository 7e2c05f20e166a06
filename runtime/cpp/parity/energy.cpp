// `energy`: of the rows of the highest energy every other one joins the most similar of the rest. One step of PiToMe.
//
// quantities   `similarity` [n, n], cosines of the rows' keys; `margin`, by which f jumps at it: a cosine within
//              rounding of it may stand on either side, which moves an energy by margin / n
// scores       -E of a row that goes on alone or joins another one, TAKES - E of a row that others may join
// decisions    2r picks: the row of the highest energy of all that are left, whose turn says whether it joins or takes;
//              then each of the r that join goes to the most similar of the r that take
//
// The order in which rows were picked is that of the device's own scores, in turns; whether it is right is judged by
// the reference's.
#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

constexpr double TAKES = 4;              // above every energy, which lies in -1..1
constexpr double TOLD = 1.0 / (1 << 21);  // what an energy may lose to TAKES, in float32

Floats energies(Floats scores) {
    for (double &score : scores) score = score > TAKES / 2 ? TAKES - score : -score;
    return scores;
}

Places takers_of(const Floats &scores) {
    Places found;
    for (std::size_t at = 0; at < scores.size(); ++at)
        if (scores[at] > TAKES / 2) found.push_back(static_cast<std::int64_t>(at));
    return found;
}

Places by_falling(const Floats &own, const Places &rows) {
    Floats falling = taken(own, rows);
    for (double &one : falling) one = -one;
    return taken(rows, ranked(falling));
}

// [2r]: rows in turns, those that join by falling energy, and behind each of them one that takes.
Places in_turns(const Floats &own, const Places &gone, const Places &takers) {
    const Places joining = by_falling(own, gone), taking = by_falling(own, takers);
    if (joining.size() != taking.size()) throw misfit("as many rows must take as join");
    Places order;
    for (std::size_t at = 0; at < joining.size(); ++at) order.push_back(joining[at]), order.push_back(taking[at]);
    return order;
}

// The largest error beyond what cosines that stand at the margin explain
double beyond(const Case &one, const Matrix &similarity, const Floats &errors) {
    const double margin = number(one.rule, "margin"), off = 2 * one.cosine_error();
    const auto count = static_cast<double>(errors.size());
    Floats over(errors.size());
    for (std::size_t row = 0; row < errors.size(); ++row) {
        double near = 0;
        for (std::size_t column = 0; column < similarity.columns; ++column)
            near += std::abs(similarity[row][column] - margin) <= off;
        over[row] = errors[row] - near / count * margin;
    }
    return largest(over);
}

// Was each the highest of all that were left?
Chain picked(const Floats &known, const Places &order, const Floats &errors, double scale) {
    Floats left = known, best_of_all, chosen, mean;
    Chain chain;
    for (std::size_t turn = 0; turn < order.size(); ++turn) {
        const std::size_t row = place(order[turn], left.size());
        Floats candidates;
        std::copy_if(left.begin(), left.end(), std::back_inserter(candidates), [](double one) { return std::isfinite(one); });
        best_of_all.push_back(highest(left)), mean.push_back(mean_of(candidates)), chosen.push_back(known[row]);
        left[row] = -INFINITE;
        const double best = highest(left), over = best - known[row];
        const auto middle = static_cast<std::int64_t>(turn);
        const Places near = slice(order, std::max<std::int64_t>(0, middle - NEAR), middle + NEAR);
        chain.regret.push_back(over > 0 ? over : 0);
        chain.margin.push_back(std::abs(known[row] - best));
        chain.tolerance.push_back(2 * highest(taken(errors, near)) + scale);
    }
    chain.sets = {worth(best_of_all, chosen, mean)};
    return chain;
}

}  // namespace

Chain energy(const Case &one) {
    const Floats scores = floats(one.got.at("scores")), own = energies(scores);
    const Floats known = energies(floats(one.reference.at("scores")));
    const Places trail = places(one.got.at("trail")), kept = one.indices(), takers = takers_of(scores);
    const Measured told = measured(own, known);
    const Places gone = without(up_to(trail.size()), kept);
    const Matrix similarity = one.similarity(scores.size());
    Matrix alike(gone.size(), takers.size());
    Places target;
    for (std::size_t row = 0; row < gone.size(); ++row) {
        const std::int64_t into = kept[place(trail[place(gone[row], trail.size())], kept.size())];
        target.push_back(std::lower_bound(takers.begin(), takers.end(), into) - takers.begin());
        for (std::size_t column = 0; column < takers.size(); ++column)
            alike[row][column] = similarity[place(gone[row], scores.size())][place(takers[column], scores.size())];
    }
    Floats sizes = known;
    for (double &size : sizes) size = std::abs(size);
    const double largest_of_all = largest(sizes);
    const double relative = beyond(one, similarity, told.errors) / std::max(largest_of_all, 1e-30);
    const Chain merges = nearest(alike, target, 2 * one.cosine_error() + one.eps);
    const Chain turns = picked(known, in_turns(own, gone, takers), told.errors, one.eps * largest_of_all);
    return joined({turns, merges}, told.error, relative);
}

// As many rows take as join, these go to those, and their turns fall by energy.
Defects unspent(const Case &one) {
    const Floats scores = floats(one.got.at("scores")), own = energies(scores);
    const Places trail = places(one.got.at("trail")), kept = one.indices(), takers = takers_of(scores);
    const Places gone = without(up_to(scores.size()), kept);
    const std::int64_t layer = whole_number(one.rule, "layer");
    if (takers.size() != gone.size())
        return {line("scores.", layer, " must mark ", gone.size(), " rows that take others, got ", takers.size())};
    const auto takes = [&](std::int64_t row) { return std::binary_search(takers.begin(), takers.end(), row); };
    for (const auto row : gone) {
        const std::int64_t into = trail[place(row, trail.size())];
        if (into < 0 || !takes(kept[place(into, kept.size())]) || takes(row))
            return {line("a row that does not go on behind layer ", layer, " must join one that takes others")};
    }
    const Floats turns = taken(own, in_turns(own, gone, takers)), alone = taken(own, without(kept, takers));
    bool fall = alone.empty() || turns.empty() || !(highest(alone) > turns.back() + TOLD);
    for (std::size_t at = 1; at < turns.size(); ++at) fall = fall && !(turns[at] - turns[at - 1] > TOLD);
    if (!fall)
        return {line("the rows that join and take behind layer ", layer,
                     " must be those of the highest energies, in turns")};
    return {};
}

}  // namespace edgeprune::parity
