// `groups`: of each group those that stand, whom none before them is alike, and then the others.
//
//     order    the group that each patch is of: the strongest of its `directions` [N, G]; worth: how strong    prunesid
//              that is. A relative error of the features turns a direction `turn` [G] times as far, and float32 alone
//              by as much as `rounding` [G]
//     stands   a patch whose cosine, `similarity`, with no other that stands in its group is above the `threshold`; the
//              others each have one that stands, and comes first by s, whom they are more alike than that
//     share    what the rule makes of how many there are in each group and how many stand, by `most`: no decision
//     then     the `share` highest of each group, those that stand first
//     score    s + 4 of a kept patch, + 2 of one that stands
//
// Three decisions: of every patch its group, and whether it stands, and of every kept one the cut of its group.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "parity/rules.hpp"

namespace edgeprune::parity {

namespace {

constexpr double MORE = 4;  // than such errors turn directions that are drawn, those of a device may
constexpr double NO_COSINE = -1;

struct Grouped {
    Chain chain;
    double apart = 0, turned = 0;  // the largest error of `worth`, and over what it may be
};

Matrix directions_of(const Case &one, std::size_t patches) {
    const View &value = one.quantities.at("directions");
    if (value.shape.size() != 2 || value.shape[0] != static_cast<std::int64_t>(patches) || value.shape[1] < 1)
        throw misfit("directions must be [", patches, ", G], got ", shown(value.shape));
    Matrix full(patches, static_cast<std::size_t>(value.shape[1]));
    full.values = floats(value);
    return full;
}

// Is each patch of the group of its strongest direction?
Grouped grouped(const Case &one, const Places &order, const Matrix &directions) {
    const std::size_t patches = directions.rows, count = directions.columns;
    const Floats got = floats(Case::line_of(one.got, "worth"));
    if (got.size() != patches) throw misfit("worth must be [", patches, "]");
    const Floats turn = one.of_patches("turn", count), rounding = one.of_patches("rounding", count);
    Floats own(patches), errors(patches), top(patches), mean(patches), near(count), used(patches);
    std::vector<std::size_t> best(patches);
    for (std::size_t at = 0; at < count; ++at)
        near[at] = largest({one.cosine_error() * turn[at] + rounding[at]});
    Grouped found;
    for (std::size_t at = 0; at < patches; ++at) {
        const Floats line(directions[at], directions[at] + count);
        const auto group = static_cast<std::size_t>(order[at]);
        own[at] = line[group], mean[at] = mean_of(line), errors[at] = std::abs(got[at] - own[at]);
        best[at] = static_cast<std::size_t>(std::max_element(line.begin(), line.end()) - line.begin());
        double highest_other = -INFINITE;
        for (std::size_t other = 0; other < count; ++other)
            if (other != group) highest_other = higher(highest_other, line[other]);
        top[at] = higher(highest_other, own[at]);
        found.chain.regret.push_back(higher(highest_other - own[at], 0));
        found.chain.margin.push_back(std::abs(highest_other - own[at]));
        near[group] = higher(near[group], errors[at]);
        const double allowed = one.cosine_error() * MORE * turn[group] + rounding[group];
        used[at] = one.bound * errors[at] / allowed;
    }
    for (std::size_t at = 0; at < patches; ++at)
        found.chain.tolerance.push_back(2 * higher(near[static_cast<std::size_t>(order[at])], near[best[at]]) +
                                        COSINE_NOISE);
    found.chain.sets = {worth(top, own, mean)};
    found.apart = largest(errors), found.turned = largest(used);
    return found;
}

// Is each patch that stands like none that does, and each other like one before it?
Chain stood(const Case &one, const Places &order, const Mask &stands, const Floats &reference, const Floats &errors) {
    const std::size_t patches = reference.size();
    const Matrix similarity = one.similarity(patches);
    const double threshold = one.of_patches("threshold", 1)[0];
    // Of a cosine, and of the mean that it is held against
    const double off = 2 * one.cosine_error() * (1 + number(one.rule, "times"));
    const double rounding = one.eps * largest(reference);
    Chain chain;
    for (std::size_t at = 0; at < patches; ++at) {
        double any = NO_COSINE, sure = NO_COSINE, edge = NO_COSINE;  // of those that stand, that come first, that may
        for (std::size_t other = 0; other < patches; ++other) {
            if (other == at || !stands[other] || order[other] != order[at]) continue;
            const double slack = 2 * higher(errors[at], errors[other]) + rounding;
            const double later = reference[at] - reference[other], alike = similarity[at][other];
            any = higher(any, alike);
            if (later < -slack) sure = higher(sure, alike);
            if (later < slack) edge = higher(edge, alike);
        }
        const double over = stands[at] ? any - threshold : threshold - edge;
        chain.regret.push_back(higher(over, 0));
        chain.margin.push_back(stands[at] ? std::abs(over) : higher(sure - threshold, 0));
        chain.tolerance.push_back(off);
    }
    return chain;
}

// How many of each group are kept, of how many there are and stand.
Places shares(const Places &sizes, const Places &standing, std::int64_t keep, std::int64_t most) {
    const auto total = [](const Places &values) { return std::accumulate(values.begin(), values.end(), std::int64_t{0}); };
    const std::size_t count = sizes.size();
    if (total(sizes) < keep) throw misfit("the groups hold ", total(sizes), " patches, of which ", keep, " are kept");
    Places upper(count), share(count);
    for (std::size_t at = 0; at < count; ++at) upper[at] = std::min({sizes[at], standing[at], most});
    while (total(upper) < keep)
        for (std::size_t at = 0; at < count; ++at) upper[at] = std::min(upper[at] + 1, sizes[at]);
    std::int64_t others = keep, up_to = 0, before = 0;
    for (const auto size : sizes) others -= std::min<std::int64_t>(size, 1);
    const std::int64_t every = total(standing);
    if (every < 1) throw misfit("no patch stands");
    for (std::size_t at = 0; at < count; ++at) {
        up_to += standing[at];
        std::int64_t whole = up_to * others / every;
        const std::int64_t rest = up_to * others % every;
        if (2 * rest > every || (2 * rest == every && whole % 2 == 1)) ++whole;  // halves to the even number
        share[at] = std::min(std::min<std::int64_t>(sizes[at], 1) + whole - before, upper[at]);
        before = whole;
    }
    Places falling = parity::up_to(count);
    std::stable_sort(falling.begin(), falling.end(), [&](auto a, auto b) {
        return standing[static_cast<std::size_t>(a)] > standing[static_cast<std::size_t>(b)];
    });
    for (const auto group : falling) {
        const auto at = static_cast<std::size_t>(group);
        share[at] += std::min(upper[at] - share[at], keep - total(share));
    }
    return share;
}

}  // namespace

Chain groups(const Case &one) {
    const Floats tiers = tiers_of(floats(one.got.at("scores")));
    const auto [reference, error, relative, errors] = compared(one);
    const std::size_t patches = tiers.size();
    const Places order = places(Case::line_of(one.got, "order"));
    if (order.size() != patches) throw misfit("order must be [", patches, "]");
    const Matrix directions = directions_of(one, patches);
    const auto count = static_cast<std::int64_t>(directions.columns);
    if (std::any_of(order.begin(), order.end(), [&](auto group) { return group < 0 || group >= count; }))
        return joined({}, error, relative, {line("order must name one of ", count, " groups")});
    const Mask kept = mask(patches, one.indices());
    Mask stands(patches);
    Places sizes(directions.columns), standing(directions.columns), share(directions.columns);
    bool marked = true, led = true;
    for (std::size_t at = 0; at < patches; ++at) {
        const auto group = static_cast<std::size_t>(order[at]);
        stands[at] = tiers[at] - 2 * std::floor(tiers[at] / 2) == 1;
        marked = marked && (tiers[at] >= 2) == (kept[at] != 0);
        ++sizes[group], standing[group] += stands[at];
    }
    for (std::size_t at = 0; at < sizes.size(); ++at) led = led && (sizes[at] == 0 || standing[at] > 0);
    std::vector<std::string> defects;
    if (!marked) defects.push_back("the scores must mark the kept patches");
    if (!led) defects.push_back("a group must have a patch that stands");
    else share = shares(sizes, standing, static_cast<std::int64_t>(one.keep()), whole_number(one.rule, "most"));
    const Grouped labels = grouped(one, order, directions);
    std::vector<Chain> parts;
    for (std::int64_t group = 0; group < count; ++group) {
        Mask leading(patches), others(patches);
        for (std::size_t at = 0; at < patches; ++at) {
            leading[at] = order[at] == group && stands[at];
            others[at] = order[at] == group && !stands[at];
        }
        const Places first = those(where(kept), leading), rest = those(where(kept), others);
        const auto wanted = share[static_cast<std::size_t>(group)];
        const auto got = static_cast<std::int64_t>(first.size() + rest.size());
        if (got != wanted) defects.push_back(line("group ", group, " must keep ", wanted, " patches, got ", got));
        if (!rest.empty() && first.size() < parity::count(leading))
            defects.push_back(line("group ", group, " must keep all that stand in it before the others"));
        parts.push_back(cut(reference, first, leading, errors, one.eps));
        parts.push_back(cut(reference, rest, others, errors, one.eps));
    }
    Chain chosen = joined(parts);
    chosen.sets = {together(chosen.sets)};
    return joined({labels.chain, stood(one, order, stands, reference, errors), chosen}, largest({error, labels.apart}),
                  largest({relative, labels.turned}), defects + out_of_order(one));
}

}  // namespace edgeprune::parity
