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
//
// `match` in the form `energy`: one such step after the other behind the encoder. `worth` holds the scores of each
// round, `order` whom each patch joined, and `products` [N, N], inner products of keys, make the cosines of every mean.
#include <algorithm>
#include <cmath>

#include "parity/match.hpp"

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

// One step: what the device and the reference ranked by, where each row went, and cosines of the rows' keys
struct Told {
    Floats scores, reference;
    Places trail, kept;
    Matrix similarity;
};

Chain judged(const Case &one, const Told &step) {
    const Floats own = energies(step.scores), known = energies(step.reference);
    const Places takers = takers_of(step.scores);
    const Measured told = measured(own, known);
    const Places gone = without(up_to(step.trail.size()), step.kept);
    Matrix alike(gone.size(), takers.size());
    Places target;
    for (std::size_t row = 0; row < gone.size(); ++row) {
        const std::int64_t into = step.kept[place(step.trail[place(gone[row], step.trail.size())], step.kept.size())];
        target.push_back(std::lower_bound(takers.begin(), takers.end(), into) - takers.begin());
        const double *line = step.similarity[place(gone[row], step.scores.size())];
        for (std::size_t column = 0; column < takers.size(); ++column)
            alike[row][column] = line[place(takers[column], step.scores.size())];
    }
    Floats sizes = known;
    for (double &size : sizes) size = std::abs(size);
    const double largest_of_all = largest(sizes);
    const double relative = beyond(one, step.similarity, told.errors) / std::max(largest_of_all, 1e-30);
    const Chain merges = nearest(alike, target, 2 * one.cosine_error() + one.eps);
    const Chain turns = picked(known, in_turns(own, gone, takers), told.errors, one.eps * largest_of_all);
    return joined({turns, merges}, told.error, relative);
}

// As many rows take as join, these go to those, and their turns fall by energy.
Defects malformed(const Floats &scores, const Places &trail, const Places &kept, std::int64_t layer) {
    const Floats own = energies(scores);
    const Places takers = takers_of(scores), gone = without(up_to(scores.size()), kept);
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

// [n]: the energies of tokens of these cosines, as a reducer's scores have them
Floats scored(const Matrix &alike, double alpha) {
    Floats found;
    for (std::size_t row = 0; row < alike.rows; ++row) {
        Floats pull(alike[row], alike[row] + alike.columns);
        for (double &value : pull) value = value >= 0 ? value : alpha * (std::exp(value) - 1);
        found.push_back(-(sum(pull.data(), pull.size()) / static_cast<double>(pull.size())));
    }
    return found;
}

}  // namespace

Chain energy(const Case &one) {
    const Floats scores = floats(one.got.at("scores"));
    return judged(one, {scores, floats(one.reference.at("scores")), places(one.got.at("trail")), one.indices(),
                        one.similarity(scores.size())});
}

Defects unspent(const Case &one) {
    const std::int64_t layer = whole_number(one.rule, "layer");
    return malformed(floats(one.got.at("scores")), places(one.got.at("trail")), one.indices(), layer);
}

Chain energy_rounds(const Case &one) {
    const Places origin = places(Case::line_of(one.got, "origin")), order = places(Case::line_of(one.got, "order"));
    const Floats through = tiers_of(floats(one.got.at("scores"))), worth = floats(Case::line_of(one.got, "worth"));
    const std::size_t patches = through.size();
    const Matrix products = square(one.quantities.at("products"), patches, "products");
    const Places merged = whole_numbers(one.rule, "merged");
    const double alpha = number(one.rule, "alpha");
    Places names = up_to(patches), root = names;
    Matrix mix(patches, patches);
    for (std::size_t at = 0; at < patches; ++at) mix[at][at] = 1;
    Floats size(patches, 1);
    std::vector<Chain> chains;
    std::int64_t from = 0;
    for (std::size_t turn = 0; turn < merged.size(); ++turn) {
        const auto rows = static_cast<std::int64_t>(names.size());
        const Floats scores = slice(worth, from, from + rows);
        if (scores.size() != names.size()) throw misfit("worth must hold ", from + rows, ", got ", worth.size());
        from += rows;
        const auto goes = [&](std::int64_t name) { return through[place(name, patches)] == static_cast<double>(turn); };
        Places stays, behind, trail;  // behind: their rows
        for (std::size_t at = 0; at < names.size(); ++at)
            if (!goes(names[at])) stays.push_back(names[at]), behind.push_back(static_cast<std::int64_t>(at));
        bool joins = static_cast<std::int64_t>(names.size() - stays.size()) == merged[turn];
        for (const auto name : names) {
            const std::int64_t into = goes(name) ? order[place(name, order.size())] : name;
            const auto found = std::lower_bound(stays.begin(), stays.end(), into);
            joins = joins && found != stays.end() && *found == into;
            trail.push_back(found - stays.begin());
        }
        if (!joins)
            return joined(chains, 0, 0, {line("round ", turn + 1, " must merge ", merged[turn],
                                              " tokens into others of it")});
        const Matrix alike = cosines(mix, names, names, products);
        if (const Defects defects = malformed(scores, trail, behind, static_cast<std::int64_t>(turn) + 1);
            !defects.empty())
            return joined(chains, 0, 0, defects);
        chains.push_back(judged(one, {scores, scored(alike, alpha), trail, behind, alike}));
        Matrix weights(stays.size(), patches);
        Floats sizes(stays.size(), 0);
        Places renamed = up_to(patches);
        for (std::size_t at = 0; at < names.size(); ++at) {
            const auto into = static_cast<std::size_t>(trail[at]), own = static_cast<std::size_t>(names[at]);
            for (std::size_t column = 0; column < patches; ++column)
                weights[into][column] += size[own] * mix[own][column];
            sizes[into] += size[own];
            renamed[own] = stays[into];
        }
        for (std::size_t at = 0; at < stays.size(); ++at) {
            const auto own = static_cast<std::size_t>(stays[at]);
            for (std::size_t column = 0; column < patches; ++column) mix[own][column] = weights[at][column] / sizes[at];
            size[own] = sizes[at];
        }
        root = taken(renamed, root);
        names = stays;
    }
    const Floats to_the_end(names.size(), static_cast<double>(merged.size()));
    Defects defects;
    if (names != one.indices() || taken(through, names) != to_the_end)
        defects = {"the kept patches are not what the rounds leave"};
    else if (taken(names, origin) != root)
        defects = {"origin is not where the rounds took each patch"};
    // (1 - E) / 2 of the first round
    const Floats own = parted(floats(one.got.at("scores"))), known = parted(floats(one.reference.at("scores")));
    Floats apart, energies;
    for (std::size_t at = 0; at < known.size(); ++at) {
        apart.push_back(std::abs(own[at] - known[at]));
        energies.push_back(std::abs(1 - 2 * known[at]));
    }
    const double error = 2 * higher(largest(apart) - TIER_ROUNDING, 0);
    return joined(chains, error, error / std::max(largest(energies), 1e-30), defects);
}

}  // namespace edgeprune::parity
