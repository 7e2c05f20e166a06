// `topk`: one cut, the K highest of N scores. And `fixed`: the same of every image, nothing to decide.
//
// quantities   the scores themselves, which leave the graph; `shares`: they are means of a softmax, so that each is as
//              exact as the largest, and on a peaked map what decides is far below it
#include <cmath>

#include "parity/rules.hpp"

namespace edgeprune::parity {

Chain topk(const Case &one) {
    const Floats reference = floats(one.reference.at("scores"));
    auto [error, relative, errors] = measured(floats(one.got.at("scores")), reference);
    if (said(one.rule, "shares")) relative = largest({relative, of_shares(errors, reference)});
    const Chain chain = cut(reference, one.indices(), all(reference.size()), errors, one.eps);
    return joined({chain}, error, relative, out_of_order(one));
}

// What a step inside the encoder never does that drops rows: the K highest go on, each for itself, the others are gone.
Defects undropped(const Case &one) {
    const Places trail = places(one.got.at("trail")), stays = one.indices();
    Places wanted(trail.size(), -1);
    for (std::size_t at = 0; at < stays.size(); ++at)
        wanted[place(stays[at], wanted.size())] = static_cast<std::int64_t>(at);
    if (trail != wanted)
        return {line("a row that does not go on behind layer ", whole_number(one.rule, "layer"),
                     " must be gone, and one that does go on alone")};
    return lower_went_on(one);
}

Defects lower_went_on(const Case &one) {
    const Floats scores = floats(one.got.at("scores"));
    const Places stays = one.indices(), gone = without(up_to(scores.size()), stays);
    if (gone.empty() || !(highest(taken(scores, gone)) > lowest(taken(scores, stays)))) return {};
    return {line("the rows that go on behind layer ", whole_number(one.rule, "layer"),
                 " must be those of the highest scores; they are not")};
}

Chain fixed(const Case &one) {
    const Measured scores = measured(floats(one.got.at("scores")), floats(one.reference.at("scores")));
    std::vector<std::string> defects;
    for (const char *name : {"indices", "picks"}) {
        const View *wanted = one.reference.find(name);
        if (wanted != nullptr && !equal(one.got.at(name), *wanted))
            defects = {"the kept patches are not the fixed ones"};
    }
    return joined({}, scores.error, scores.relative, defects);
}

Measured measured(const Floats &got, const Floats &reference) {
    if (got.size() != reference.size()) throw misfit("scores must be ", reference.size(), ", got ", got.size());
    Floats errors(got.size()), sizes(got.size());
    for (std::size_t at = 0; at < got.size(); ++at) {
        errors[at] = std::abs(got[at] - reference[at]);
        sizes[at] = std::abs(reference[at]);
    }
    const double error = largest(errors), scale = largest(sizes);
    return {error, scale != 0 ? error / scale : error != 0 ? INFINITE : 0.0, errors};
}

double of_shares(const Floats &errors, const Floats &reference) {
    Floats sizes(reference.size()), relative(reference.size());
    for (std::size_t at = 0; at < sizes.size(); ++at) sizes[at] = std::abs(reference[at]);
    const double most = largest(sizes);
    for (std::size_t at = 0; at < sizes.size(); ++at) {
        const double scale = 4 * sizes[at] + 1e-2 * most;
        relative[at] = errors[at] / (scale > 0 ? scale : 1);
    }
    return largest(relative);
}

}  // namespace edgeprune::parity
