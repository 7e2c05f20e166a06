// Steps inside the encoder: each one's decisions, and those of the method behind them, in rows in place of patches.
//
//     trail.<layer>    [n + h] the row behind the step that each one is part of, -1 for none; K and above: hidden rows
//     scores.<layer>   [n] what the rows were ranked by: of those that became one, the one of the highest goes on
//     steps of a rule  for each step its rule, `layer`, `keep`, and `hidden` rows behind it, if any
//
// What later layers compute hangs on every earlier step: behind one that differs within rounding decisions count as
// undecided. What a step is by itself holds everywhere, by the device's own scores.
#include "parity/inside.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>

namespace edgeprune::parity {

namespace {

struct StepRule {
    const char *name;
    Chain (*judge)(const Case &);
    Defects (*malformed)(const Case &);  // what no step of this rule does; then nothing is judged
};
constexpr StepRule STEPS[] = {{"topk", topk, undropped},
                              {"pairs", pairs, unpaired},
                              {"joins", joins, unjoined},
                              {"quadrants", quadrants, unquartered},
                              {"energy", energy, unspent},
                              {"halves", halves, unhalved}};

const char *const TRAIL = "trail.", *const RANKED = "scores.";

bool begins(const std::string &name, const std::string &with) { return name.compare(0, with.size(), with) == 0; }

std::int64_t hidden_of(const Json &step) { return step.contains("hidden") ? whole_number(step, "hidden") : 0; }

const View &handed(const Tensors &outputs, const char *what, const Json &step) {
    return outputs.at(name_of_step(what, step));
}

View line_of(const Places &values) {
    return {EDGEPRUNE_INT64, {static_cast<std::int64_t>(values.size())}, values.data()};
}

// The rows of the highest score among those that became one: [keep], several where they are equal, ascending
std::vector<Places> highest_of(const Places &trail, const Floats &scores, std::size_t keep) {
    Floats most(keep, -INFINITE);
    std::vector<Places> rows(keep);
    for (std::size_t at = 0; at < scores.size() && at < trail.size(); ++at) {
        if (trail[at] < 0 || trail[at] >= static_cast<std::int64_t>(keep)) continue;
        const auto into = static_cast<std::size_t>(trail[at]);
        if (rows[into].empty() || scores[at] > most[into]) rows[into].clear(), most[into] = scores[at];
        if (scores[at] == most[into]) rows[into].push_back(static_cast<std::int64_t>(at));
    }
    return rows;
}

// [keep] the row that each one behind the step goes on from. Of equal ones, the first that keeps the rows in raster
// order, if there is one.
Places went_on(const Places &trail, const Floats &scores, std::size_t keep) {
    Places rows;
    std::int64_t before = -1;
    for (const Places &equal : highest_of(trail, scores, keep)) {
        if (equal.empty()) throw misfit("index 0 is out of bounds for axis 0 with size 0");
        const auto later = std::upper_bound(equal.begin(), equal.end(), before);
        before = later == equal.end() ? equal.front() : *later;
        rows.push_back(before);
    }
    return rows;
}

std::size_t count_of(const Json &step) {
    const std::int64_t keep = whole_number(step, "keep");
    if (keep < 0) throw misfit("keep of a step must be a count");
    return static_cast<std::size_t>(keep);
}

// Of one side at a step: trail, scores, and `indices`, the rows that go on
struct Side {
    Side(const Tensors &given, const Json &step) {
        const View &trail = handed(given, TRAIL, step), &scores = handed(given, RANKED, step);
        if (count_of(step) > length(scores)) throw misfit("a step must shorten the sequence");
        indices = went_on(places(trail), floats(scores), count_of(step));
        outputs.set("trail", trail), outputs.set("scores", scores), outputs.set("indices", line_of(indices));
    }
    Places indices;
    Tensors outputs;
};

// Of a step, or those of the method behind them
Tensors quantities_of(const Tensors &every, const std::string &prefix) {
    Tensors own;
    for (const auto &[name, value] : every) {
        const std::string layer = name.substr(0, name.find('.'));
        const bool step = !layer.empty() && std::all_of(layer.begin(), layer.end(), [](unsigned char one) {
            return std::isdigit(one);
        });
        if (prefix.empty() ? !step : begins(name, prefix)) own.set(name.substr(prefix.size()), value);
    }
    return own;
}

// As many decisions, of which nothing can be said
Chain undecided(const Chain &chain) {
    const Floats none(chain.regret.size(), 0.0);
    return {none, Floats(none.size(), INFINITE), none, 0, 0, {}};
}

// [N] patches that a row behind the last step may go under: of the highest score at every step
Mask named(const Tensors &outputs, const Json &steps) {
    Places at = up_to(length(outputs.at("scores")));
    Mask may(at.size(), 1);
    for (const Json &step : steps) {
        const Places trail = places(handed(outputs, TRAIL, step));
        Mask highest(trail.size(), 0);
        for (const Places &rows : highest_of(trail, floats(handed(outputs, RANKED, step)), count_of(step)))
            for (const auto row : rows) highest[static_cast<std::size_t>(row)] = 1;
        for (std::size_t patch = 0; patch < at.size(); ++patch) {
            may[patch] = may[patch] && at[patch] >= 0 && highest[place(at[patch], highest.size())];
            at[patch] = at[patch] < 0 ? -1 : trail[place(at[patch], trail.size())];
        }
    }
    return may;
}

// Shapes and numbers of the steps
Defects no_steps(const Tensors &outputs, const Json &steps, std::size_t patches) {
    auto rows = static_cast<std::int64_t>(patches);
    std::int64_t hidden = 0;
    for (const Json &step : steps) {
        const std::int64_t layer = whole_number(step, "layer"), keep = whole_number(step, "keep");
        const std::int64_t remains = hidden_of(step);
        const View &trail = handed(outputs, TRAIL, step), &scores = handed(outputs, RANKED, step);
        using Shape = std::vector<std::int64_t>;
        if (trail.shape != Shape{rows + hidden} || scores.shape != Shape{rows} || !whole(trail.dtype))
            return {line("trail.", layer, " must be [", rows + hidden, "] whole numbers, and scores.", layer, " [", rows,
                         "]")};
        if (keep < 1 || keep > rows || remains < 0)
            return {line("behind layer ", layer, " there must be 1..", rows, " rows, got ", keep)};
        const Places went = places(trail);
        const auto [least, most] = std::minmax_element(went.begin(), went.end());
        if (*least < -1 || *most >= keep + remains)
            return {line("trail.", layer, " must lie in -1..", keep + remains - 1, ", got ", *least, "..", *most)};
        const Floats ranked = floats(scores);
        const auto groups = highest_of(went, ranked, static_cast<std::size_t>(keep));
        const auto empty = std::count_if(groups.begin(), groups.end(), [](const Places &one) { return one.empty(); });
        if (empty) return {line("trail.", layer, " must fill ", keep, " rows behind the step; ", empty, " are empty")};
        const Places on = went_on(went, ranked, static_cast<std::size_t>(keep));
        for (std::size_t at = 1; at < on.size(); ++at)
            if (on[at] <= on[at - 1]) return {line("the rows behind layer ", layer, " must stay in raster order")};
        rows = keep, hidden = remains;
    }
    return {};
}

}  // namespace

const Json &steps_of(const Json &rule) {
    static const Json none = Json::array();
    if (!said(rule, "steps")) return none;
    const Json &steps = rule.at("steps");
    const auto is_step = [](const Json &one) {
        return one.is_object() && one.contains("layer") && one["layer"].is_number_integer() && one.contains("name") &&
               is_step_rule(one["name"]);
    };
    if (!steps.is_array() || !std::all_of(steps.begin(), steps.end(), is_step)) throw misfit("'steps'");
    return steps;
}

std::string name_of_step(const char *what, const Json &step) { return what + std::to_string(whole_number(step, "layer")); }

bool is_of_step(const std::string &name) { return begins(name, TRAIL) || begins(name, RANKED); }

std::string step_rule_names() {
    std::string names;
    for (const StepRule &rule : STEPS) names += (names.empty() ? "" : ", ") + std::string(rule.name);
    return names;
}

bool is_step_rule(const Json &name) {
    if (!name.is_string()) return false;
    return std::any_of(std::begin(STEPS), std::end(STEPS),
                       [&](const StepRule &rule) { return name.get_ref<const std::string &>() == rule.name; });
}

bool followed(const Tensors &reference, const Tensors &got) {
    return std::all_of(reference.begin(), reference.end(), [&](const auto &one) {
        return !begins(one.first, TRAIL) || equal(one.second, got.at(one.first));
    });
}

Places places_behind(const Tensors &outputs, const Json &steps) {
    Places at = up_to(length(outputs.at("scores")));
    for (const Json &step : steps) {
        const Places trail = places(handed(outputs, TRAIL, step));
        for (auto &row : at) row = row < 0 ? -1 : trail[place(row, trail.size())];
    }
    return at;
}

Defects astray(const Tensors &outputs, const Json &steps, bool gains) {
    const Floats scores = floats(outputs.at("scores"));
    if (Defects found = no_steps(outputs, steps, scores.size()); !found.empty()) return found;
    const Places at = places_behind(outputs, steps), indices = places(outputs.at("indices"));
    const std::size_t rows = count_of(steps.back());
    const Mask may = named(outputs, steps);
    bool only = true;
    for (const auto patch : indices) only = only && may[place(patch, may.size())];
    for (std::size_t patch = 0; patch < may.size(); ++patch) only = only && (may[patch] || !std::isfinite(scores[patch]));
    if (!only) return {"only patches that a row goes under may be kept, and have scores; others do"};
    Places count(rows, 0);
    for (std::size_t patch = 0; patch < may.size(); ++patch)
        if (std::isfinite(scores[patch])) ++count[place(at[patch], rows)];
    const auto [fewest, most] = std::minmax_element(count.begin(), count.end());
    if (*most > 1 || !(gains || *fewest == 1)) return {"every row behind the last step must have the score of one patch"};
    if (const View *origin = outputs.find("origin")) {
        Places token(rows, -1), wanted;
        for (std::size_t place_of = 0; place_of < indices.size(); ++place_of)
            token[place(at[static_cast<std::size_t>(indices[place_of])], rows)] = static_cast<std::int64_t>(place_of);
        for (const auto row : at)
            wanted.push_back(row < 0 || row >= static_cast<std::int64_t>(rows) ? -1 : token[static_cast<std::size_t>(row)]);
        if (!equal(*origin, line_of(wanted))) return {"origin must be where the trails took each patch"};
    }
    return {};
}

InRows::InRows(const Tensors &given, const Json &steps) : outputs(given) {
    const Places at = places_behind(given, steps);
    const Floats ranks = floats(given.at("scores"));
    scores.assign(count_of(steps.back()), -static_cast<float>(INFINITE));
    for (std::size_t patch = 0; patch < at.size(); ++patch)
        if (std::isfinite(ranks[patch])) scores[place(at[patch], scores.size())] = static_cast<float>(ranks[patch]);
    outputs.set("scores", {EDGEPRUNE_FLOAT32, {static_cast<std::int64_t>(scores.size())}, scores.data()});
    indices = taken(at, places(given.at("indices")));
    outputs.set("indices", line_of(indices));
    if (const View *chosen = given.find("picks")) {
        picks = taken(at, places(*chosen));
        outputs.set("picks", line_of(picks));
    }
}

Chain with_steps(const Case &one, const Json &steps, Chain (*method)(const Case &)) {
    std::vector<Chain> chains;
    bool same = true;
    for (const Json &step : steps) {
        const auto rule = std::find_if(std::begin(STEPS), std::end(STEPS), [&](const StepRule &known) {
            return step["name"].get_ref<const std::string &>() == known.name;
        });
        const Side reference(one.reference, step), got(one.got, step);
        const Tensors quantities = quantities_of(one.quantities, std::to_string(whole_number(step, "layer")) + ".");
        const Case given{reference.outputs, got.outputs, quantities, step, one.bound, one.eps, one.unseen};
        if (Defects defects = rule->malformed(given); !defects.empty()) {
            chains.push_back({{}, {}, {}, 0, 0, defects});
            same = false;
            break;
        }
        if (!same) {
            chains.push_back(undecided(rule->judge(
                {reference.outputs, reference.outputs, quantities, step, one.bound, one.eps, one.unseen})));
            continue;
        }
        Chain chain = rule->judge(given);
        if (!equal(reference.outputs.at("trail"), got.outputs.at("trail"))) {
            same = false;
            bool explained = false;
            for (std::size_t at = 0; at < chain.regret.size(); ++at)
                explained = explained || !(chain.regret[at] <= 0) || !(chain.margin[at] > 0);
            if (!explained)
                chain.defects.push_back(line("trail.", whole_number(step, "layer"),
                                             " is not the reference's, though every decision of it is"));
        }
        chains.push_back(std::move(chain));
    }
    const InRows reference(one.reference, steps);
    const Tensors own = quantities_of(one.quantities, "");
    if (same) {
        const InRows got(one.got, steps);
        chains.push_back(method({reference.outputs, got.outputs, own, one.rule, one.bound, one.eps, one.unseen}));
    } else {
        chains.push_back(undecided(
            method({reference.outputs, reference.outputs, own, one.rule, one.bound, one.eps, one.unseen})));
    }
    return joined(chains);
}

}  // namespace edgeprune::parity
