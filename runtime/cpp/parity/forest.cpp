// `forest`: of each frame the highest half, trees of these over the frames, and what stands lowest.
//
//     many     how many patches of its frame each one is like, cosines, `similarity`, from `like` on       forestprune
//              of `order` [2 N], its second half, less 1
//     half     the highest of `received` / many of each frame; `worth` is what the device received
//     tree     the patch at its root, the first half of `order`: that of the most alike, from `joins` on, of the
//              earlier ones near it by `place` [N, 3], frame, row and column in units of how far it may be; else itself
//     depth    of how many frames before there is a patch of that tree: no decision
//     goes     of the most alike pair of roots that are left the later one, again and again, at the cosine r
//     score    (1 - r) / 2 of a root, s - 2 depth of what is deeper, s - 2 frames of what is in no half
//
// A relative error of the rows turns what a patch received `times` as far, of itself: logits are cosines over a small
// number, taken so many times. Five decisions: of every patch how many are like it, the cut of every half, of every
// patch of a later half its tree, of every root but the last when it goes, and the cut of the others that fill up.
#include <algorithm>
#include <cmath>
#include <functional>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

constexpr double NO_COSINE = -1;
constexpr double NEARBY = 1 + 1e-3;  // of the distance that is allowed: it is one of few, and `place` is rounded
constexpr int BESIDE = 8;            // picks on either side that the error of one is taken of, as of `greedy`

// What the device says of its trees, and where the patches stand.
struct Forest {
    Places frame, tree, many;
    Mask inside;
    Matrix place, similarity;
    std::int64_t frames, size;

    std::size_t patches() const { return frame.size(); }
    std::size_t root(std::size_t patch) const { return static_cast<std::size_t>(tree[patch]); }
    bool alone(std::size_t patch) const { return root(patch) == patch; }
    bool near(std::size_t one, std::size_t other) const {
        return std::abs(place[one][1] - place[other][1]) <= NEARBY &&
               std::abs(place[one][2] - place[other][2]) <= NEARBY;
    }
    // Those of the half of a frame; or of those in front of it
    Places half(std::int64_t at, bool before) const {
        Places found;
        for (std::size_t patch = 0; patch < patches(); ++patch)
            if (inside[patch] && (before ? frame[patch] < at : frame[patch] == at))
                found.push_back(static_cast<std::int64_t>(patch));
        return found;
    }
};

Forest forest_of(const Case &one, std::size_t patches) {
    const View &place = one.quantities.at("place");
    if (place.shape != std::vector<std::int64_t>{static_cast<std::int64_t>(patches), 3} || patches == 0)
        throw misfit("place must be [", patches, ", 3], got ", shown(place.shape));
    Forest found;
    found.place = Matrix(patches, 3), found.place.values = floats(place);
    found.similarity = one.similarity(patches);
    found.frames = 0;
    for (std::size_t patch = 0; patch < patches; ++patch) {
        const double at = found.place[patch][0];
        if (!(at >= 0 && at < static_cast<double>(patches))) throw misfit("place must name a frame of each patch");
        found.frame.push_back(static_cast<std::int64_t>(at));
        found.frames = std::max(found.frames, found.frame.back() + 1);
    }
    found.size = static_cast<std::int64_t>(patches) / found.frames;
    for (std::int64_t at = 0; at < found.frames; ++at)
        if (std::count(found.frame.begin(), found.frame.end(), at) != found.size)
            throw misfit("place must have as many patches of each frame");
    return found;
}

// Is each patch like so many? Its cosines from the highest down must pass the threshold there.
Chain liked(const Case &one, const Forest &given) {
    const double like = number(one.rule, "like");
    Chain chain;
    for (std::size_t patch = 0; patch < given.patches(); ++patch) {
        Floats falling;
        for (std::size_t other = 0; other < given.patches(); ++other)
            if (given.frame[other] == given.frame[patch]) falling.push_back(given.similarity[patch][other]);
        std::sort(falling.begin(), falling.end(), std::greater<double>());
        const auto count = static_cast<std::size_t>(given.many[patch]);
        const double above = falling[count - 1] - like;
        const double below = like - (count < falling.size() ? falling[count] : NO_COSINE);
        const double least = lower(above, below);
        chain.regret.push_back(higher(-least, 0)), chain.margin.push_back(std::abs(least));
        chain.tolerance.push_back(2 * one.cosine_error());
    }
    return chain;
}

// Is each patch of the frame's half of the tree of the earlier one that is most like it, or of its own?
Chain joined_trees(const Case &one, std::int64_t at, const Forest &given) {
    const Places now = given.half(at, false), before = given.half(at, true);
    const double least = number(one.rule, "joins");
    Chain chain;
    Floats best, chosen, mean;
    for (const auto each : now) {
        const auto patch = static_cast<std::size_t>(each);
        double mine = NO_COSINE, other = NO_COSINE;
        Floats near(before.size(), 0.0);
        std::int64_t count = 0;
        for (std::size_t index = 0; index < before.size(); ++index) {
            const auto earlier = static_cast<std::size_t>(before[index]);
            if (!given.near(patch, earlier)) continue;
            near[index] = given.similarity[patch][earlier], ++count;
            double &side = given.tree[earlier] == given.tree[patch] ? mine : other;
            side = higher(side, near[index]);
        }
        if (given.alone(patch)) mine = least;
        else other = higher(other, least);
        const double over = other - mine;
        chain.regret.push_back(higher(over, 0)), chain.margin.push_back(std::abs(over));
        chain.tolerance.push_back(2 * one.cosine_error() + one.eps);
        best.push_back(higher(mine, other)), chosen.push_back(mine);
        mean.push_back((least + sum(near.data(), near.size())) / static_cast<double>(1 + count));
    }
    chain.sets = {worth(best, chosen, mean)};
    return chain;
}

struct Gone {
    Chain chain;
    Floats apart;  // how far off the cosine was that the device says
};

// Is each root, but for the last, the later one of the most alike pair of those that are left when it goes?
Gone gone(const Case &one, const Forest &given) {
    Places roots;
    for (std::size_t patch = 0; patch < given.patches(); ++patch)
        if (given.inside[patch] && given.alone(patch)) roots.push_back(static_cast<std::int64_t>(patch));
    Floats rising = taken(parted(floats(one.got.at("scores"))), roots);
    for (double &value : rising) value = -(1 - 2 * value);
    const Places falling = ranked(rising), order = taken(roots, falling);
    const Floats said = taken(rising, falling);
    const std::size_t count = order.size();
    Floats mine(count, NO_COSINE), turned(count, NO_COSINE), every;
    for (std::size_t row = 0; row < count; ++row)
        for (std::size_t column = row + 1; column < count; ++column) {
            every.push_back(given.similarity[static_cast<std::size_t>(order[row])]
                                            [static_cast<std::size_t>(order[column])]);
            double &side = order[column] > order[row] ? turned[row] : mine[row];
            side = higher(side, every.back());
        }
    Gone found;
    for (std::size_t at = 0; at < count; ++at) found.apart.push_back(std::abs(-said[at] - mine[at]));
    if (count < 2) return found;
    Floats behind(count, NO_COSINE), best, chosen(mine.begin(), mine.end() - 1);
    for (std::size_t at = count - 1; at-- > 0;)
        behind[at] = higher(behind[at + 1], higher(mine[at + 1], turned[at + 1]));
    for (std::size_t at = 0; at + 1 < count; ++at) {
        const double other = higher(turned[at], behind[at]), over = other - mine[at];
        const auto middle = static_cast<std::int64_t>(at);
        const Floats near = slice(found.apart, std::max<std::int64_t>(0, middle - BESIDE), middle + BESIDE + 1);
        best.push_back(higher(mine[at], other));
        found.chain.regret.push_back(higher(over, 0)), found.chain.margin.push_back(std::abs(over));
        found.chain.tolerance.push_back(2 * highest(near) + 2 * COSINE_NOISE + one.eps * std::abs(best.back()));
    }
    found.chain.sets = {worth(best, chosen, Floats(best.size(), mean_of(every)))};
    return found;
}

// What no device does whose scores are of its own trees.
Defects misplaced(const Case &one, const Forest &given, const Floats &value) {
    const std::size_t patches = given.patches();
    const Floats scores = floats(one.got.at("scores")), tiers = tiers_of(scores);
    const double top = highest(value), slack = 4 * TIER_ROUNDING * static_cast<double>(given.frames);
    Places depth(patches, 0), tallest(patches, -1);
    bool strayed = false, mistaken = false, turned = false, unlike = false;
    for (std::int64_t at = 0; at < given.frames; ++at) {
        const Places now = given.half(at, false);
        for (const auto each : now) {
            const auto patch = static_cast<std::size_t>(each);
            depth[patch] = tallest[given.root(patch)] + 1;
        }
        for (const auto each : now) {
            const auto patch = static_cast<std::size_t>(each);
            tallest[given.root(patch)] = depth[patch];
        }
    }
    for (std::size_t patch = 0; patch < patches; ++patch) {
        const bool inside = given.inside[patch] != 0;
        const double below = 2 * static_cast<double>(depth[patch]);
        const double in_order = 1 - static_cast<double>(patch) / static_cast<double>(patches) - below;
        const double part = value[patch] / (top != 0 ? top : 1.0) - 2 * static_cast<double>(given.frames);
        strayed = strayed || (!given.alone(patch) && (!inside || given.frame[patch] == 0));
        mistaken = mistaken || (inside && tiers[patch] != -static_cast<double>(depth[patch]));
        turned = turned || (inside && depth[patch] > 0 && std::abs(scores[patch] - in_order) > slack);
        unlike = unlike || (!inside && std::abs(scores[patch] - part) > slack);
    }
    Defects defects;
    if (strayed) defects.push_back("a patch of the first frame, or of no half, must be a tree of its own");
    if (mistaken) defects.push_back("the scores must mark the depth of each patch in its tree");
    if (turned) defects.push_back("of one depth the scores must fall from the first patch to the last");
    if (unlike) defects.push_back("the scores of what is in no half must be its part of the highest one's worth");
    return defects;
}

}  // namespace

Chain forest(const Case &one) {
    const Floats tiers = tiers_of(floats(one.got.at("scores")));
    const std::size_t patches = tiers.size();
    Forest given = forest_of(one, patches);
    const Places order = places(Case::line_of(one.got, "order"));
    const auto middle = static_cast<std::int64_t>(patches);
    given.tree = slice(order, 0, middle), given.many = slice(order, middle, static_cast<std::int64_t>(order.size()));
    for (auto &count : given.many) ++count;
    const auto fits = [&](auto count) { return count >= 1 && count <= given.size; };
    if (order.size() != 2 * patches || !std::all_of(given.many.begin(), given.many.end(), fits))
        return joined({}, 0, 0, {line("order must have a tree and up to ", given.size, " like it of each patch")});
    given.inside = Mask(patches);
    for (std::size_t patch = 0; patch < patches; ++patch)
        given.inside[patch] = tiers[patch] > -static_cast<double>(given.frames);
    const double share = std::nearbyint(number(one.rule, "share") * static_cast<double>(given.size));
    const auto half = static_cast<std::int64_t>(higher(1, share));
    for (std::int64_t at = 0; at < given.frames; ++at)
        if (static_cast<std::int64_t>(given.half(at, false).size()) != half)
            return joined({}, 0, 0, {line("the scores must mark ", half, " patches of each frame")});
    const Floats received = one.of_patches("received", patches), got = floats(Case::line_of(one.got, "worth"));
    if (got.size() != patches) throw misfit("worth must be [", patches, "]");
    const double turned = 1 + number(one.rule, "times");
    Floats off(patches), errors(patches), value(patches), own(patches), used;
    for (std::size_t patch = 0; patch < patches; ++patch) {
        const auto many = static_cast<double>(given.many[patch]);
        off[patch] = std::abs(got[patch] - received[patch]), errors[patch] = off[patch] / many;
        value[patch] = received[patch] / many, own[patch] = got[patch] / many;
        const double allowed = received[patch] * one.cosine_error() * turned;
        used.push_back(one.bound * off[patch] / (allowed > 0 ? allowed : 1));
    }
    std::vector<Chain> halves, chains{liked(one, given)};
    for (std::int64_t at = 0; at < given.frames; ++at) {
        Mask here(patches);
        for (std::size_t patch = 0; patch < patches; ++patch) here[patch] = given.frame[patch] == at;
        halves.push_back(cut(value, given.half(at, false), here, errors, one.eps));
    }
    chains.push_back(joined(halves));
    chains.back().sets = {together(chains.back().sets)};
    for (std::int64_t at = 1; at < given.frames; ++at) chains.push_back(joined_trees(one, at, given));
    Gone roots = gone(one, given);
    for (const double apart : roots.apart) used.push_back(one.bound * apart / one.cosine_error());
    chains.push_back(roots.chain);
    chains.push_back(cut(value, those(one.indices(), given.inside, false), !given.inside, errors, one.eps));
    return joined(chains, largest({largest(off), largest(roots.apart)}), largest(used),
                  misplaced(one, given, own) + out_of_order(one));
}

}  // namespace edgeprune::parity
