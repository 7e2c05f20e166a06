// `pairs`: of the rows at even places those most like one at an odd place join it. One step of ToMe.
//
// quantities   `alike` [even, odd], cosines of the rows' keys
// scores       1 - the highest cosine of a row at an even place; TAKES of one at an odd place
// decisions    a cut: the r even rows of the highest cosine merge; each of them joins the most similar odd row
//
// Errors are those of cosines, whatever they are beside the largest score. What merges are judged by leaves the graph
// as the scores: the error of a cosine is taken for the largest of theirs.
#include <algorithm>
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

constexpr double TAKES = 4;  // score of a row that others may join, above every 1 - cosine

}  // namespace

Chain pairs(const Case &one) {
    const Floats reference = floats(one.reference.at("scores")), got = floats(one.got.at("scores"));
    if (got.size() != reference.size()) throw misfit("scores must be ", reference.size(), ", got ", got.size());
    const std::size_t count = reference.size();
    Floats errors(count), noise(count), falling(count), cosines(count);
    for (std::size_t at = 0; at < count; ++at) {
        errors[at] = std::abs(got[at] - reference[at]);
        noise[at] = higher(errors[at], COSINE_NOISE), falling[at] = -reference[at];
        cosines[at] = 1 - reference[at];
    }
    const double error = largest(errors);
    const Places stays = one.indices(), trail = places(one.got.at("trail"));
    const Places even = every_other(up_to(count), 0), gone = without(even, stays);
    Chain chosen = cut(falling, gone, mask(count, even), noise, one.eps);
    chosen.sets = {worth_of_cut(cosines, gone, mask(count, even))};  // of the cosines themselves
    const View &given = one.quantities.at("alike");
    const std::size_t odd = count / 2;
    if (given.shape.size() != 2 || given.shape[0] != static_cast<std::int64_t>(even.size()) ||
        given.shape[1] != static_cast<std::int64_t>(odd))
        throw misfit("alike must be [", even.size(), ", ", odd, "], got ", shown(given.shape));
    const Floats all = floats(given);
    Matrix alike(gone.size(), odd);
    Places target;
    for (std::size_t row = 0; row < gone.size(); ++row) {
        const auto from = all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(gone[row] / 2) * odd);
        std::copy(from, from + static_cast<std::ptrdiff_t>(odd), alike[row]);
        const std::int64_t into = trail[place(gone[row], trail.size())];
        target.push_back(stays[place(into, stays.size())] / 2);
    }
    return joined({chosen, nearest(alike, target, 2 * largest({error, COSINE_NOISE}) + one.eps)}, error, error);
}

// A row at an odd place joins none, one at an even place the odd ones alone, the lowest scores first.
Defects unpaired(const Case &one) {
    const Floats scores = floats(one.got.at("scores"));
    const Places stays = one.indices(), trail = places(one.got.at("trail"));
    const std::int64_t layer = whole_number(one.rule, "layer");
    const auto is_odd = [](std::int64_t row) { return row % 2 != 0; };
    for (std::size_t at = 0; at < scores.size(); ++at)
        if (at % 2 ? scores[at] != TAKES : scores[at] >= TAKES)
            return {line("scores.", layer, " must be ", formatted("%g", TAKES), " at odd places, and below at even ones")};
    const Places gone = without(up_to(scores.size()), stays);
    if (std::any_of(gone.begin(), gone.end(), is_odd))
        return {line("a row at an odd place must go on behind layer ", layer)};
    for (const auto row : gone) {
        const std::int64_t into = trail[place(row, trail.size())];
        if (into < 0 || !is_odd(stays[place(into, stays.size())]))
            return {line("a row that does not go on behind layer ", layer, " must join one at an odd place")};
    }
    return lower_went_on(one);
}

}  // namespace edgeprune::parity
