// The rules of parity without Python: the example of docs/parity.md, and what does not fit.
#include <cmath>
#include <vector>

#include "check.hpp"
#include "parity/rules.hpp"

namespace {

using namespace edgeprune;
using namespace edgeprune::parity;

const std::vector<float> GAINS{-INFINITY, 0.8F, 0.3F, 0.5F};
const std::vector<std::int32_t> PICKS{3, 1, 2}, KEPT{1, 2, 3};

// Cosines of four patches that stand on a line at 0, 1, 4 and 9: 1 - C is a tenth of the distance.
std::vector<float> on_a_line() {
    std::vector<float> cosines;
    for (const float one : {0.F, 1.F, 4.F, 9.F})
        for (const float other : {0.F, 1.F, 4.F, 9.F}) cosines.push_back(1 - std::abs(one - other) / 10);
    return cosines;
}

void a_wrong_pick_excuses_nothing_behind_it() {
    const std::vector<float> cosines = on_a_line();
    Tensors got, quantities;
    got.set("indices", {EDGEPRUNE_INT32, {3}, KEPT.data()});
    got.set("picks", {EDGEPRUNE_INT32, {3}, PICKS.data()});
    got.set("scores", {EDGEPRUNE_FLOAT32, {4}, GAINS.data()});
    quantities.set("similarity", {EDGEPRUNE_FLOAT32, {4, 4}, cosines.data()});
    const Json rule{{"name", "greedy"}, {"objective", "max-min"}};
    const Case given{got, got, quantities, rule, 1e-2, 1.0 / 1024, 0};
    const Chain chain = greedy(given);
    check::same(chain.wrong(), 1);
    check::same(chain.decided(), 2);
    const double regrets[] = {0, 0.1, 0};
    for (std::size_t at = 0; at < 3; ++at) check::holds(std::abs(chain.regret[at] - regrets[at]) < 1e-6);
    check::holds(chain.error < 1e-6);  // the gains that the device reports are those of its picks

    quantities.set("similarity", {EDGEPRUNE_FLOAT32, {2, 8}, cosines.data()});
    check::same(check::refusal([&] { greedy(given); }),
                "reference.safetensors is not that of the graph (similarity must be [4, 4], got [2, 8]); "
                "export the bundle again");
    const Json other{{"name", "greedy"}, {"objective", "least"}};
    check::holds(!check::refusal([&] { greedy({got, got, quantities, other, 1e-2, 0, 0}); }).empty());
}

void a_cut_regrets_what_it_left_out() {
    const Floats values{9, 8, 5, 4.9, 1};
    check::same(cut(values, {0, 1, 2}, all(5), 0.0, 0).decided(), 3);
    const Chain taken = cut(values, {0, 1, 3}, all(5), 0.0, 0);
    check::same(taken.wrong(), 1);
    check::holds(std::abs(taken.regret[2] - 0.1) < 1e-12);
    check::same(cut(values, {0, 1, 3}, all(5), 0.1, 0).within(), 1);  // 0.1 <= 2 * 0.1
    check::same(cut(values, {0, 1, 2, 3, 4}, all(5), 0.0, 0).decided(), 5);  // nothing was left out
    check::same(cut(values, {0, 1, 3}, all(5), NAN, 0).wrong(), 3);          // an error that is no number excuses none
}

// Six patches; behind one layer four of them go on, and of these two are kept. The example of docs/parity.md.
struct Stepped {
    std::vector<float> tokens{1, 2, 3, 4}, ranked, scores;
    std::vector<std::int32_t> indices{1, 4}, trail;
    Tensors tensors() const {
        Tensors named;
        named.set("tokens", {EDGEPRUNE_FLOAT32, {1, 2, 2}, tokens.data()});
        named.set("indices", {EDGEPRUNE_INT32, {1, 2}, indices.data()});
        named.set("scores", {EDGEPRUNE_FLOAT32, {1, 6}, scores.data()});
        named.set("trail.1", {EDGEPRUNE_INT32, {1, 6}, trail.data()});
        named.set("scores.1", {EDGEPRUNE_FLOAT32, {1, 6}, ranked.data()});
        return named;
    }
};

void behind_a_step_that_differs_within_rounding_nothing_is_decided() {
    const float none = -INFINITY;
    Stepped reference, other;
    reference.ranked = {.1F, .6F, .5F, .24F, .4F, .24002F}, reference.trail = {-1, 0, 1, -1, 2, 3};
    reference.scores = {none, .9F, .1F, none, .5F, .2F};
    other.ranked = {.1F, .6F, .5F, .24002F, .4F, .24F}, other.trail = {-1, 0, 1, 2, 3, -1};
    other.scores = {none, .8F, .1F, .3F, .6F, none}, other.tokens = {9, 9, 9, 9};
    const Json rule{{"name", "topk"}, {"steps", Json::array({{{"name", "topk"}, {"layer", 1}, {"keep", 4}}})}};
    const auto judged = [&](const Stepped &got) {
        return compare(reference.tensors(), got.tensors(), "float32", rule, Tensors(), true);
    };
    const Verdict same = judged(reference), differs = judged(other);
    check::holds(same.passed() && same.decisions == 6 && same.tokens == 2);
    check::holds(differs.passed() && differs.decisions == 6 && differs.within == 1 && differs.tokens == 0);
    check::same(differs.decided, 3);
    other.trail = {-1, 0, 1, 2, 3, 0};
    check::same(judged(other).reasons.front(),
                "a row that does not go on behind layer 1 must be gone, and one that does go on alone");
}

void numbers_are_those_of_numpy() {
    check::holds(std::isnan(largest({0.5, NAN})) && std::isnan(largest({NAN, 0.5})));
    check::same(largest({-1.0}), 0.0);
    const Places falling = ranked({NAN, 2, 1, 2});
    check::holds(falling == Places({2, 1, 3, 0}));
    check::holds(slice(Places{0, 1, 2, 3}, 1, -1) == Places({1, 2}));
    check::holds(slice(Places{0, 1}, 5, 9).empty() && slice(Places{0, 1}, -9, 9).size() == 2);
    check::same(formatted("%.2g", 0.000123456), "0.00012");
    check::same(formatted("%g", 1e-4), "0.0001");
    check::same(formatted("%.3g", INFINITY) + formatted("%.2g", -NAN), "infnan");
    check::holds(check::refusal([] { place(3, 3); }).find("out of bounds") != std::string::npos);
}

}  // namespace

int main() {
    a_wrong_pick_excuses_nothing_behind_it();
    a_cut_regrets_what_it_left_out();
    behind_a_step_that_differs_within_rounding_nothing_is_decided();
    numbers_are_those_of_numpy();
    return check::done();
}
