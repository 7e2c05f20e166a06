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
    numbers_are_those_of_numpy();
    return check::done();
}
