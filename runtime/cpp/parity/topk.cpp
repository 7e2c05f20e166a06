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
