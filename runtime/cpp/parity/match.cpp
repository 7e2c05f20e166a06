// `match`: patches that are not kept go to the kept one that is most like them. `origin` says to which.
//
//     nearest  a cut by the scores, what main directions leave, which an error turns `turn` times as far; every other
//              patch joins the kept one of the highest `similarity`                                               lrcp
//     stands   a cut (`dominant`); of the rest, every step-th stands for itself, and the others join the nearest
//              of these                                                                                       visionzip
//     windows  windows.cpp                                                                               aot, desap
//     basis    basis.cpp                                                                                           apet
//     recycled recycled.cpp                                                                                    vflowopt
//     rest     a cut of all K, and one of all picks but the last, whose token every other patch is part of     trim
//     rounds   rounds.cpp                                                                              aim, tome_behind
//     energy   energy.cpp, one step of `energy` after the other                                          pitome_behind
//
// origin[j] is the place in `indices` of the token that patch j went to, -1 for none. What merges are judged by does
// not leave the graph: the error of a cosine is taken for twice that of the tokens, or of the scores if that is more.
#include "parity/match.hpp"

#include <algorithm>
#include <cmath>

namespace edgeprune::parity {

namespace {

// Of the farthest that directions may turn, what is allowed in a row: unharmed devices use a 20th of that
constexpr double TURNED = 1.0 / 8;

Chain nearest_kept(const Case &one) {
    const Floats reference = floats(one.reference.at("scores")), got = floats(one.got.at("scores"));
    const std::size_t patches = reference.size();
    // An error of e in X_j, which subtractions left little of, is one of 2 e sqrt(score_j) in the score. The mean is
    // made of all rows, and as exact as the longest of them; of the turn of the directions a row meets a part.
    const Floats lengths = one.of_patches("length", patches), turns = floats(Case::line_of(one.quantities, "turn"));
    if (turns.empty()) throw misfit("turn must be [1]");
    const double longest = highest(lengths);
    Floats errors(patches), apart(patches), over(patches);
    for (std::size_t at = 0; at < patches; ++at) {
        const double off = one.cosine_error() * (longest + TURNED * turns[0] * lengths[at]);
        const double scale = clipped(2 * off * std::sqrt(clipped(reference[at], 0)) + off * off, 1e-30) / one.bound;
        const double noise = COSINE_NOISE * lengths[at];
        apart[at] = std::abs(got[at] - reference[at]);
        errors[at] = apart[at] + noise * noise;  // of which nothing is left
        over[at] = apart[at] / scale;
    }
    const Places kept = one.indices();
    std::vector<std::string> defects;
    const Chain chosen = cut(reference, kept, all(patches), errors, one.eps);
    const Chain merges = joins(one, without(up_to(patches), kept), kept, 0, one.similarity(patches), defects);
    return joined({chosen, merges}, largest(apart), largest(over), defects + out_of_order(one));
}

Chain stands(const Case &one) {
    const std::int64_t dominant = whole_number(one.rule, "dominant"), contextual = whole_number(one.rule, "contextual");
    const Floats tiers = tiers_of(floats(one.got.at("scores")));
    const std::size_t patches = tiers.size();
    const auto [reference, error, relative, errors] = compared(one);
    Places lead, marked, every_step;
    for (const auto patch : up_to(patches)) {
        const double tier = tiers[static_cast<std::size_t>(patch)];
        if (tier == 2) lead.push_back(patch);
        if (tier == 1) marked.push_back(patch);
    }
    const Places rest = without(up_to(patches), lead);
    const std::size_t wanted = contextual > 1 ? static_cast<std::size_t>(contextual) : 1;
    const std::size_t step = std::max<std::size_t>(1, rest.size() / wanted);
    for (std::size_t at = 0; at < rest.size(); at += step) every_step.push_back(rest[at]);
    const Places own = slice(every_step, 0, contextual);
    std::vector<std::string> defects;
    if (static_cast<std::int64_t>(lead.size()) != dominant || marked != own)
        defects.push_back(line("the scores must mark ", dominant, " dominant patches and every ", step,
                               "-th of the others"));
    else if (sorted(joined(lead, own)) != one.indices())
        defects.push_back("the kept patches are not those that the scores mark");
    std::vector<Chain> chains{cut(reference, lead, all(patches), errors, one.eps)};
    if (contextual != 0 && defects.empty())
        chains.push_back(joins(one, without(rest, own), own, relative, one.similarity(patches), defects));
    return joined(chains, error, relative, defects + out_of_order(one));
}

Chain rest(const Case &one) {
    const Floats reference = floats(one.reference.at("scores")), got = floats(one.got.at("scores"));
    const Places kept = one.indices(), picks = one.picks();
    if (picks.empty()) throw misfit("index -1 is out of bounds for axis 0 with size 0");
    Floats errors(reference.size());
    for (std::size_t at = 0; at < errors.size(); ++at) errors[at] = std::abs(got[at] - reference[at]);
    const Places first(picks.begin(), picks.end() - 1);
    Places token(reference.size(), std::lower_bound(kept.begin(), kept.end(), picks.back()) - kept.begin());
    for (std::size_t at = 0; at < kept.size(); ++at)
        token[place(kept[at], token.size())] = static_cast<std::int64_t>(at);
    std::vector<std::string> defects;
    if (token != places(Case::line_of(one.got, "origin")))
        defects.push_back("what is not kept must go to the last pick, and a kept patch must be of its own token");
    return joined({topk(one), cut(reference, first, all(reference.size()), errors, one.eps)}, 0, 0, defects);
}

}  // namespace

Chain match(const Case &one) {
    const std::string form = text(one.rule, "form");
    if (form == "nearest") return nearest_kept(one);
    if (form == "stands") return stands(one);
    if (form == "windows") return windows(one);
    if (form == "basis") return basis(one);
    if (form == "recycled") return recycled(one);
    if (form == "rest") return rest(one);
    if (form == "rounds") return rounds(one);
    if (form == "energy") return energy_rounds(one);
    throw misfit("'", form, "'");
}

Chain joins(const Case &one, const Places &others, const Places &targets, double relative, const Matrix &similarity,
            std::vector<std::string> &defects) {
    const Places origin = places(Case::line_of(one.got, "origin")), kept = one.indices();
    if (taken(origin, kept) != up_to(kept.size())) defects.push_back("a kept patch must be of its own token");
    if (others.empty()) return {};
    Places target;  // which of the targets each went to
    for (const auto patch : others) {
        const std::int64_t token = origin[place(patch, origin.size())], went = token >= 0 ? kept[place(token, kept.size())] : -1;
        const auto found = std::lower_bound(targets.begin(), targets.end(), went);
        if (found == targets.end() || *found != went) {
            defects.push_back("a patch went to a token that takes none");
            return {};
        }
        target.push_back(found - targets.begin());
    }
    Matrix alike(others.size(), targets.size());
    for (std::size_t at = 0; at < others.size(); ++at) {
        const double *row = similarity[place(others[at], similarity.rows)];
        for (std::size_t column = 0; column < targets.size(); ++column)
            alike[at][column] = row[place(targets[column], similarity.columns)];
    }
    return nearest(alike, target, 2 * cosine_error(one, relative) + one.eps);
}

double cosine_error(const Case &one, double relative) { return 2 * largest({one.unseen, relative}) + COSINE_NOISE; }

}  // namespace edgeprune::parity
