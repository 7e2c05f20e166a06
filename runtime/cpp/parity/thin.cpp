// `thin`: rounds of removal, and each order that decides what is compared next.
//
//     order   as the device hands it out, [L]: all patches by falling attention, then for each round those at even
//             places by falling value, of which the first are dropped                                       vispruner
//     value   the highest cosine with any at an odd place: `similarity`, given the device's own order so far
//     worth   what each place of `order` was sorted by, as the device has it
//
// A sort is as many decisions as it has places: at each, the highest of what is not placed yet.
#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

// Each place of a falling order as one decision.
Chain in_order(const Floats &value, const Places &sequence, const Floats &errors) {
    const Floats here = taken(value, sequence), apart = taken(errors, sequence);
    Floats highest_left = here;
    for (std::size_t at = here.size(); at-- > 1;)
        highest_left[at - 1] = higher(highest_left[at - 1], highest_left[at]);
    Chain chain;
    for (std::size_t at = 0; at < here.size(); ++at) {
        const auto middle = static_cast<std::int64_t>(at);
        const double after = at + 1 < here.size() ? highest_left[at + 1] : -INFINITE;
        chain.regret.push_back(highest_left[at] - here[at]);
        const auto near = slice(apart, std::max<std::int64_t>(0, middle - NEAR), middle + NEAR + 1);
        chain.tolerance.push_back(2 * highest(near));
        chain.margin.push_back(std::abs(here[at] - after));
    }
    return chain;
}

template <class T>
std::vector<T> ends_from(const std::vector<T> &values, std::int64_t first) {
    return slice(values, first, static_cast<std::int64_t>(values.size()));
}

Floats plus(Floats values, double more) {
    for (double &value : values) value += more;
    return values;
}

}  // namespace

Chain thin(const Case &one) {
    const std::int64_t important = whole_number(one.rule, "important");
    const Places dropped = whole_numbers(one.rule, "dropped");
    auto [reference, error, relative, errors] = compared(one);
    const std::size_t patches = reference.size();
    Places log = places(Case::line_of(one.got, "order"));
    Floats worth = floats(Case::line_of(one.got, "worth"));
    const auto all_patches = static_cast<std::int64_t>(patches);
    const Places order = slice(log, 0, all_patches);
    log = ends_from(log, all_patches), worth = ends_from(worth, all_patches);
    if (sorted(order) != up_to(patches))
        return joined({}, error, relative, {"order does not begin with every patch once"});
    const Matrix similarity = one.similarity(patches);
    const Places first = slice(order, 0, important);
    std::vector<Chain> chains{cut(reference, first, all(patches), errors, one.eps)};
    Places rest = ends_from(order, important);
    // Of the rest, too, the order by attention decides which are compared.
    chains.push_back(in_order(reference, rest, plus(errors, one.eps * highest(reference) / 2)));
    for (std::size_t round = 0; round < dropped.size(); ++round) {
        const Places even = every_other(rest, 0), odd = every_other(rest, 1);
        const auto size = static_cast<std::int64_t>(even.size());
        const Places sequence = slice(log, 0, size);
        const Floats reported = slice(worth, 0, size);
        log = ends_from(log, size), worth = ends_from(worth, size);
        if (sorted(sequence) != sorted(even))
            return joined({}, error, relative,
                          {line("order of round ", round + 1, " holds other patches than stand at even places")});
        if (reported.size() != sequence.size()) throw misfit("worth is shorter than order");
        if (odd.empty()) throw misfit("round ", round + 1, " has nothing to compare with");
        Floats value(patches, -INFINITE), apart(patches, 0);
        for (const auto patch : even) {
            Floats alike;
            for (const auto other : odd) alike.push_back(similarity[place(patch, patches)][place(other, patches)]);
            value[place(patch, patches)] = highest(alike);
        }
        for (std::size_t at = 0; at < sequence.size(); ++at) {
            const std::size_t patch = place(sequence[at], patches);
            apart[patch] = std::abs(reported[at] - value[patch]);
        }
        const double most = largest(apart);
        relative = largest({relative, one.bound * most / one.cosine_error()}), error = largest({error, most});
        const Floats off = plus(apart, COSINE_NOISE);
        chains.push_back(cut(value, slice(sequence, 0, dropped[round]), mask(patches, even), off, one.eps));
        const Places left = ends_from(sequence, dropped[round]);
        if (round + 1 < dropped.size())  // the last round's order decides nothing
            chains.push_back(in_order(value, left, off));
        rest = joined(left, odd);
    }
    Floats tiers(patches, 0);
    for (const auto patch : first) tiers[place(patch, patches)] = 2;
    for (const auto patch : rest) tiers[place(patch, patches)] = 1;
    std::vector<std::string> defects;
    if (joined(first, rest) != one.picks())
        defects.push_back("the picks are not what the rounds leave, in their order");
    if (tiers != tiers_of(floats(one.got.at("scores"))))
        defects.push_back("the scores must mark the important patches and those that the rounds leave");
    return joined(chains, error, relative, defects + out_of_order(one, 0, important));
}

}  // namespace edgeprune::parity
