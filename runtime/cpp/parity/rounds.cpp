// The form `rounds` of `match`: tokens at even places join the nearest at an odd place, the r most alike of them, round
// by round; each counts once, or `by_size` as often as it stands for patches. order[j] is the patch whose token patch j
// joined.                                                                                             aim, tome_behind
//
// A mixture of features has the inner products that its members have, so that `products` serve every round. numpy
// multiplies these matrices by the kernels of its BLAS: from the second round on cosines may differ in the last bits.
#include <algorithm>
#include <cmath>

#include "parity/match.hpp"

namespace edgeprune::parity {

namespace {

// Of what each token is made: a row of weights for each patch.
Floats lengths_of(const Matrix &mix, const Places &names, const Matrix &products) {
    Floats lengths;
    for (const auto name : names) {
        const double *row = mix[static_cast<std::size_t>(name)];
        double total = 0;
        for (std::size_t at = 0; at < mix.columns; ++at) {
            if (row[at] == 0) continue;
            double part = 0;
            const double *product = products[at];
            for (std::size_t other = 0; other < mix.columns; ++other) part += row[at] * product[other] * row[other];
            total += part;
        }
        lengths.push_back(std::sqrt(clipped(total, 1e-24)));
    }
    return lengths;
}

}  // namespace

Matrix cosines(const Matrix &mix, const Places &left, const Places &right, const Matrix &products) {
    const Floats high = lengths_of(mix, left, products), wide = lengths_of(mix, right, products);
    Matrix found(left.size(), right.size());
    Floats mixed(mix.columns);
    for (std::size_t a = 0; a < left.size(); ++a) {
        std::fill(mixed.begin(), mixed.end(), 0.0);
        const double *row = mix[static_cast<std::size_t>(left[a])];
        for (std::size_t at = 0; at < mix.columns; ++at) {
            if (row[at] == 0) continue;
            for (std::size_t other = 0; other < mix.columns; ++other) mixed[other] += row[at] * products[at][other];
        }
        for (std::size_t b = 0; b < right.size(); ++b) {
            const double *target = mix[static_cast<std::size_t>(right[b])];
            double total = 0;
            for (std::size_t at = 0; at < mix.columns; ++at) total += mixed[at] * target[at];
            found[a][b] = total / (high[a] * wide[b]);
        }
    }
    return found;
}

namespace {

struct Replay {
    Matrix mix;     // what each token is made of
    Floats size;    // how many patches it stands for
    Places names;   // the tokens of this round
    Places root;    // whose token each patch is by now
    std::vector<Chain> chains;
    std::string defect;  // empty when the round went through
};

void replay(const Case &one, Replay &so_far, std::size_t turn, std::int64_t wanted, const Floats &through,
            const Places &order, const Matrix &products, double noise) {
    const Places a = every_other(so_far.names, 0), b = every_other(so_far.names, 1);
    const auto goes = [&](std::int64_t name) {
        return through[static_cast<std::size_t>(name)] == static_cast<double>(turn);
    };
    Places gone, alone;
    for (const auto name : a) (goes(name) ? gone : alone).push_back(name);
    if (static_cast<std::int64_t>(gone.size()) != wanted || std::any_of(b.begin(), b.end(), goes)) {
        so_far.defect = line("round ", turn + 1, " must merge ", wanted, " of the tokens at even places");
        return;
    }
    const std::size_t patches = through.size();
    const Matrix alike = cosines(so_far.mix, a, b, products);
    Floats best(patches, 0);
    for (std::size_t at = 0; at < a.size(); ++at)
        best[static_cast<std::size_t>(a[at])] = highest(Floats(alike[at], alike[at] + alike.columns));
    so_far.chains.push_back(cut(best, gone, mask(patches, a), noise, one.eps));
    Places into;  // which of b each goes to
    for (const auto name : gone) {
        const auto found = std::find(b.begin(), b.end(), order[place(name, order.size())]);
        if (found == b.end()) {
            so_far.defect = "a patch went to a token that none of its round became";
            return;
        }
        into.push_back(found - b.begin());
    }
    Places renamed = up_to(patches);
    Matrix merging(gone.size(), b.size());
    for (std::size_t at = 0, row = 0; row < a.size(); ++row) {
        if (!goes(a[row])) continue;
        renamed[static_cast<std::size_t>(a[row])] = b[static_cast<std::size_t>(into[at])];
        std::copy(alike[row], alike[row] + alike.columns, merging[at]);
        ++at;
    }
    so_far.chains.push_back(nearest(merging, into, 2 * noise + one.eps));
    so_far.root = taken(renamed, so_far.root);
    const bool by_size = said(one.rule, "by_size");
    const auto share = [&](std::int64_t name) { return by_size ? so_far.size[static_cast<std::size_t>(name)] : 1.0; };
    Floats shares, more(b.size(), 0);
    for (const auto name : b) {
        double *row = so_far.mix[static_cast<std::size_t>(name)];
        std::for_each(row, row + patches, [&](double &weight) { weight *= share(name); });
        shares.push_back(share(name));
    }
    for (std::size_t at = 0; at < gone.size(); ++at) {
        const auto to = static_cast<std::size_t>(into[at]);
        double *target = so_far.mix[static_cast<std::size_t>(b[to])];
        const double *row = so_far.mix[static_cast<std::size_t>(gone[at])];
        const double times = share(gone[at]);
        std::transform(target, target + patches, row, target,
                       [&](double left, double right) { return left + right * times; });
        shares[to] += times;
        more[to] += so_far.size[static_cast<std::size_t>(gone[at])];
    }
    for (std::size_t at = 0; at < b.size(); ++at) {
        double *row = so_far.mix[static_cast<std::size_t>(b[at])];
        std::for_each(row, row + patches, [&](double &weight) { weight /= shares[at]; });
        so_far.size[static_cast<std::size_t>(b[at])] += more[at];
    }
    so_far.names = joined(taken(alone, ranked(taken(best, alone))), b);
}

}  // namespace

Chain rounds(const Case &one) {
    const Places origin = places(Case::line_of(one.got, "origin")), order = places(Case::line_of(one.got, "order"));
    const Floats scores = floats(one.got.at("scores")), through = tiers_of(scores);
    const std::size_t patches = through.size();
    const double error = measured(parted(scores), parted(floats(one.reference.at("scores")))).error;
    const double noise = cosine_error(one, 2 * error);  // a score has half of a cosine
    const Matrix products = square(one.quantities.at("products"), patches, "products");
    const Places merged = whole_numbers(one.rule, "merged");
    Replay so_far{Matrix(patches, patches), Floats(patches, 1), up_to(patches), up_to(patches), {}, ""};
    for (std::size_t at = 0; at < patches; ++at) so_far.mix[at][at] = 1;
    for (std::size_t turn = 0; turn < merged.size() && so_far.defect.empty(); ++turn)
        replay(one, so_far, turn, merged[turn], through, order, products, noise);
    std::vector<std::string> defects;
    const Places kept = sorted(so_far.names);
    const Floats to_the_end(kept.size(), static_cast<double>(merged.size()));
    if (!so_far.defect.empty()) {
        defects = {so_far.defect};
    } else if (kept != one.indices() || taken(through, kept) != to_the_end) {
        defects = {"the kept patches are not what the rounds leave"};
    } else if (taken(kept, origin) != so_far.root) {
        defects = {"origin is not where the rounds took each patch"};
    }
    return joined(so_far.chains, error, 2 * error, defects);
}

}  // namespace edgeprune::parity
