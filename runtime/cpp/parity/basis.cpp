// `basis`, a form of `match`: the basis, each patch the furthest from those before it; a cut by what it leaves of a
// patch; among the kept another, of those that take others: every other patch joins the nearest of these. order[j] is
// the patch whose features stand at j: of the last ones the basis', by `products`.
#include <algorithm>
#include <cmath>
#include <utility>

#include "parity/match.hpp"

namespace edgeprune::parity {

namespace {

// The picks from `from` on, in raster order
Places behind(const Places &picks, std::int64_t from) { return sorted(slice(picks, from, std::int64_t{1} << 40)); }

// Of the solution of own X = given, by elimination with pivots, in the order of runtime/parity/match.py.
Matrix solved(Matrix own, Matrix given) {
    const std::size_t size = own.rows;
    for (std::size_t at = 0; at < size; ++at) {
        std::size_t best = at;
        for (std::size_t row = at + 1; row < size; ++row)
            if (std::abs(own[row][at]) > std::abs(own[best][at])) best = row;
        if (best != at) {
            std::swap_ranges(own[at], own[at] + size, own[best]);
            std::swap_ranges(given[at], given[at] + given.columns, given[best]);
        }
        for (std::size_t row = at + 1; row < size; ++row) {
            const double factor = own[row][at] / own[at][at];
            for (std::size_t column = at; column < size; ++column) own[row][column] -= factor * own[at][column];
            for (std::size_t column = 0; column < given.columns; ++column)
                given[row][column] -= factor * given[at][column];
        }
    }
    for (std::size_t at = size; at-- > 0;)
        for (std::size_t column = 0; column < given.columns; ++column) {
            double value = given[at][column];
            for (std::size_t other = at + 1; other < size; ++other) value -= own[at][other] * given[other][column];
            given[at][column] = value / own[at][at];
        }
    return given;
}

// Was each of the basis, but the first, the furthest from those before it?
Chain furthest(const Matrix &products, const Floats &squares, const Places &basis, double off) {
    Chain chain;
    Floats away(squares.size(), INFINITE);
    for (std::size_t turn = 1; turn < basis.size(); ++turn) {
        const std::size_t before = place(basis[turn - 1], squares.size()), pick = place(basis[turn], squares.size());
        double best = 0;
        for (std::size_t at = 0; at < squares.size(); ++at) {
            const double distance = squares[at] + squares[before] - 2 * products[before][at];
            away[at] = lower(away[at], distance < 0 ? 0 : distance);
            if (at != pick) best = higher(best, away[at]);
        }
        const double over = best - away[pick];
        chain.regret.push_back(over < 0 ? 0 : over), chain.margin.push_back(std::abs(over));
        chain.tolerance.push_back(2 * (4 * std::sqrt(best < 0 ? 0 : best) * off + 4 * off * off) +
                                  COSINE_NOISE * highest(squares));
    }
    return chain;
}

// How much of each of the basis stands in the rows: [count, N]
Matrix parts_of(const Matrix &products, const Places &basis, double ridge) {
    const std::size_t count = basis.size(), patches = products.columns;
    Matrix own(count, count), given(count, patches);
    for (std::size_t row = 0; row < count; ++row) {
        const double *line = products[place(basis[row], patches)];
        std::copy(line, line + patches, given[row]);
        for (std::size_t column = 0; column < count; ++column) own[row][column] = line[place(basis[column], patches)];
        own[row][row] += ridge;
    }
    return solved(std::move(own), std::move(given));
}

}  // namespace

Chain basis(const Case &one) {
    const Floats got = floats(one.got.at("scores"));
    const std::size_t patches = got.size();
    const Matrix products = square(one.quantities.at("products"), patches, "products");
    const Places order = places(Case::line_of(one.got, "order")), kept = one.indices(), picks = one.picks();
    const std::int64_t size = whole_number(one.rule, "basis"), first = static_cast<std::int64_t>(one.keep()) - size;
    const Places body = slice(picks, 0, first), last = behind(picks, first), own = taken(order, last);
    Floats squares(patches), length(patches);
    for (std::size_t at = 0; at < patches; ++at) {
        squares[at] = products[at][at], length[at] = std::sqrt(squares[at]);
    }
    std::vector<std::string> defects;
    if (!own.empty() && own[0] != 0) defects.push_back("the basis must begin with the first patch");
    const Places rest = without(up_to(order.size()), last);
    if (taken(order, rest) != rest)
        defects.push_back("other features than its own may stand at one of the last kept patches alone");
    // As exact as tokens, a row is off by so much; and so are those that it is explained by, as much as they do.
    const Chain chosen = furthest(products, squares, own, one.cosine_error() * largest(length));
    const Matrix parts = parts_of(products, own, number(one.rule, "ridge"));
    const Places theirs = behind(places(Case::line_of(one.reference, "picks")), first);
    const bool same = own == taken(places(Case::line_of(one.reference, "order")), theirs);
    Floats error = floats(one.reference.at("scores")), errors(patches), noise(patches), over(patches);
    const double most = highest(squares), longest = most < 1e-18 ? 1e-18 : most;
    for (std::size_t at = 0; at < patches; ++at) {
        double explained = 0, off = squares[at];
        for (std::size_t row = 0; row < own.size(); ++row) {
            const double *line = products[place(own[row], patches)];
            double mixed = 0;
            for (std::size_t other = 0; other < own.size(); ++other)
                mixed += line[place(own[other], patches)] * parts[other][at];
            explained += 2 * parts[row][at] * line[at] - parts[row][at] * mixed;
            off += parts[row][at] * parts[row][at] * squares[place(own[row], patches)];
        }
        if (!same) error[at] = clipped(squares[at] - explained, 0) / longest;
        off = one.cosine_error() * std::sqrt(off / longest);
        const double scale = clipped(2 * off * std::sqrt(clipped(error[at], 0)) + off * off, 1e-30) / one.bound;
        errors[at] = std::abs(got[at] - error[at]);
        noise[at] = errors[at] + COSINE_NOISE * COSINE_NOISE * (squares[at] / longest);  // of which nothing is left
        over[at] = errors[at] / scale;
    }
    Matrix alike(patches, patches);
    for (std::size_t row = 0; row < patches; ++row)
        for (std::size_t column = 0; column < patches; ++column)
            alike[row][column] = products[row][column] / (std::sqrt(clipped(squares[row], 1e-24)) *
                                                          std::sqrt(clipped(squares[column], 1e-24)));
    const Chain merges = joins(one, without(up_to(patches), kept), sorted(body), 0, alike, defects);
    return joined({chosen, cut(error, kept, all(patches), noise, one.eps),
                   cut(error, body, mask(patches, kept), noise, one.eps), merges},
                  largest(errors), largest(over), defects + out_of_order(one));
}

}  // namespace edgeprune::parity
